"""Silver mentions: known names found inside longer ones, where annotators marked the outermost alone. Knows no file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace

from ner_service.types import Document, Entity, Page, codepoints_to_words, words_to_codepoints
from training.data.projection import bare, find_mentions

MIN_SEEN = 2
"""How often a name must be annotated with a label to be known for it: once may be a slip."""

MIN_CHARACTERS = 2
"""A shorter name stands inside others by chance."""


def add_inner(documents: Sequence[Document], inner: Mapping[str, Sequence[str]]) -> list[Document]:
    """The documents with more entities: inside the mentions of each label of `inner`, names known for the labels there.

    Of names that overlap the first counts, of several that begin together the longest. A name that begins or ends
    inside a word is none, on a page inside what has one box, nor is one as long as the mention.
    """
    known = {label: known_names(documents, label) for labels in inner.values() for label in labels}
    return [_with_inner(document, inner, known) for document in documents]


def known_names(documents: Iterable[Document], label: str) -> frozenset[str]:
    """Bare names that are annotated with a label often enough."""
    counts = Counter(
        bare(document.text[entity.start : entity.end])
        for document in documents
        for entity in document.entities
        if entity.label == label
    )
    return frozenset(name for name, count in counts.items() if count >= MIN_SEEN and len(name) >= MIN_CHARACTERS)


def _with_inner(document: Document, inner: Mapping[str, Sequence[str]], known: Mapping[str, Set[str]]) -> Document:
    silver = {
        found
        for entity in document.entities
        for label in inner.get(entity.label, ())
        for found in _inside(document.text, entity, label, known[label])
        if document.page is None or _has_whole_words(document.page, found)
    }
    entities = sorted({*document.entities, *silver}, key=lambda entity: entity.key)
    return replace(document, entities=tuple(entities))


def _has_whole_words(page: Page, entity: Entity) -> bool:
    return words_to_codepoints(page, *codepoints_to_words(page, entity.start, entity.end)) == (entity.start, entity.end)


def _inside(text: str, outer: Entity, label: str, names: Set[str]) -> Iterator[Entity]:
    mention = text[outer.start : outer.end]
    end = 0
    for found in find_mentions(mention, names):
        shorter = found.end - found.start < len(mention)
        if shorter and found.start >= end and found.cut == (False, False):
            yield Entity(outer.start + found.start, outer.start + found.end, label)
            end = found.end
