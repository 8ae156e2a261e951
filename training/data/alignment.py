"""Texts as two tokenizers read them, and the parts that both readings have whole. Knows no model."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import Encoding
from training.data.pieces import inner_slices

ALONE = -1
"""The part of a token that nothing in the other reading stands for."""

Range = tuple[int, int]
_NOWHERE: Range = (0, 0)
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Reading:
    """The tokens of a passage, special ones around them, and the part of the passage that each lies in, or `ALONE`."""

    token_ids: array[int]
    parts: array[int]

    @property
    def num_parts(self) -> int:
        return max(self.parts) + 1


@dataclass(frozen=True, slots=True)
class Passage:
    """A text, or a piece of a long one, in both readings, which have at least one part and the same ones."""

    own: Reading
    other: Reading

    def __len__(self) -> int:
        return max(len(self.own.token_ids), len(self.other.token_ids))


def passages_of(
    texts: Sequence[str], own: TextTokenizer, other: TextTokenizer, max_tokens: int, max_other: int | None
) -> Iterator[Passage]:
    """Texts in both readings, cut to at most `max_tokens` own tokens; of the other reading the first `max_other`.

    The special tokens before a text are a part of their own, and so are those behind it.
    """
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        cuts = [cut for text in texts[first : first + _TEXTS_AT_ONCE] for cut in _cuts(text, own, max_tokens)]
        readings = other.encode_batch([text for text, _ in cuts])
        for (text, own_encoding), other_encoding in zip(cuts, readings, strict=True):
            own_ranges = _framed(own_encoding, own, len(text))
            other_ranges = _framed(other_encoding, other, len(text))[:max_other]
            own_parts, other_parts = common_parts(len(text) + 2, own_ranges, other_ranges)
            if max(own_parts) != ALONE:
                yield Passage(
                    own=Reading(array("i", own_encoding.token_ids), array("i", own_parts)),
                    other=Reading(array("i", other_encoding.token_ids[:max_other]), array("i", other_parts)),
                )


def common_parts(length: int, first: Sequence[Range], second: Sequence[Range]) -> tuple[list[int], list[int]]:
    """For each token of either reading the number of the part that it lies in, or `ALONE`.

    The parts are the finest that cut no token of either reading: a word that the other one reads as three characters
    is one part, and so is every character that both read alone. They are numbered from 0, in the order of the text.

    Args:
        length: of the text, in code points.
        first: the half-open ranges of code points that the tokens of one reading cover; an empty one covers nothing.
        second: those of the other.
    """
    inside = [False] * (length + 1)
    for start, end in (*first, *second):
        inside[start + 1 : end] = [True] * max(0, end - start - 1)
    number_at = list(accumulate(int(not within) for within in inside))
    raw = [[number_at[start] if start < end else ALONE for start, end in ranges] for ranges in (first, second)]
    shared = sorted(set(raw[0]) & set(raw[1]) - {ALONE})
    places = {number: place for place, number in enumerate(shared)}
    own, other = ([places.get(number, ALONE) for number in numbers] for numbers in raw)
    return own, other


def _cuts(text: str, tokenizer: TextTokenizer, max_tokens: int) -> Iterator[tuple[str, Encoding]]:
    """A text, a long one in pieces, each with its tokens and the special tokens of a text around them."""
    whole = tokenizer.encode(text)
    before, behind = [_NOWHERE] * len(tokenizer.start_ids), [_NOWHERE] * len(tokenizer.end_ids)
    for inner in inner_slices(len(whole), tokenizer, max_tokens):
        ranges = whole.offsets[inner]
        start = min((start for start, end in ranges if start < end), default=0)
        stop = max((end for _, end in ranges), default=0)
        token_ids = (*tokenizer.start_ids, *whole.token_ids[inner], *tokenizer.end_ids)
        offsets = (*before, *_moved(ranges, -start), *behind)
        yield text[start:stop], Encoding(token_ids=token_ids, offsets=offsets)


def _framed(encoding: Encoding, tokenizer: TextTokenizer, length: int) -> list[Range]:
    """Where the tokens stand in a text with one more character at either end, for the special tokens there."""
    num_before, num_behind = len(tokenizer.start_ids), len(tokenizer.end_ids)
    inner = encoding.offsets[num_before : len(encoding) - num_behind]
    return [(0, 1)] * num_before + _moved(inner, 1) + [(length + 1, length + 2)] * num_behind


def _moved(ranges: Sequence[Range], by: int) -> list[Range]:
    return [(start + by, end + by) if start < end else _NOWHERE for start, end in ranges]
