"""Documents -> other documents with the same truth. Pure functions of documents and a random generator."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ner_service.types import Document


def join_documents(documents: Sequence[Document], share: float, generator: random.Random) -> Iterator[Document]:
    """Lay a random share of the documents together, two to eight at a time and a line each; the others pass unchanged.

    A model that has seen only single sentences does not know what a sentence in the midst of others looks like, and
    that is what a window of a long text is. Only documents annotated alike are joined, and no pages.
    """
    waiting: dict[object, list[Document]] = {}
    for document in documents:
        if document.page is not None or generator.random() >= share:
            yield document
            continue
        group = waiting.setdefault((document.annotated, document.flat), [])
        group.append(document)
        if len(group) >= generator.randint(2, 8):
            yield join(group)
            group.clear()
    yield from (join(group) for group in waiting.values() if group)


def join(documents: Sequence[Document]) -> Document:
    """One document, a line for each of the given ones, their entities moved along."""
    entities = []
    offset = 0
    for document in documents:
        entities += [replace(e, start=e.start + offset, end=e.end + offset) for e in document.entities]
        offset += len(document.text) + 1
    text = "\n".join(document.text for document in documents)
    return replace(documents[0], text=text, entities=tuple(entities), id=None)
