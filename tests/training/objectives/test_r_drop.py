"""R-Drop in the loss of spans, cell by cell. In fp64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from ner_service.model.batch import pad
from ner_service.model.config import RoFormerConfig
from ner_service.types import Document, Entity
from tests.training.runs import is_left_out, setup_of
from training.config import RegularisationConfig
from training.data.targets import Example, encode_documents
from training.objectives.spans import SpansObjective

LABELS = ("person", "place")
DOCUMENTS = (
    Document("Ann saw Visby.", (Entity(0, 3, "person"), Entity(8, 13, "place"))),
    Document("Nobody came to see the harbour that day."),
    Document("Bo of Visby", (Entity(0, 11, "person"),), flat=True),
    Document("Bo slept", (Entity(0, 2, "person"),), annotated=frozenset({"person"})),
)


def spans_of(dropout: float, alpha: float) -> tuple[SpansObjective, list[Example]]:
    """Spans in fp64, with R-Drop of strength `alpha`, and their examples as one batch."""
    setup = setup_of(DOCUMENTS, LABELS)
    encoder = replace(cast(RoFormerConfig, setup.config.encoder), dropout=dropout)
    run = replace(setup.run, regularisation=RegularisationConfig(r_drop=alpha))
    setup = replace(setup, run=run, config=replace(setup.config, encoder=encoder))
    examples, _ = encode_documents(setup.corpus.train, setup.tokenizer, setup.run.window, setup.corpus.labels)
    return SpansObjective(setup, setup.build_model().double().train(), Accelerator(cpu=True)), examples


def loss_by_hand(first: Tensor, second: Tensor, document: Document, example: Example, alpha: float) -> float:
    """Of a document and its one window: for each annotated label the mean loss of two passes, and alpha/4 of the mean
    over valid cells of (sigmoid(a) - sigmoid(b)) (a - b).
    """
    total = 0.0
    for label in (label for label in range(len(LABELS)) if example.annotated[label]):
        cells = [(start, end) for start in range(len(example)) for end in range(start, len(example))]
        valid = [cell for cell in cells if not is_left_out(document, example, LABELS[label], *cell)]
        scores = [[float(grid[label, start, end]) for start, end in valid] for grid in (first, second)]
        gold = [(label, *cell) in example.cells for cell in valid]
        for passed in scores:
            negatives = sum(math.exp(score) for score, hit in zip(passed, gold, strict=True) if not hit)
            positives = sum(math.exp(-score) for score, hit in zip(passed, gold, strict=True) if hit)
            total += (math.log1p(negatives) + math.log1p(positives)) / 2
        differences = [(_sigmoid(a) - _sigmoid(b)) * (a - b) for a, b in zip(*scores, strict=True)]
        total += alpha / 4 * sum(differences) / len(differences)
    return total


def _sigmoid(score: float) -> float:
    return 1.0 / (1.0 + math.exp(-score))


def test_r_drop_by_hand() -> None:
    """GP-16 in the loss: texts of several lengths, a flat one, one that is annotated for one label alone."""
    objective, examples = spans_of(dropout=0.4, alpha=20.0)
    torch.manual_seed(4)
    found = objective.loss(examples).item()
    torch.manual_seed(4)
    inputs = pad([example.encoding.token_ids for example in examples], objective.tokenizer.pad_id)
    with torch.no_grad():
        grids = [objective.model(inputs), objective.model(inputs)]
    by_text = list(zip(grids[0], grids[1], DOCUMENTS, examples, strict=True))
    assert found == pytest.approx(sum(loss_by_hand(*text, 20.0) for text in by_text), rel=1e-9)
    assert found > sum(loss_by_hand(*text, 0.0) for text in by_text) * 1.001


def test_r_drop_costs_nothing_where_both_passes_agree() -> None:
    """Without dropout, and in evaluation."""
    still = spans_of(dropout=0.0, alpha=4.0)
    plain = spans_of(dropout=0.0, alpha=0.0)
    assert still[0].loss(still[1]).item() == plain[0].loss(plain[1]).item()
    measured = spans_of(dropout=0.4, alpha=4.0)
    measured[0].model.eval()
    assert measured[0].loss(measured[1]).item() == plain[0].loss(plain[1]).item()


def test_without_r_drop_there_is_one_pass() -> None:
    objective, examples = spans_of(dropout=0.4, alpha=0.0)
    passes: list[object] = []
    objective.model.register_forward_hook(lambda *_: passes.append(None))
    torch.manual_seed(4)
    found = objective.loss(examples).item()
    assert len(passes) == 1
    other, _ = spans_of(dropout=0.4, alpha=1e-9)
    torch.manual_seed(4)
    assert other.loss(examples).item() != found
