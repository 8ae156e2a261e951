"""Entities as every answer shows them, over HTTP and on the command line. Knows no web and no model."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict

from ner_service.decoding import nesting
from ner_service.text.offsets import OffsetConverter
from ner_service.types import Entity


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
