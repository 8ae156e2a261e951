"""Entities on another text: every mention as often as in the source, nested as there, or a reason why not."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ner_service.types import Document, Entity
from tests.strategies import documents
from training.data.projection import Mentions, bare, find_mentions


def read(marked: str) -> Document:
    """The document of a sentence such as "[PER Ann] left [ORG Bank of [LOC Oslo]]"."""
    text, entities, opened = "", [], []
    for piece in re.findall(r"\[[A-Z]+ |\]|[^\[\]]+", marked):
        if piece.startswith("["):
            opened.append((len(text), piece[1:-1]))
        elif piece == "]":
            start, label = opened.pop()
            entities.append(Entity(start, len(text), label))
        else:
            text += piece
    return Document(text=text, entities=tuple(sorted(entities, key=lambda entity: entity.key)))


def projected(source: str, text: str) -> list[tuple[str, str]] | str:
    """Mentions and labels on a text, or why there are none."""
    mentions = Mentions.of(read(source))
    assert mentions is not None
    found = mentions.project(text)
    return found if isinstance(found, str) else [(text[entity.start : entity.end], entity.label) for entity in found]


def test_entities_are_ranges_of_the_new_text() -> None:
    text = "In Leeds has Ada Park her home."
    mentions = Mentions.of(read("[PER Ada Park] lives in [LOC Leeds]."))
    assert mentions is not None
    assert mentions.project(text) == (Entity(3, 8, "LOC"), Entity(13, 21, "PER"))


@pytest.mark.parametrize(
    ("source", "text", "mention"),
    [
        ("[PER Ada Park] left", "Gone is Ada  Park", "Ada  Park"),
        ("[PER AdaPark] left", "Gone is Ada Park", "Ada Park"),
        ("[ORG Ｂ２公司]开业", "B2公司关门", "B2公司"),
        ("[ORG B2公司]开业", "Ｂ２ 公司关门", "Ｂ２ 公司"),
        ("[ORG 株式会社]です", "㍿でした", "㍿"),
        ("[PER Zoe\u0308] left", "Here is Zo\u00eb", "Zo\u00eb"),
        ("[PER  Ann ] left", "Here is Ann.", "Ann"),
    ],
)
def test_white_space_and_compatibility_forms_do_not_count(source: str, text: str, mention: str) -> None:
    found = projected(source, text)
    assert not isinstance(found, str)
    assert [name for name, _ in found] == [mention]


def test_nested_entities_stay_nested() -> None:
    source = "[PER Tom] works for the [ORG Bank of [LOC Oslo]]."
    assert projected(source, "The Bank of Oslo pays Tom.") == [("Bank of Oslo", "ORG"), ("Oslo", "LOC"), ("Tom", "PER")]


def test_a_span_may_have_two_labels() -> None:
    document = Document("Ann ran", (Entity(0, 3, "AUTHOR"), Entity(0, 3, "PER")))
    mentions = Mentions.of(document)
    assert mentions is not None
    assert mentions.project("So ran Ann") == (Entity(7, 10, "AUTHOR"), Entity(7, 10, "PER"))


@pytest.mark.parametrize(
    "text",
    [
        "Ann saw nobody.",
        "Ann saw Bo and Bo.",
        "Ann saw Ann and Bo.",
        "ann saw Bo.",
        "Annual visits of Bo.",
        "JoAnn saw Bo.",
        "Ann4 saw Bo.",
        "Anne\u0301 saw Bo.",
        "Ann\u0301 saw Bo.",
        "",
    ],
)
def test_a_mention_missing_added_or_inside_a_word_is_refused(text: str) -> None:
    assert projected("[PER Ann] met [PER Bo].", text) == "entities"


def test_the_same_mentions_are_not_refused() -> None:
    """The must-fail twin; a Chinese neighbour makes no word of a mention."""
    for text in ("Bo was met by Ann.", "(Ann) 'Bo'", "看Ann和Bo"):
        assert not isinstance(projected("[PER Ann] met [PER Bo].", text), str)


def test_a_mention_inside_a_word_of_the_source_stays_inside_one() -> None:
    source = "the [ORG Nord]bank"
    assert projected(source, "a Nordbank") == [("Nord", "ORG")]
    assert projected(source, "a Nord bank") == "entities"


def test_part_of_a_character_is_no_mention() -> None:
    assert projected("[ORG 会社]へ", "㍿へ") == "entities"


def test_mentions_that_come_to_overlap_are_refused() -> None:
    source = "[LOC 北京大]门 [ORG 大学]路"
    assert projected(source, "路大学门北京大") == [("大学", "ORG"), ("北京大", "LOC")]
    assert projected(source, "北京大学") == "overlap"


def test_mentions_that_cross_as_in_the_source_are_kept() -> None:
    document = Document("在北京大学", (Entity(1, 4, "LOC"), Entity(3, 5, "ORG")))
    mentions = Mentions.of(document)
    assert mentions is not None
    assert mentions.project("北京大学去") == (Entity(0, 3, "LOC"), Entity(2, 4, "ORG"))
    assert mentions.project("去大学和北京大") == "overlap"


def test_a_mention_that_overlaps_itself_is_counted_at_each_place() -> None:
    assert [(o.start, o.end) for o in find_mentions("哈哈哈", ["哈哈"])] == [(0, 2), (1, 3)]
    assert projected("[PER 哈哈]笑", "哈哈哈") == "entities"


@pytest.mark.parametrize(
    "source",
    [
        "[PER Paris] saw [LOC Paris]",
        "[PER Ann] met Ann",
        "[PER Ann] met Annual",
        "[LOC Oslo] and the [ORG Bank of Oslo]",
        "[PER  ] left",
    ],
)
def test_what_strings_cannot_tell_is_ambiguous(source: str) -> None:
    assert Mentions.of(read(source)) is None


def test_what_strings_can_tell_is_not() -> None:
    """The must-fail twin."""
    for source in ("[LOC Paris] saw [LOC Paris]", "[LOC Oslo] and the [ORG Bank of [LOC Oslo]]", "nothing"):
        assert Mentions.of(read(source)) is not None


def kinds(document: Document) -> Counter[tuple[str, str]]:
    return Counter((bare(document.text[e.start : e.end]), e.label) for e in document.entities)


def edges(document: Document) -> set[tuple[int, int, str]]:
    """Entities without white space at their ends."""
    return {
        (entity.end - len(mention.lstrip()), entity.start + len(mention.rstrip()), entity.label)
        for entity in document.entities
        for mention in [document.text[entity.start : entity.end]]
    }


@given(documents())
def test_a_document_projects_onto_itself(document: Document) -> None:
    mentions = Mentions.of(document)
    assume(mentions is not None)
    assert mentions is not None
    found = mentions.project(document.text)
    assert not isinstance(found, str)
    assert {(entity.start, entity.end, entity.label) for entity in found} == edges(document)


@given(documents(), st.data())
def test_every_entity_reads_as_in_the_source(document: Document, data: st.DataObject) -> None:
    """Any text of pieces of the source, in any order: either a reason, or the very mentions of the source."""
    mentions = Mentions.of(document)
    assume(mentions is not None and len(edges(document)) == len(document.entities))
    assert mentions is not None
    text, ends = document.text, {0, len(document.text)}
    ends |= {place for entity in document.entities for place in (entity.start, entity.end)}
    pieces = [text[start:end] for start, end in zip(sorted(ends)[:-1], sorted(ends)[1:], strict=True)]
    other = data.draw(st.sampled_from(("", " ", "\n", "。"))).join(data.draw(st.permutations(pieces)))
    found = mentions.project(other)
    if not isinstance(found, str):
        assert kinds(Document(other, found)) == kinds(document)
        assert list(found) == sorted(found, key=lambda entity: entity.key)
        assert all(not other[e.start].isspace() and not other[e.end - 1].isspace() for e in found)


def test_shuffled_pieces_are_often_accepted_and_often_refused() -> None:
    """The must-fail twin: the property is about something."""
    source = "[PER Ann] met [PER Bo] in [LOC Oslo]"
    assert not isinstance(projected(source, " in Oslo Bo met Ann"), str)
    assert projected(source, "AnnBo in Oslo met") == "entities"


@given(st.text(), st.text())
def test_bare_texts_are_equal_where_nfkc_is(one: str, other: str) -> None:
    def squeezed(text: str) -> str:
        return "".join(unicodedata.normalize("NFKC", text).split())

    assume(all(unicodedata.combining(character) == 0 for character in one + other))
    assert (bare(one) == bare(other)) == (squeezed(one) == squeezed(other))
