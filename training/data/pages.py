"""Documents of pages -> the same in the order in which they are read. Knows no model.

Annotators often write down a page mention by mention; words in that order give the answer away.
"""

from __future__ import annotations

from dataclasses import replace

from ner_service.text.reading_order import reading_order
from ner_service.types import Document, Entity, codepoints_to_words, words_to_codepoints


def in_reading_order(document: Document) -> Document:
    """The document with its words in reading order and its entities moved along; a text stays as it is.

    A mention whose words then no longer follow each other is no entity any more: it is among the `scattered`, from its
    first word to its last.
    """
    if document.page is None:
        return document
    order = reading_order(document.page.boxes)
    place = {word: index for index, word in enumerate(order)}
    page = document.page.reordered(order)
    entities: list[Entity] = []
    scattered = list(document.scattered)
    for entity in document.entities:
        words = sorted(place[word] for word in range(*codepoints_to_words(document.page, entity.start, entity.end)))
        start, end = words_to_codepoints(page, words[0], words[-1] + 1)
        whole = words[-1] - words[0] + 1 == len(words)
        (entities if whole else scattered).append(replace(entity, start=start, end=end))
    return replace(
        document,
        text=page.text,
        page=page,
        entities=_in_order(entities),
        scattered=_in_order(scattered),
    )


def _in_order(entities: list[Entity]) -> tuple[Entity, ...]:
    return tuple(sorted(entities, key=lambda entity: entity.key))
