"""Mentions as tags and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy.tags import NO_TAG, Rule, entities_of, num_tags, outermost, tags_of
from ner_service.types import Encoding, Entity, LabelSet, Window
from tests.strategies import LABELS, flat_entities, texts

NAMES = LabelSet(LABELS)  # person, place, group
O, B_PERSON, I_PERSON, B_PLACE, I_PLACE = range(5)  # noqa: E741


def window_of(text: str, start: int = 0) -> Window:
    """A token a character, between two that cover none."""
    offsets = ((0, 0), *((i, i + 1) for i in range(len(text))), (0, 0))
    return Window(start, start + len(text), Encoding(tuple(range(len(offsets))), offsets))


def test_a_tag_for_no_label_and_two_for_each() -> None:
    assert num_tags(NAMES) == 7


def test_tags_of_a_text() -> None:
    mentions = [Entity(0, 2, "person"), Entity(2, 3, "person"), Entity(4, 6, "place")]
    assert tags_of(window_of("abcdef"), mentions, NAMES) == (
        NO_TAG, B_PERSON, I_PERSON, B_PERSON, O, B_PLACE, I_PLACE, NO_TAG,
    )  # fmt: skip


def test_a_token_belongs_to_the_mention_that_its_characters_lie_in() -> None:
    """Two tokens, "New" and "Yorkers": the mention "New York" ends within the second, so the first alone is tagged."""
    window = Window(0, 11, Encoding((0, 1), ((0, 3), (4, 11))))
    assert tags_of(window, [Entity(0, 8, "place")], NAMES) == (B_PLACE, O)


def test_a_mention_that_a_window_cuts_is_tagged_in_both() -> None:
    mention = [Entity(2, 6, "place")]
    assert tags_of(window_of("abcd"), mention, NAMES)[1:-1] == (O, O, B_PLACE, I_PLACE)
    assert tags_of(window_of("efgh", start=4), mention, NAMES)[1:-1] == (B_PLACE, I_PLACE, O, O)


def test_a_label_that_is_not_the_runs_is_no_mention() -> None:
    assert tags_of(window_of("ab"), [Entity(0, 2, "animal")], NAMES)[1:-1] == (O, O)


@pytest.mark.parametrize(
    ("tags", "repaired", "strict"),
    [
        ((O, I_PERSON, I_PERSON), [(1, 3, "person")], []),
        ((B_PERSON, I_PLACE, I_PLACE), [(0, 1, "person"), (1, 3, "place")], [(0, 1, "person")]),
        ((B_PERSON, O, I_PERSON), [(0, 1, "person"), (2, 3, "person")], [(0, 1, "person")]),
        ((B_PERSON, I_PERSON, B_PERSON), [(0, 2, "person"), (2, 3, "person")], [(0, 2, "person"), (2, 3, "person")]),
    ],
)
def test_the_two_rules(
    tags: tuple[int, ...], repaired: list[tuple[int, int, str]], strict: list[tuple[int, int, str]]
) -> None:
    encoding = window_of("abc").encoding
    framed = (B_PLACE, *tags, I_PLACE)  # what a tagger says of tokens without characters does not count
    for rule, expected in (("repaired", repaired), ("strict", strict)):
        assert entities_of(framed, encoding, NAMES, rule) == [Entity(*entity) for entity in expected]  # type: ignore[arg-type]


@given(
    texts().filter(bool).flatmap(lambda text: st.tuples(st.just(text), flat_entities(text))),
    st.sampled_from(("repaired", "strict")),
)
def test_flat_mentions_come_back(drawn: tuple[str, list[Entity]], rule: Rule) -> None:
    text, mentions = drawn
    window = window_of(text)
    assert entities_of(tags_of(window, mentions, NAMES), window.encoding, NAMES, rule) == mentions


def test_the_longest_of_nested_mentions_is_what_tags_say() -> None:
    inner, outer, apart = Entity(0, 2, "place"), Entity(0, 5, "group"), Entity(6, 7, "person")
    assert outermost([inner, outer, apart]) == [outer, apart]
