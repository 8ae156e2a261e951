"""Entities as every answer shows them, over HTTP and on the command line. Knows no web and no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NotRequired

from typing_extensions import TypedDict

from ner_service.decoding import nesting
from ner_service.text.offsets import OffsetConverter
from ner_service.text.reading_order import OrderedPage
from ner_service.types import Box, Entity, OffsetUnit, Page, codepoints_to_words


class EntityReply(TypedDict):
    """An entity of a text; `parent` is the index of the smallest entity that strictly contains it, or null."""

    start: int
    end: int
    text: str
    label: str
    score: float
    parent: int | None
    depth: int


def entity_replies(text: str, entities: Sequence[Entity], converter: OffsetConverter) -> list[EntityReply]:
    """Entities of `text`, sorted by `Entity.key`, with offsets in the converter's unit."""
    return [
        {
            "start": converter.from_codepoint(entity.start),
            "end": converter.from_codepoint(entity.end),
            "text": text[entity.start : entity.end],
            "label": entity.label,
            "score": round(entity.score or 0.0, 6),
            "parent": parent,
            "depth": depth,
        }
        for entity, (parent, depth) in zip(entities, nesting(entities), strict=True)
    ]


class OkResult(TypedDict):
    """A text's entities, sorted by start, then the longest first, then by label."""

    id: str | None
    status: Literal["ok"]
    length: int
    windows: int
    entities: list[EntityReply]


def text_result(id: str | None, text: str, num_windows: int, entities: Sequence[Entity], unit: OffsetUnit) -> OkResult:
    """The answer to a text; whatever counts, counts in the unit."""
    converter = OffsetConverter(text, unit)
    return {
        "id": id,
        "status": "ok",
        "length": converter.from_codepoint(len(text)),
        "windows": num_windows,
        "entities": entity_replies(text, entities, converter),
    }


class PageEntityReply(EntityReply):
    """An entity of a page: `words` are its words in the order of reading, `boxes` theirs, `start` and `end` the range.

    The range runs from the least index to one past the greatest. It has other words in it where the entity's own do
    not stand together in what the client sent; `words` has none but the entity's.
    """

    words: list[int]
    boxes: list[Box]


def page_entity_replies(page: Page, order: Sequence[int], entities: Sequence[Entity]) -> list[PageEntityReply]:
    """Entities of a page as it was read, whose word i is the client's word `order[i]`; sorted as those of a text."""
    text = page.text
    replies: list[PageEntityReply] = []
    spans = [codepoints_to_words(page, entity.start, entity.end) for entity in entities]
    # The smallest around another is that of the fewest words, as the client sees them.
    nested = nesting(
        [replace(entity, start=first, end=end) for entity, (first, end) in zip(entities, spans, strict=True)]
    )
    for entity, (first, end), (parent, depth) in zip(entities, spans, nested, strict=True):
        words = list(order[first:end])
        replies.append(
            {
                "start": min(words),
                "end": max(words) + 1,
                "text": text[entity.start : entity.end],
                "label": entity.label,
                "score": round(entity.score or 0.0, 6),
                "parent": parent,
                "depth": depth,
                "words": words,
                "boxes": list(page.boxes[first:end]),
            }
        )
    return _sorted(replies)


class PageResult(TypedDict):
    """A page's entities; whatever counts, counts words. Of an image its `words`, `boxes` and size, `page`, come too."""

    id: str | None
    status: Literal["ok"]
    offset_unit: Literal["word"]
    length: int
    windows: int
    entities: list[PageEntityReply]
    words: NotRequired[list[str]]
    boxes: NotRequired[list[Box]]
    page: NotRequired[tuple[float, float]]


def page_result(id: str | None, read: OrderedPage, num_windows: int, entities: Sequence[Entity]) -> PageResult:
    """The answer to a page that the client knows the words of."""
    return {
        "id": id,
        "status": "ok",
        "offset_unit": "word",
        "length": len(read.page.words),
        "windows": num_windows,
        "entities": page_entity_replies(read.page, read.order, entities),
    }


def _sorted(replies: Sequence[PageEntityReply]) -> list[PageEntityReply]:
    """The replies by the client's indices, an outer before an inner one, each still naming its parent."""

    def key(index: int) -> tuple[int, int, int, str]:
        reply = replies[index]
        return (reply["start"], -reply["end"], -len(reply["words"]), reply["label"])

    indices = sorted(range(len(replies)), key=key)
    places = {index: place for place, index in enumerate(indices)}
    found = [replies[index] for index in indices]
    for reply in found:
        if reply["parent"] is not None:
            reply["parent"] = places[reply["parent"]]
    return found
