"""What every reader and writer checks: JSON values of the right type, spans that fit their text. Knows no format."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from ner_service.errors import DataError
from ner_service.formats.lines import Line
from ner_service.records import json_object
from ner_service.types import LABEL, Document, Entity, is_label, lone_surrogate

T = TypeVar("T")

_KINDS = {str: "a string", int: "a whole number", list: "a list", dict: "an object", float: "a number"}
_SPACE = re.compile(r"[ \t\n]*")


def parse_json(line: Line, kind: type[T]) -> T:
    """The JSON value of a line.

    Raises:
        DataError: not JSON, or of another kind.
    """
    try:
        value = json.loads(line.text, object_pairs_hook=json_object)
    except (ValueError, RecursionError) as error:
        raise line.error(f"found no valid JSON ({error}), expected {_KINDS[kind]}") from None
    return expect(line, value, kind, "the file" if line.number is None else "the line")


def parse_array(lines: Iterable[Line]) -> Iterator[tuple[Line, object]]:
    """The items of a JSON array that stands on one or many lines, each with the line where it begins.

    Raises:
        DataError: no JSON array.
    """
    rows = list(lines)
    content = "\n".join(row.text for row in rows)
    starts = list(accumulate((len(row.text) + 1 for row in rows[:-1]), initial=0))

    def line_at(position: int) -> Line:
        return rows[bisect_right(starts, position) - 1]

    decoder = json.JSONDecoder(object_pairs_hook=json_object)
    position = _after_space(content, content.index("[") + 1)
    closed = content[position : position + 1] == "]"
    while not closed:
        try:
            value, end = decoder.raw_decode(content, position)
        except (ValueError, RecursionError) as error:
            found = f"no valid JSON ({getattr(error, 'msg', error)})"
            raise line_at(getattr(error, "pos", position)).error(f"found {found}, expected a JSON value") from None
        yield line_at(position), value
        position = _after_space(content, end)
        found = content[position : position + 1]
        if found not in (",", "]"):
            raise line_at(position).error(f"found {_shown(found)}, expected a comma or the end of the array")
        closed = found == "]"
        position = position if closed else _after_space(content, position + 1)
    if rest := content[position + 1 :].strip():
        raise line_at(position).error(f"found {_shown(rest)} after the array, expected the end of the file")


def _after_space(content: str, position: int) -> int:
    match = _SPACE.match(content, position)
    return match.end() if match else position


def expect(line: Line, value: object, kind: type[T], name: str) -> T:
    """The value, if it is of the kind; true and false are no numbers.

    Raises:
        DataError: it is not.
    """
    if not isinstance(value, kind) or isinstance(value, bool):
        raise line.error(f"{name}: found {_shown(value)}, expected {_KINDS[kind]}")
    return value


def take(line: Line, record: Mapping[str, Any], key: str, kind: type[T], where: str = "") -> T:
    """The value of a key that must be there.

    Raises:
        DataError: no such key, or a value of another kind.
    """
    name = f"{where}.{key}" if where else key
    if key not in record:
        found = ", ".join(map(repr, record)) or "none"
        raise line.error(f"{name}: missing; found the keys {found}, expected {_KINDS[kind]}")
    return expect(line, record[key], kind, name)


def read_identifier(line: Line, record: Mapping[str, Any]) -> str | None:
    """The value of "id", if any; a number becomes a string.

    Raises:
        DataError: neither a string nor a whole number.
    """
    value = record.get("id")
    if value is None:
        return None
    return str(value) if type(value) is int else check_unicode(line, expect(line, value, str, "id"), "id")


def check_unicode(line: Line, text: str, name: str = "text") -> str:
    """The text, if it is Unicode.

    Raises:
        DataError: a lone surrogate.
    """
    if found := lone_surrogate(text):
        raise line.error(f"{name}: found {found}, expected Unicode text")
    return text


def check_label(line: Line, label: str, where: str) -> str:
    """The label, if it is one.

    Raises:
        DataError: a lone surrogate, nothing, or white space at its ends or several lines.
    """
    if not is_label(check_unicode(line, label, f"{where}: label")):
        raise line.error(f"{where}: found the label {_shown(label)}, expected {LABEL}")
    return label


def check_entity(line: Line, text: str, entity: Entity, where: str, mention: str | None = None) -> Entity:
    """The entity, if it lies in the text, has a label and, where the file spells the mention out, covers it.

    Raises:
        DataError: it does not.
    """
    span = f"[{entity.start}, {entity.end})"
    check_label(line, entity.label, where)
    if not _fits(text, entity):
        expected = f"0 <= start < end <= {len(text)}, the length of the text"
        raise line.error(f"{where}: found the span {span}, expected {expected}")
    covered = text[entity.start : entity.end]
    if mention is not None and mention != covered:
        raise line.error(
            f"{where}: found the mention {_shown(mention)}, expected {_shown(covered)}, the text of {span}"
        )
    return entity


def in_order(entities: Iterable[Entity]) -> tuple[Entity, ...]:
    """The entities in the order of `Entity.key`, equal ones once."""
    return tuple(sorted(dict.fromkeys(entities), key=lambda entity: entity.key))


def refuse(path: Path, index: int, detail: str) -> DataError:
    """A document that the format to be written cannot hold; `index` counts from 0."""
    return DataError(path, None, f"document {index + 1}: {detail}")


def check_writable(path: Path, index: int, document: Document, *, partial: bool = False) -> None:
    """Refuse lone surrogates, entities that do not fit the text and, unless the format can say so, partial annotation.

    Raises:
        DataError: names the document.
    """
    for value in (document.text, document.id or "", *(entity.label for entity in document.entities)):
        if found := lone_surrogate(value):
            raise refuse(path, index, f"found {found}, expected Unicode text")
    for entity in document.entities:
        if not _fits(document.text, entity):
            raise refuse(path, index, f"found {entity}, expected a span within {len(document.text)} characters")
    if document.scattered:
        raise refuse(
            path, index, "found mentions scattered over a page, expected spans; write pages in the order given"
        )
    if document.annotated is not None and not partial:
        raise refuse(path, index, "found partial annotation, expected all labels annotated; only jsonl can say so")


def to_json(path: Path, index: int, record: Mapping[str, object]) -> str:
    """A document as one line of JSON.

    Raises:
        DataError: a value that JSON or UTF-8 cannot hold.
    """
    try:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False)
        line.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise refuse(path, index, f"found {error}, expected Unicode text and JSON values") from None
    return line


def _fits(text: str, entity: Entity) -> bool:
    return 0 <= entity.start < entity.end <= len(text)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
