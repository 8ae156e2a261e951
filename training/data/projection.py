"""The entities of a document -> those of another text that holds the same mentions. Knows no model.

Mentions are compared bare, since a text made of tokens may have lost white space and compatibility forms. Entities of
the other text are ranges of the text as it stands.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from ner_service.types import Document, Entity

Misfit = Literal["entities", "overlap"]

_INSIDE_WORD = re.compile(r"[^\W\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]{2}")


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A bare mention in a text: the range of its characters, and the index of its first among the bare ones.

    `cut` says whether it begins and whether it ends inside a word of an alphabetic script, or inside a character.
    """

    mention: str
    start: int
    end: int
    index: int
    cut: tuple[bool, bool]

    def overlaps(self, other: Occurrence) -> bool:
        """Whether the two share a bare character."""
        return self.index < other.index + len(other.mention) and other.index < self.index + len(self.mention)


@dataclass(frozen=True, slots=True)
class Mentions:
    """What must be found again of a document: the labels of each bare mention, how often it stands, what overlaps."""

    labels: Mapping[str, tuple[str, ...]]
    counts: Counter[tuple[str, tuple[bool, bool]]]
    overlaps: Counter[tuple[str, str, int]]

    @classmethod
    def of(cls, document: Document) -> Mentions | None:
        """Those of a document, or None where strings alone do not tell its entities.

        A mention must be an entity of the same labels wherever it stands.
        """
        _, origins = _bare_characters(document.text)
        named: dict[tuple[str, int], set[str]] = defaultdict(set)
        for entity in document.entities:
            mention = bare(document.text[entity.start : entity.end])
            named[mention, bisect_left(origins, entity.start)].add(entity.label)
        mentions = {mention for mention, _ in named}
        found = find_mentions(document.text, mentions)
        labels: dict[str, tuple[str, ...]] = {}
        for occurrence in found:
            own = tuple(sorted(named.get((occurrence.mention, occurrence.index), ())))
            if not own or labels.setdefault(occurrence.mention, own) != own:
                return None
        return None if "" in mentions else cls(labels, _counts(found), _overlaps(found))

    def project(self, text: str) -> tuple[Entity, ...] | Misfit:
        """The entities of a text, in the order of `Entity.key`, or why it does not fit.

        "entities": it does not hold every mention as often as the document does, or holds it inside another word;
        "overlap": entities overlap that did not, or no longer do.
        """
        found = find_mentions(text, self.labels)
        if _counts(found) != self.counts:
            return "entities"
        if _overlaps(found) != self.overlaps:
            return "overlap"
        entities = [Entity(o.start, o.end, label) for o in found for label in self.labels[o.mention]]
        return tuple(sorted(entities, key=lambda entity: entity.key))


def bare(text: str) -> str:
    """A text without white space, its characters in compatibility decomposition (equal where NFKC is)."""
    return _bare_characters(text)[0]


def find_mentions(text: str, mentions: Iterable[str]) -> list[Occurrence]:
    """Every occurrence of every bare mention, those that overlap too, in the order of the text."""
    characters, origins = _bare_characters(text)
    found = []
    for mention in mentions:
        index = characters.find(mention) if mention else -1
        while index >= 0:
            found.append(_occurrence(text, origins, mention, index))
            index = characters.find(mention, index + 1)
    return sorted(found, key=lambda occurrence: (occurrence.index, -len(occurrence.mention)))


def _bare_characters(text: str) -> tuple[str, list[int]]:
    """The bare text, and of each of its characters the index in `text` of the one it comes from."""
    pairs = [
        (part, index)
        for index, character in enumerate(text)
        for part in unicodedata.normalize("NFKD", character)
        if not part.isspace()
    ]
    return "".join(part for part, _ in pairs), [index for _, index in pairs]


def _occurrence(text: str, origins: list[int], mention: str, index: int) -> Occurrence:
    stop = index + len(mention)
    start, end = origins[index], origins[stop - 1] + 1
    begins_inside = index > 0 and (origins[index - 1] == start or _is_inside_word(text, start))
    ends_inside = stop < len(origins) and (origins[stop] == end - 1 or _is_inside_word(text, end))
    return Occurrence(mention, start, end, index, (begins_inside, ends_inside))


def _is_inside_word(text: str, place: int) -> bool:
    """Whether a mark follows, or letters of scripts that part words by white space stand on both sides of a place."""
    has_mark = place < len(text) and unicodedata.combining(text[place]) > 0
    return has_mark or _INSIDE_WORD.fullmatch(text, place - 1, place + 1) is not None


def _counts(found: Iterable[Occurrence]) -> Counter[tuple[str, tuple[bool, bool]]]:
    return Counter((occurrence.mention, occurrence.cut) for occurrence in found)


def _overlaps(found: Iterable[Occurrence]) -> Counter[tuple[str, str, int]]:
    """How often one mention overlaps another that begins so many bare characters after it."""
    pairs = (pair for pair in combinations(found, 2) if pair[0].overlaps(pair[1]))
    return Counter((one.mention, other.mention, other.index - one.index) for one, other in pairs)
