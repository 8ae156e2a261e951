"""CLUENER: one JSON object a line, `{"text", "label": {label: {mention: [[start, end]]}}}`.

Offsets are code points, end *inclusive*. `id` is optional, other keys are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ner_service.formats.checks import (
    check_entity,
    check_unicode,
    check_writable,
    expect,
    in_order,
    parse_json,
    read_identifier,
    take,
    to_json,
)
from ner_service.formats.lines import Line, read_lines, write_lines
from ner_service.types import Document, Entity


def read(path: Path) -> Iterator[Document]:
    """The documents of a file; empty lines are skipped.

    Raises:
        DataError: names the line, what was found and what was expected.
    """
    for line in read_lines(path):
        if line.text.strip():
            record = parse_json(line, dict)
            text = check_unicode(line, take(line, record, "text", str))
            entities = in_order(_entities(line, text, take(line, record, "label", dict)))
            yield Document(text=text, entities=entities, id=read_identifier(line, record))


def write(documents: Iterable[Document], path: Path) -> None:
    """Write documents; scores and metadata are left out.

    Raises:
        DataError: names the document.
    """
    write_lines(path, (_line(path, index, document) for index, document in enumerate(documents)))


def _entities(line: Line, text: str, labels: dict[str, Any]) -> Iterator[Entity]:
    for label, mentions in labels.items():
        for mention, spans in expect(line, mentions, dict, f"label.{label}").items():
            where = f"label.{label}.{mention}"
            for span in expect(line, spans, list, where):
                start, end = _span(line, span, where)
                yield check_entity(line, text, Entity(start, end, label), where, mention)


def _span(line: Line, value: object, where: str) -> tuple[int, int]:
    pair = expect(line, value, list, where)
    if len(pair) != 2:
        raise line.error(f"{where}: found {pair!r}, expected [start, end]")
    start, last = (expect(line, offset, int, where) for offset in pair)
    return start, last + 1


def _line(path: Path, index: int, document: Document) -> str:
    check_writable(path, index, document)
    labels: dict[str, dict[str, list[list[int]]]] = {}
    for entity in document.entities:
        mentions = labels.setdefault(entity.label, {})
        mentions.setdefault(document.text[entity.start : entity.end], []).append([entity.start, entity.end - 1])
    record: dict[str, object] = {} if document.id is None else {"id": document.id}
    return to_json(path, index, record | {"text": document.text, "label": labels})
