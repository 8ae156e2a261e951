"""Plain data that is valid by construction."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ner_service.errors import ConfigError, InvalidPageError, UnknownLabelError
from ner_service.types import (
    Box,
    Document,
    Entity,
    LabelSet,
    Page,
    RecognizeOptions,
    WindowLimits,
    codepoints_to_words,
    is_label,
    words_to_codepoints,
)
from tests.strategies import pages


@pytest.mark.parametrize("threshold", [math.nan, -0.1, 1.1, math.inf])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    for options in ({"threshold": threshold}, {"label_thresholds": {"PER": threshold}}):
        with pytest.raises(ConfigError, match="expected a probability, 0 to 1"):
            RecognizeOptions(**options)  # type: ignore[arg-type]
    assert RecognizeOptions(threshold=0.0, label_thresholds={"PER": 1.0}).threshold == 0.0


@pytest.mark.parametrize("overlap_tokens", [-1, 8, 9])
def test_windows_must_go_on(overlap_tokens: int) -> None:
    with pytest.raises(ValueError, match="expected 0 to 7"):
        WindowLimits(max_tokens=8, overlap_tokens=overlap_tokens)
    assert WindowLimits(max_tokens=8, overlap_tokens=7).overlap_tokens == 7


def test_labels_are_a_table_both_ways() -> None:
    labels = LabelSet(["PER", "ORG"])
    assert [labels[labels.index(name)] for name in labels] == ["PER", "ORG"]
    with pytest.raises(UnknownLabelError, match="'LOC'; the model knows: PER, ORG"):
        labels.index("LOC")
    with pytest.raises(ValueError, match="twice"):
        LabelSet(["PER", "PER"])


@pytest.mark.parametrize("name", ["PER", "person name", "\u4eba\u540d", "A|B"])
def test_a_label(name: str) -> None:
    assert is_label(name)


@pytest.mark.parametrize("name", ["", " ", " PER", "PER\t", "PER\n", "A\nB", "A\r", "A\u2029B", "\u3000PER"])
def test_no_label(name: str) -> None:
    assert not is_label(name)


def test_score_and_source_are_no_part_of_an_entity() -> None:
    assert Entity(0, 2, "PER", 0.9, "a") == Entity(0, 2, "PER", 0.1, "b")
    assert len({Entity(0, 2, "PER", 0.9), Entity(0, 2, "PER", 0.1), Entity(0, 2, "ORG", 0.9)}) == 2


PAGE = Page(("Ada", "Love lace", "é"), ((1, 2, 3, 4), (5, 2, 9, 4), (1, 6, 1, 6)), (10, 8))


def page(words: tuple[str, ...] = ("a", "b"), box: Box = (0, 0, 1, 1), size: tuple[float, float] = (10, 8)) -> Page:
    """Words whose second has such a box."""
    return Page(words, ((0, 0, 10, 8), box), size)


def test_a_page_is_the_text_of_its_words() -> None:
    assert PAGE.text == "Ada Love lace é"
    assert [PAGE.text[start:end] for start, end in PAGE.ranges] == list(PAGE.words)
    assert Page((), (), (1, 1)).text == ""
    assert Page((), (), (1, 1)).ranges == ()


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (0, 3, (0, 1)),
        (0, 13, (0, 2)),
        (2, 5, (0, 2)),
        (4, 8, (1, 2)),
        (3, 4, (1, 1)),
        (13, 15, (2, 3)),
        (0, 15, (0, 3)),
    ],
)
def test_code_points_are_of_words(start: int, end: int, words: tuple[int, int]) -> None:
    """Those that touch a word count for all of it; the space between two is of neither."""
    assert codepoints_to_words(PAGE, start, end) == words


@given(pages(), st.data())
def test_words_become_code_points_and_come_back(found: Page, data: st.DataObject) -> None:
    for first in range(len(found.words)):
        end = data.draw(st.integers(first + 1, len(found.words)))
        start, stop = words_to_codepoints(found, first, end)
        assert found.text[start:stop] == " ".join(found.words[first:end])
        assert codepoints_to_words(found, start, stop) == (first, end)


def test_words_may_be_put_in_another_order_and_back() -> None:
    turned = PAGE.reordered((2, 0, 1))
    assert turned.words == ("é", "Ada", "Love lace")
    assert turned.boxes[1] == PAGE.boxes[0]
    assert turned.reordered((1, 2, 0)) == PAGE


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("changes", "pointer", "detail"),
    [
        ({"words": ("a",)}, "boxes", "found 2 boxes, expected 1, one for each word"),
        ({"words": ("a", "")}, "words/1", "word 1: found an empty word, expected at least one character"),
        ({"words": (" ", "b")}, "words/0", "word 0: found white space at its ends, expected none"),
        ({"words": ("a", "b\u3000")}, "words/1", "word 1: found white space at its ends, expected none"),
        (
            {"words": ("a", "\ud800")},
            "words/1",
            r"word 1: found a lone surrogate U\+D800 at character 0, expected Unicode text",
        ),
        ({"box": (NAN, 0, 1, 1)}, "boxes/1/0", "box of word 1: found x0 = nan, expected a finite number"),
        ({"box": (0, 0, INF, 1)}, "boxes/1/2", "box of word 1: found x1 = inf, expected a finite number"),
        ({"box": (0, -1, 1, 1)}, "boxes/1/1", "box of word 1: found y0 = -1, expected 0 or more"),
        ({"box": (0, 0, 11, 1)}, "boxes/1/2", "box of word 1: found x1 = 11, expected at most 10, the page's width"),
        ({"box": (0, 0, 1, 8.5)}, "boxes/1/3", "box of word 1: found y1 = 8.5, expected at most 8, the page's height"),
        ({"box": (2, 0, 1, 1)}, "boxes/1/2", "box of word 1: found x0 = 2 and x1 = 1, expected x0 <= x1"),
        ({"box": (0, 2, 1, 1)}, "boxes/1/3", "box of word 1: found y0 = 2 and y1 = 1, expected y0 <= y1"),
        ({"size": (0, 8)}, "page/0", "found 0, expected a length above 0, at most 1e\\+09"),
        ({"size": (10, NAN)}, "page/1", "found nan, expected a length above 0, at most 1e\\+09"),
        ({"size": (INF, 8)}, "page/0", "found inf, expected a length above 0, at most 1e\\+09"),
        ({"size": (10, 2e9)}, "page/1", "found 2000000000.0, expected a length above 0, at most 1e\\+09"),
    ],
)
def test_faults_of_a_page_name_the_word(changes: dict[str, Any], pointer: str, detail: str) -> None:
    with pytest.raises(InvalidPageError, match=f"^{pointer}: {detail}$") as caught:
        page(**changes)
    assert (caught.value.pointer, caught.value.code) == (pointer, "invalid_page")


def test_what_is_just_within_bounds_is_no_fault() -> None:
    assert page(box=(10, 8, 10, 8)).boxes[1] == (10, 8, 10, 8)
    assert page(words=("a b", "\u200b")).words == ("a b", "\u200b")


def test_a_document_of_a_page_has_its_text() -> None:
    document = Document(PAGE.text, page=PAGE)
    assert document.content is PAGE
    assert Document("Ada").content == "Ada"
    with pytest.raises(ValueError, match="found a text other than the page's"):
        Document("Ada Lovelace", page=PAGE)
