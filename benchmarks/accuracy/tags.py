"""Mentions <-> BIO tags, one a token: what a tagger learns and what its answer means.

A tag is a number: 0 is O, then B and I of each label in the order of the label set. Tokens that cover no character have
no tag. Knows no model and no tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from ner_service.decoding import apply_overlap
from ner_service.types import Encoding, Entity, LabelSet, Window

Rule = Literal["repaired", "strict"]
"""What an I means that continues no mention of its label: the beginning of one (conlleval, and seqeval's default), or
nothing (strict IOB2)."""

RULES: tuple[Rule, ...] = get_args(Rule)
OUTSIDE = 0
NO_TAG = -100
"""Of a token that covers no character: what cross-entropy leaves out."""


def num_tags(labels: LabelSet) -> int:
    return 1 + 2 * len(labels)


def outermost(entities: Sequence[Entity]) -> list[Entity]:
    """The longest mentions, none of which overlaps another: what one tag a token can say."""
    return apply_overlap(entities, "longest")


def tags_of(window: Window, mentions: Iterable[Entity], labels: LabelSet) -> tuple[int, ...]:
    """A tag for every token of a window.

    A token belongs to the mention that its characters lie in, also where the mention begins or ends within another
    token or beyond the window. Mentions are those of the whole text and do not overlap.
    """
    tags = [OUTSIDE if start < end else NO_TAG for start, end in window.encoding.offsets]
    for mention in mentions:
        if mention.label not in labels:
            continue
        first, last = mention.start - window.start, mention.end - window.start
        own = [i for i, (start, end) in enumerate(window.encoding.offsets) if first <= start < end <= last]
        begin = 1 + 2 * labels.index(mention.label)
        for place, token in enumerate(own):
            tags[token] = begin if place == 0 else begin + 1
    return tuple(tags)


def entities_of(tags: Sequence[int], encoding: Encoding, labels: LabelSet, rule: Rule) -> list[Entity]:
    """The mentions that a window's tags speak of, in the window's characters."""
    found: list[tuple[int, int, int]] = []
    current: int | None = None  # the label whose mention is open
    for tag, (start, end) in zip(tags, encoding.offsets, strict=True):
        if start == end:
            continue
        label, inside = divmod(tag - 1, 2)
        if tag == OUTSIDE:
            current = None
        elif inside and current == label:
            found[-1] = (found[-1][0], end, label)
        elif inside and rule == "strict":
            current = None
        else:
            found.append((start, end, label))
            current = label
    return [Entity(start, end, labels[label]) for start, end, label in found]
