"""CMeEE: a JSON array or JSON lines, `{"text", "entities": [{"start_idx", "end_idx", "type", "entity"}]}`, or text
lines `text|||start    end    label|||...|||` as first published.

Offsets are code points, end *inclusive*. A mention in `entity` is checked, so that a file with exclusive ends is
refused. Other keys are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ner_service.formats.checks import (
    check_entity,
    check_unicode,
    check_writable,
    expect,
    in_order,
    parse_array,
    parse_json,
    read_identifier,
    take,
    to_json,
)
from ner_service.formats.lines import Line, read_lines, write_lines
from ner_service.types import Document, Entity

_BAR = "|||"


def read(path: Path) -> Iterator[Document]:
    """The documents of a file; empty lines are skipped.

    Raises:
        DataError: names the line (of an array, the one where the document begins), what was found and expected.
    """
    lines: Iterator[Line] = (line for line in read_lines(path) if line.text.strip())
    first = next(lines, None)
    if first is None:
        return
    lines = chain([first], lines)
    if has_bars(first.text):
        yield from map(_read_bars, lines)
    elif first.text.lstrip().startswith("["):
        for line, record in parse_array(lines):
            yield _read_record(line, expect(line, record, dict, "the document"))
    else:
        for line in lines:
            yield _read_record(line, parse_json(line, dict))


def write(documents: Iterable[Document], path: Path) -> None:
    """Write documents as a JSON array, one a line; scores and metadata are left out.

    Raises:
        DataError: names the document.
    """
    write_lines(path, _array_lines(path, documents))


def has_bars(line: str) -> bool:
    """Whether a line is of the text form; no line of JSON ends so."""
    return line.rstrip().endswith(_BAR)


def _read_record(line: Line, record: dict[str, Any]) -> Document:
    text = check_unicode(line, take(line, record, "text", str))
    items = enumerate(take(line, record, "entities", list))
    entities = in_order(_entity(line, text, item, f"entities[{index}]") for index, item in items)
    return Document(text=text, entities=entities, id=read_identifier(line, record))


def _entity(line: Line, text: str, item: object, where: str) -> Entity:
    record = expect(line, item, dict, where)
    start = take(line, record, "start_idx", int, where)
    last = take(line, record, "end_idx", int, where)
    label = take(line, record, "type", str, where)
    mention = take(line, record, "entity", str, where) if "entity" in record else None
    return check_entity(line, text, Entity(start, last + 1, label), where, mention)


def _read_bars(line: Line) -> Document:
    if not has_bars(line.text):
        raise line.error(f'found no "{_BAR}" at the end, expected text{_BAR}start end label{_BAR}')
    text, *items = line.text.rstrip().removesuffix(_BAR).split(_BAR)
    entities = in_order(_bar_entity(line, text, item, f"entity {index + 1}") for index, item in enumerate(items))
    return Document(text=text, entities=entities)


def _bar_entity(line: Line, text: str, item: str, where: str) -> Entity:
    parts = item.split()
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts[:2]):
        raise line.error(f"{where}: found {item!r}, expected: start end label")
    return check_entity(line, text, Entity(int(parts[0]), int(parts[1]) + 1, parts[2]), where)


def _array_lines(path: Path, documents: Iterable[Document]) -> Iterator[str]:
    separator = "["
    for index, document in enumerate(documents):
        check_writable(path, index, document)
        entities = [_item(document.text, entity) for entity in document.entities]
        record: dict[str, object] = {} if document.id is None else {"id": document.id}
        yield separator + to_json(path, index, record | {"text": document.text, "entities": entities})
        separator = ","
    yield "]" if separator == "," else "[]"


def _item(text: str, entity: Entity) -> dict[str, object]:
    mention = text[entity.start : entity.end]
    return {"start_idx": entity.start, "end_idx": entity.end - 1, "type": entity.label, "entity": mention}
