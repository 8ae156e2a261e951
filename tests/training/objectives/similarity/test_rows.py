"""Pairs as token ids: what is read and written, cut, noised."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from ner_service.errors import ConfigError
from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import Encoding
from tests.training.objectives.similarity.paired import PAIRS, tokenizer_of
from training.data.pairs import Pair
from training.objectives.similarity.rows import PairReader, Row

TOKENIZER = tokenizer_of()
CLS, SEP = TOKENIZER.start_ids[0], TOKENIZER.end_ids[0]
PAIR = Pair("请关灯。", "我想把灯关掉。")


def reader(*, noise: float = 0.0, max_tokens: int = 64, writes: bool = True) -> PairReader:
    return PairReader(TOKENIZER, noise=noise, max_tokens=max_tokens, writes=writes)


def rows_of(reader: PairReader, pair: Pair, seed: int = 0) -> tuple[Row, Row]:
    return reader.rows(pair, random.Random(seed))


def inner(sentence: str) -> tuple[int, ...]:
    return TOKENIZER.encode(sentence).token_ids[1:-1]


def test_each_sentence_is_written_from_the_other() -> None:
    first, second = inner(PAIR.first), inner(PAIR.second)
    assert (len(first), len(second)) == (4, 7)
    assert rows_of(reader(), PAIR) == (
        Row(sentence=PAIR.first, source=(CLS, *first, SEP), target=(*second, SEP)),
        Row(sentence=PAIR.second, source=(CLS, *second, SEP), target=(*first, SEP)),
    )


def test_where_nothing_is_written_a_row_is_its_source() -> None:
    assert [(row.source, row.target) for row in rows_of(reader(writes=False), PAIR)] == [
        ((CLS, *inner(PAIR.first), SEP), ()),
        ((CLS, *inner(PAIR.second), SEP), ()),
    ]


# ---- cut


def popped(first: list[int], second: list[int], most: int) -> tuple[list[int], list[int]]:
    """The second-last token of the longer one popped until both together have at most `most`, as bert4keras does."""
    first, second = list(first), list(second)
    while len(first) + len(second) > most:
        (first if len(first) >= len(second) else second).pop(-2)
    return first, second


@given(st.integers(0, 40), st.integers(0, 40), st.integers(3, 15))
def test_a_pair_is_cut_as_if_popped_token_by_token(num_first: int, num_second: int, max_tokens: int) -> None:
    first, second = ([CLS, *range(10, 10 + num), SEP] for num in (num_first, num_second))
    read = reader(max_tokens=max_tokens)
    expected = popped(first, second, 2 * max_tokens)
    a, b = (Encoding(token_ids=tuple(ids), offsets=tuple((i, i + 1) for i in ids)) for ids in (first, second))
    found = read._cut(a, len(b)), read._cut(b, len(a))
    assert tuple(list(encoding.token_ids) for encoding in found) == expected
    assert all(start == token for each in found for token, (start, _) in zip(each.token_ids, each.offsets, strict=True))


def test_what_is_written_is_cut_as_what_is_read() -> None:
    long, short = "雨" * 30, "雨" * 4
    first, second = rows_of(reader(max_tokens=10), Pair(long, short))
    assert (len(first.source), len(second.source)) == (14, 6)
    assert (first.target, second.target) == (second.source[1:], first.source[1:])


# ---- noise


def num_altered(rows: tuple[Row, Row], clean: tuple[Row, Row]) -> int:
    return sum(row.source != other.source for row, other in zip(rows, clean, strict=True))


@pytest.mark.parametrize("writes", [True, False])
def test_s6_noise_alters_sources_alone_and_not_their_lengths(writes: bool) -> None:
    altered = 0
    for seed in range(20):
        for pair in PAIRS:
            clean, noised = (rows_of(reader(noise=noise, writes=writes), pair, seed) for noise in (0.0, 1.0))
            assert [row.target for row in noised] == [row.target for row in clean]
            assert [len(row.source) for row in noised] == [len(row.source) for row in clean]
            assert all((row.source[0], row.source[-1]) == (CLS, SEP) for row in noised)
            altered += num_altered(noised, clean)
    assert altered > 50
    assert TOKENIZER.mask_id is not None


def test_noise_is_the_share_of_sources_that_may_be_altered() -> None:
    """With 30 words hardly any source comes through 15 % of noise as it was."""
    pair = Pair("雨，" * 15, "雪。" * 15)
    clean = rows_of(reader(), pair)
    altered = [num_altered(rows_of(reader(noise=0.25), pair, seed), clean) for seed in range(400)]
    assert sum(altered) / 800 == pytest.approx(0.25, abs=0.05)
    assert set(altered) == {0, 1, 2}


def test_the_two_views_of_a_sentence_have_noise_of_their_own() -> None:
    pair = Pair("雨，" * 15, "雨，" * 15)
    first, second = rows_of(reader(noise=1.0), pair)
    assert first.source != second.source
    assert first.target == second.target


def test_noise_follows_from_the_generator() -> None:
    pair = Pair("雨，" * 15, "雪。" * 15)
    assert rows_of(reader(noise=1.0), pair, 3) == rows_of(reader(noise=1.0), pair, 3)
    assert rows_of(reader(noise=1.0), pair, 3) != rows_of(reader(noise=1.0), pair, 4)


# ---- refusals


def bare_tokenizer() -> TextTokenizer:
    """Words alone: no token around a text, none for what is hidden."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return TextTokenizer(tokenizer)


@pytest.mark.parametrize(
    ("noise", "writes", "message"),
    [
        (0.5, False, r"objectives\.similarity\.noise: found a tokenizer without a mask token"),
        (0.0, True, r"objectives\.similarity\.generation: found a tokenizer that puts no token after a text"),
    ],
)
def test_a_tokenizer_that_lacks_what_is_asked_for(noise: float, writes: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PairReader(bare_tokenizer(), noise=noise, max_tokens=8, writes=writes)
    first, _ = PairReader(bare_tokenizer(), noise=0.0, max_tokens=8, writes=False).rows(
        Pair("a b", "b"), random.Random(0)
    )
    assert first.source == (0, 1)


def test_no_room_for_a_token() -> None:
    with pytest.raises(ConfigError, match=r"max_tokens: found 2, expected more than the 2 special tokens"):
        reader(max_tokens=2)
