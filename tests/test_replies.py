"""Entities of pages as answers show them, whatever order the client's words were in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ner_service.replies import page_entity_replies
from ner_service.types import Box, Document, Entity, Page, codepoints_to_words
from tests.strategies import page_documents

PAGE = Page(("a", "b", "c", "d"), ((0, 0, 1, 1), (1, 0, 2, 1), (2, 0, 3, 1), (3, 0, 4, 1)), (4, 1))


def test_an_entity_whose_words_stand_apart_at_the_client_keeps_its_own() -> None:
    outer, inner = Entity(0, 5, "X", 0.5), Entity(2, 5, "Y", 0.25)  # "a b c" and "b c"
    first, second = page_entity_replies(PAGE, (3, 1, 0, 2), [outer, inner])
    # The client's words 1 and 0 are an answer of their own; 3 is far from them, 2 is no part of either.
    assert first == {
        "start": 0,
        "end": 4,
        "text": "a b c",
        "label": "X",
        "score": 0.5,
        "parent": None,
        "depth": 0,
        "words": [3, 1, 0],
        "boxes": [(0, 0, 1, 1), (1, 0, 2, 1), (2, 0, 3, 1)],
    }
    assert (second["start"], second["end"], second["words"], second["parent"]) == (0, 2, [1, 0], 0)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_where_the_client_s_words_stand_together_the_range_says_all(order: tuple[int, ...]) -> None:
    (reply,) = page_entity_replies(PAGE, order, [Entity(2, 5, "X", 0.5)])
    assert sorted(reply["words"]) == list(range(reply["start"], reply["end"])) == [1, 2]


def test_the_parent_is_the_one_of_the_fewest_words() -> None:
    """Of two that are as long in characters, in the order where the other is the first."""
    box: Box = (0, 0, 1, 1)
    page = Page(("a", "a", "a", "a", "a", "aaa"), (box,) * 6, (9, 9))
    entities = [Entity(0, 9, "X", 0.5), Entity(4, 13, "X", 0.5), Entity(4, 5, "X", 0.5)]
    replies = page_entity_replies(page, range(6), entities)
    assert [(reply["words"], reply["parent"]) for reply in replies] == [
        ([0, 1, 2, 3, 4], None),
        ([2, 3, 4, 5], None),
        ([2], 1),
    ]


@given(page_documents(), st.randoms())
def test_answers_name_the_client_s_words(document: Document, random: object) -> None:
    page = document.page
    assert page is not None
    order = list(range(len(page.words)))
    random.shuffle(order)  # type: ignore[attr-defined]
    entities = [replace(entity, score=0.5) for entity in document.entities]
    replies = page_entity_replies(page, order, entities)
    expected = []
    for entity in entities:
        first, end = codepoints_to_words(page, entity.start, entity.end)
        expected.append((entity.label, order[first:end], list(page.boxes[first:end])))
    assert sorted((r["label"], r["words"], r["boxes"]) for r in replies) == sorted(expected)
    keys = [(reply["start"], -reply["end"]) for reply in replies]
    assert keys == sorted(keys)
    for reply in replies:
        assert (reply["start"], reply["end"]) == (min(reply["words"]), max(reply["words"]) + 1)
        around = [other for other in replies if set(reply["words"]) < set(other["words"])]
        if reply["parent"] is None:
            assert not around
            continue
        parent = replies[reply["parent"]]
        assert len(parent["words"]) == min(len(other["words"]) for other in around)
        assert set(reply["words"]) < set(parent["words"])
        assert reply["depth"] == parent["depth"] + 1
