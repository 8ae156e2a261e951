"""Hypothesis strategies, named by the shape of what they make. Append only."""

from __future__ import annotations

import itertools
import math

import torch
from hypothesis import strategies as st

from ner_service.model.heads import Projection
from ner_service.types import Box, Document, Entity, Page, words_to_codepoints

LABELS = ("person", "place", "group")

# Pieces where offsets go wrong: beyond the basic plane, marks, joiners, zero width, full width, line ends, digraphs.
_AWKWARD = (
    "😀",
    "👩\u200d👧",
    "👍🏽",
    "🇨🇳",
    "\U00020bb7",
    "e\u0301",
    "\u0301",
    "カ\u3099",
    "\u200b",
    "\ufeff",
    "\u00ad",
    "❤\ufe0f",
    "Ａ１",
    "\u3000",
    "\r\n",
    "\t",
    "  ",
    "\u00a0",
    "ﬁ",
    "㍿",
    "ﷺ",
    "İ",
    "ß",
    "नि",
    "กำ",
    "각",
    "\u0000",
    "\u2028",
    "[SEP]",
    "##",
)
_ANY = st.characters(codec="utf-8")
_PLAIN = ("北", "京", "大学", "。", "，", "Ann", "visited", "B2", "3.14", ".", "!", "?", " ", " ", "\n", "“", "”")


def texts(max_pieces: int = 30) -> st.SearchStrategy[str]:
    """Well-formed Unicode: plain words of two scripts, awkward pieces and any character."""
    pieces = st.one_of(st.sampled_from(_PLAIN), st.sampled_from(_AWKWARD), _ANY)
    return st.lists(pieces, max_size=max_pieces).map("".join)


@st.composite
def entities(draw: st.DrawFn, text: str) -> Entity:
    """Any span of a non-empty text."""
    start = draw(st.integers(0, len(text) - 1))
    return Entity(start, draw(st.integers(start + 1, len(text))), draw(st.sampled_from(LABELS)))


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Any text with any distinct spans, nested and crossing ones too, in the order of `Entity.key`."""
    text = draw(texts())
    spans = draw(st.lists(entities(text), max_size=5, unique=True)) if text else []
    name = st.none() | st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=5)
    return Document(text=text, entities=tuple(sorted(spans, key=lambda entity: entity.key)), id=draw(name))


@st.composite
def flat_documents(draw: st.DrawFn) -> Document:
    """A text on one line with spans that do not overlap and have no whitespace at their ends."""
    text = draw(texts().map(lambda text: text.replace("\r", "").replace("\n", "")).filter(lambda text: text.strip()))
    spans: list[Entity] = []
    for entity in draw(st.lists(entities(text), max_size=5)):
        mention = text[entity.start : entity.end]
        apart = all(entity.end <= other.start or other.end <= entity.start for other in spans)
        if apart and mention == mention.strip() != "":
            spans.append(entity)
    return Document(text=text, entities=tuple(sorted(spans, key=lambda entity: entity.key)))


@st.composite
def projections(draw: st.DrawFn) -> Projection:
    """What a head makes of one text of 1 to 14 tokens, for 1 to 4 labels, with the two terms or without.

    Small multiples of 1/4: sums of their products are exact in any order, so equal scores are equal to the last bit.
    """
    factored, num_labels, length = draw(st.booleans()), draw(st.integers(1, 4)), draw(st.integers(1, 14))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def quarters(*shape: int) -> torch.Tensor:
        return torch.randint(-6, 7, shape, generator=generator) / 4

    groups = 1 if factored else num_labels
    query, key = quarters(1, groups, length, 4), quarters(1, groups, length, 4)
    terms = (quarters(1, num_labels, length), quarters(1, num_labels, length)) if factored else (None, None)
    return Projection(query, key, *terms)


def cutoffs(num_labels: int) -> st.SearchStrategy[list[float]]:
    """One a label: multiples of 1/4, often equal to a score of `projections`, and both infinities."""
    cutoff = st.integers(-40, 40).map(lambda quarters: quarters / 4) | st.sampled_from((math.inf, -math.inf))
    return st.lists(cutoff, min_size=num_labels, max_size=num_labels)


def flat_entities(text: str) -> st.SearchStrategy[list[Entity]]:
    """Spans of a non-empty text that do not overlap, in order."""

    def apart(spans: list[Entity]) -> list[Entity]:
        kept: list[Entity] = []
        for span in sorted(spans, key=lambda span: span.key):
            if not kept or kept[-1].end <= span.start:
                kept.append(span)
        return kept

    return st.lists(entities(text), max_size=5).map(apart)


def compositions(total: int) -> st.SearchStrategy[list[int]]:
    """Sizes, each at least 1, that add up to `total`, in any order."""
    ends = st.sets(st.integers(1, total - 1)).map(lambda inner: [0, *sorted(inner), total])
    return ends.map(lambda ends: [end - start for start, end in itertools.pairwise(ends)])


def directions(size: int) -> st.SearchStrategy[torch.Tensor]:
    """Unit vectors of `size` numbers, in double precision."""
    number = st.floats(-1, 1, allow_subnormal=False)
    vectors = st.lists(number, min_size=size, max_size=size).map(lambda values: torch.tensor(values).double())
    return vectors.filter(lambda vector: float(vector.norm()) > 1e-3).map(lambda vector: vector / vector.norm())


def token_rows(vocab_size: int, max_rows: int = 4, max_tokens: int = 9) -> st.SearchStrategy[list[list[int]]]:
    """Token ids of 1 to `max_rows` texts of 1 to `max_tokens` tokens."""
    token = st.integers(0, vocab_size - 1)
    return st.lists(st.lists(token, min_size=1, max_size=max_tokens), min_size=1, max_size=max_rows)


def boxes(max_size: int = 12) -> st.SearchStrategy[list[Box]]:
    """Boxes on a coarse grid, so that they touch, overlap, coincide and have no extent; within 0 to 200."""

    def box(corner: tuple[int, int, int, int]) -> Box:
        x, y, width, height = (5.0 * number for number in corner)
        return (x, y, x + width, y + height)

    places, lengths = st.integers(0, 30), st.integers(0, 10)
    return st.lists(st.tuples(places, places, lengths, lengths).map(box), max_size=max_size)


@st.composite
def pages(draw: st.DrawFn) -> Page:
    """Words of any script on a page of 200 by 200, a box each."""
    found = draw(boxes())
    word = texts(max_pieces=4).map(str.strip).filter(bool)
    return Page(tuple(draw(word) for _ in found), tuple(found), (200.0, 200.0))


@st.composite
def page_documents(draw: st.DrawFn) -> Document:
    """A page with any distinct ranges of its words as entities."""
    page = draw(pages())
    spans = set()
    for _ in range(draw(st.integers(0, 4)) if page.words else 0):
        first = draw(st.integers(0, len(page.words) - 1))
        start, end = words_to_codepoints(page, first, draw(st.integers(first + 1, len(page.words))))
        spans.add(Entity(start, end, draw(st.sampled_from(LABELS))))
    return Document(text=page.text, entities=tuple(sorted(spans, key=lambda entity: entity.key)), page=page)
