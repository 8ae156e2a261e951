"""The objective of recognition: its loss, its gradient, and what takes no part in it. In fp64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from ner_service.model.batch import pad
from ner_service.model.config import HeadConfig
from ner_service.model.text_model import TextModel
from ner_service.types import Document, Entity
from tests.training.runs import is_left_out, setup_of
from training.config import BatchConfig
from training.data.targets import Example, encode_documents
from training.objectives.spans import SpansObjective
from training.preparation import Setup

LABELS = ("person", "place", "group")
PERSON, PLACE, GROUP = range(3)
DOCUMENTS = (
    Document("Ann saw Visby.", (Entity(0, 3, "person"), Entity(8, 13, "place"))),
    Document("北京大学在北京。", (Entity(0, 4, "group"), Entity(0, 2, "place"), Entity(5, 7, "place"))),
    Document("Nobody came to see the harbour that day."),
    Document("Bo of Visby", (Entity(0, 2, "person"), Entity(0, 11, "person")), annotated=frozenset({"person"})),
)
HEADS = {kind: HeadConfig(kind=kind, head_size=8) for kind in ("global_pointer", "efficient_global_pointer")}


def objective_of(setup: Setup) -> tuple[SpansObjective, TextModel, list[Example]]:
    model = setup.build_model().double()
    examples, _ = encode_documents(setup.corpus.train, setup.tokenizer, setup.run.window, setup.corpus.labels)
    return SpansObjective(setup, model, Accelerator(cpu=True)), model, examples


@pytest.fixture(params=HEADS)
def setup(request: pytest.FixtureRequest) -> Setup:
    return setup_of(DOCUMENTS, LABELS, HEADS[request.param])


def dense_loss(setup: Setup, model: TextModel, document: Document, example: Example) -> float:
    """The formula, cell by cell, of a document and its one window: sum over annotated labels of
    log(1 + sum over negatives of e^s) + log(1 + sum over positives of e^-s).
    """
    with torch.no_grad():
        grid = model(pad([example.encoding.token_ids], setup.tokenizer.pad_id))[0]
    total = 0.0
    for label in range(len(LABELS)):
        if not example.annotated[label]:
            continue
        negatives = positives = 1.0
        for first in range(len(example)):
            for last in range(first, len(example)):
                score = float(grid[label, first, last])
                if (label, first, last) in example.cells:
                    positives += torch.tensor(-score, dtype=torch.float64).exp().item()
                elif not is_left_out(document, example, LABELS[label], first, last):
                    negatives += torch.tensor(score, dtype=torch.float64).exp().item()
        total += torch.tensor([negatives, positives], dtype=torch.float64).log().sum().item()
    return total


def test_the_loss_is_the_formula(setup: Setup) -> None:
    objective, model, examples = objective_of(setup)
    expected = sum(dense_loss(setup, model, *pair) for pair in zip(setup.corpus.train, examples, strict=True))
    assert objective.loss(examples).item() == pytest.approx(expected, rel=1e-12)
    assert expected > 10


def test_a_wrong_gold_cell_changes_the_loss(setup: Setup) -> None:
    objective, model, examples = objective_of(setup)
    label, first, last = examples[0].cells[0]
    moved = replace(examples[0], cells=((label, first, last + 1), *examples[0].cells[1:]))
    assert objective.loss([moved]).item() != pytest.approx(
        dense_loss(setup, model, setup.corpus.train[0], examples[0]), rel=1e-6
    )


def test_cells_inside_a_flat_mention_of_another_label_take_no_part() -> None:
    flat = [replace(document, flat=True) for document in DOCUMENTS]
    setup = setup_of(flat, LABELS)
    objective, model, examples = objective_of(setup)
    expected = sum(dense_loss(setup, model, *pair) for pair in zip(setup.corpus.train, examples, strict=True))
    assert objective.loss(examples).item() == pytest.approx(expected, rel=1e-12)
    nested = [replace(example, covered=()) for example in examples]
    assert objective.loss(nested).item() > expected + 1e-3


def test_a_gold_entity_inside_a_flat_mention_stays_gold() -> None:
    """Its cell has a score of its own, or the loss would be infinite."""
    document = replace(DOCUMENTS[1], flat=True)
    setup = setup_of([document], LABELS)
    objective, model, [example] = objective_of(setup)
    assert (GROUP, 1, 4) in example.cells
    assert (PLACE, 1, 2) in example.cells
    assert objective.loss([example]).item() == pytest.approx(dense_loss(setup, model, document, example), rel=1e-12)


def gradients(objective: SpansObjective, model: TextModel, batches: list[list[Example]]) -> dict[str, Tensor]:
    model.zero_grad()
    scale = 1.0 / sum(objective.count(batch) for batch in batches)
    for batch in batches:
        objective.backward([batch], scale)
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_accumulated_batches_have_the_gradient_of_one(setup: Setup) -> None:
    objective, model, examples = objective_of(setup)
    one = {name: grad.clone() for name, grad in gradients(objective, model, [examples]).items()}
    parts = gradients(objective, model, [examples[:1], examples[1:]])
    for name, grad in one.items():
        torch.testing.assert_close(parts[name], grad, rtol=1e-9, atol=1e-14)
    half = gradients(objective, model, [examples[:2]])
    assert (half["spans.dense.weight"] - one["spans.dense.weight"]).abs().max() > 1e-3


def test_a_batch_counts_its_annotated_labels(setup: Setup) -> None:
    objective, _, examples = objective_of(setup)
    assert [objective.count([example]) for example in examples] == [3.0, 3.0, 3.0, 1.0]
    assert objective.count(examples) == 10.0
    assert objective.num_tokens(examples) == sum(len(example.encoding.token_ids) for example in examples)


def own_rows(model: TextModel, label: int) -> list[tuple[str, slice]]:
    """The rows of the head's parameters that belong to one label."""
    if hasattr(model.spans, "terms"):
        return [(f"spans.terms.{kind}", slice(2 * label, 2 * label + 2)) for kind in ("weight", "bias")]
    width = 2 * model.spans.head_size
    return [(f"spans.dense.{kind}", slice(width * label, width * (label + 1))) for kind in ("weight", "bias")]


def test_a_label_that_is_not_annotated_gets_no_gradient(setup: Setup) -> None:
    objective, model, examples = objective_of(setup)
    found = gradients(objective, model, [[examples[3]]])
    for label in range(3):
        for name, rows in own_rows(model, label):
            assert bool(found[name][rows].any()) == (label == PERSON), (name, label)


def test_a_label_that_is_not_annotated_is_no_negative(setup: Setup) -> None:
    """However sure the model is of that label everywhere, the loss does not see it."""
    objective, model, examples = objective_of(setup)
    before = objective.loss([examples[3]]).item(), objective.loss([examples[0]]).item()
    with torch.no_grad():
        parameters = dict(model.named_parameters())
        for name, rows in own_rows(model, GROUP):
            parameters[name][rows] += 3.0
    assert objective.loss([examples[3]]).item() == before[0]
    assert objective.loss([examples[0]]).item() > before[1] + 1.0


def test_batches_of_an_epoch_are_the_same_every_time(setup: Setup) -> None:
    run = replace(setup.run, data=replace(setup.run.data, join=0.5), batch=BatchConfig(tokens=40))
    setup = replace(setup, run=run)
    objective, _, _ = objective_of(setup)
    assert objective.steps(1) == objective.steps(1)
    orders = {tuple(tuple(e.encoding.token_ids for e in batch) for (batch,) in objective.steps(i)) for i in range(8)}
    assert len(orders) > 1
