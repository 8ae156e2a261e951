"""Entities of pages are learnt by the ordinary loop; where words stand tells apart what their order does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from ner_service.model.config import RoFormerConfig
from ner_service.recognizer import Recognizer
from ner_service.types import Box, Document, Entity, Page
from tests.training.objectives.test_spans import objective_of
from tests.training.runs import setup_of
from training.evaluation import compare, predict
from training.preparation import Setup

WORDS = ("due", "7", "7")
ROW: tuple[Box, ...] = ((0, 0, 30, 10), (40, 0, 50, 10), (80, 40, 90, 50))
COLUMN: tuple[Box, ...] = ((0, 0, 30, 10), (40, 40, 50, 50), (80, 0, 90, 10))


def page(boxes: tuple[Box, ...], first: int) -> Document:
    """The number on the line of "due" is the sum: the one that starts at `first`."""
    found = Page(WORDS, boxes, (100, 100))
    return Document(found.text, (Entity(first, first + 1, "sum"),), page=found)


DOCUMENTS = (page(ROW, 4), page(COLUMN, 6))


def with_axes(num_axes: Literal[1, 2]) -> Setup:
    setup = setup_of(DOCUMENTS, ("sum",))
    encoder = setup.config.encoder
    assert isinstance(encoder, RoFormerConfig)
    config = replace(setup.config, encoder=replace(encoder, num_axes=num_axes))
    return replace(setup, config=config)


def learn(setup: Setup, num_steps: int = 200) -> tuple[float, Recognizer]:
    """The loss after so many steps on both pages together, and the model."""
    objective, model, examples = objective_of(setup)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = objective.loss(examples)
        loss.backward()
        optimizer.step()
    return objective.loss(examples).item(), setup.recognizer(model.float())


def test_two_axes_learn_what_only_places_tell() -> None:
    loss, recognizer = learn(with_axes(2))
    assert loss < 0.5
    assert compare(DOCUMENTS, predict(recognizer, DOCUMENTS)).micro.f1 == 1.0


def test_one_axis_cannot() -> None:
    """Both pages are one text: each of the two spans is gold once and none once, and log 2 is the least for either."""
    loss, recognizer = learn(with_axes(1))
    assert loss > 4 * torch.tensor(2.0).log().item() - 1e-6
    first, second = predict(recognizer, DOCUMENTS)
    assert first == second


@pytest.mark.parametrize("num_axes", [1, 2])
def test_pages_and_texts_share_a_batch(num_axes: Literal[1, 2]) -> None:
    """The loss of a batch is that of its documents alone, padded as they are."""
    setup = with_axes(num_axes)
    plain = Document("due 7 on the seventh of the month", (Entity(4, 5, "sum"),))
    both = replace(setup, corpus=replace(setup.corpus, train=(*DOCUMENTS, plain)))
    objective, _, examples = objective_of(both)
    alone = sum(objective.loss([example]).item() for example in examples)
    assert objective.loss(examples).item() == pytest.approx(alone, rel=1e-12)
