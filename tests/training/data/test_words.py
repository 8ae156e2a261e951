"""Words of Chinese, of spaced scripts and of both together, and the tokens that belong to each."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given

from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import Encoding
from tests.strategies import texts
from tests.text.sample_tokenizers import ALL, trained
from training.data.words import word_groups, word_spans


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in word_spans(text)]


def grouped(text: str, tokenizer: TextTokenizer) -> tuple[Encoding, list[tuple[int, ...]]]:
    encoding = tokenizer.encode(text)
    return encoding, word_groups(encoding, word_spans(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t", []),
        ("我们在北京大学读书", ["我们", "在", "北京大学", "读书"]),
        ("Ann visited  Zürich\nand São Paulo", ["Ann", "visited", "Zürich", "and", "São", "Paulo"]),
        ("Well, (yes)!", ["Well", ",", "(", "yes", ")", "!"]),
        ("用iPhone15打电话，好吗？", ["用", "iPhone15", "打电话", "，", "好", "吗", "？"]),
        ("e\u0301te\u0301 नि 3€", ["e\u0301te\u0301", "नि", "3", "€"]),
        ("在\u3000𠮷野家", ["在", "𠮷", "野家"]),
        ("東京タワー", ["東京", "タワー"]),
    ],
)
def test_words_of_a_text(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(texts())
def test_every_character_but_white_space_is_in_one_word(text: str) -> None:
    spans = word_spans(text)
    covered = [position for start, end in spans for position in range(start, end)]
    assert covered == sorted(set(covered))
    assert all(start < end for start, end in spans)
    assert {position for position, character in enumerate(text) if not character.isspace()} <= set(covered)


@given(texts())
def test_no_word_holds_white_space(text: str) -> None:
    # Python takes U+001C to U+001F for white space, Unicode does not.
    assert not any(re.search(r"[^\S\x1c-\x1f]", word) for word in words(text))


def test_tokens_of_a_word_stand_together() -> None:
    encoding, groups = grouped("Ann visited 北京大学。", trained())
    starts = [encoding.offsets[group[0]][0] for group in groups]
    ends = [encoding.offsets[group[-1]][1] for group in groups]
    assert list(zip(starts, ends, strict=True)) == [(0, 3), (4, 11), (12, 16), (16, 17)]
    assert [index for group in groups for index in group] == list(range(1, len(encoding) - 1))
    assert len(groups[2]) == 4


@pytest.mark.parametrize("make", ALL)
@given(texts())
def test_every_token_with_characters_is_in_one_word(make: Callable[[], TextTokenizer], text: str) -> None:
    encoding, groups = grouped(text, make())
    members = [index for group in groups for index in group]
    visible = [index for index, (start, end) in enumerate(encoding.offsets) if word_spans(text[start:end])]
    assert sorted(members) == visible
    assert all(groups)


def test_a_special_token_is_in_no_word() -> None:
    encoding, groups = grouped("[SEP] Ann", trained())
    members = {index for group in groups for index in group}
    assert members.isdisjoint({0, len(encoding) - 1})
    assert members == set(range(1, len(encoding) - 1))


def test_a_token_across_words_belongs_to_the_first() -> None:
    encoding = Encoding(token_ids=(0, 5, 6, 7), offsets=((0, 0), (0, 3), (3, 4), (4, 6)))
    assert word_groups(encoding, [(0, 2), (2, 4), (4, 6)]) == [(1,), (2,), (3,)]


def test_a_word_without_a_token_is_left_out() -> None:
    encoding = Encoding(token_ids=(5, 6), offsets=((0, 2), (4, 6)))
    assert word_groups(encoding, [(0, 2), (2, 4), (4, 6)]) == [(0,), (1,)]
