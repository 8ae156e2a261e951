"""What every reader and writer checks: JSON values of the right type, spans that fit their text. Knows no format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ner_service.errors import DataError
from ner_service.formats.lines import Line
from ner_service.types import Entity

T = TypeVar("T")

_KINDS = {str: "a string", int: "a whole number", list: "a list", dict: "an object", float: "a number"}


def parse_json(line: Line, kind: type[T]) -> T:
    """The JSON value of a line.

    Raises:
        DataError: not JSON, or of another kind.
    """
    try:
        value = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        raise line.error(f"found no valid JSON ({error}), expected {_KINDS[kind]}") from None
    return expect(line, value, kind, "the line")


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


def check_text(line: Line, text: str) -> str:
    """The text, if it is Unicode.

    Raises:
        DataError: a lone surrogate.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}"
        raise line.error(f"text: found {found}, expected Unicode text") from None
    return text


def check_entity(line: Line, text: str, entity: Entity, where: str, mention: str | None = None) -> Entity:
    """The entity, if it lies in the text, has a label and, where the file spells the mention out, covers it.

    Raises:
        DataError: it does not.
    """
    span = f"[{entity.start}, {entity.end})"
    if not entity.label:
        raise line.error(f"{where}: found an empty label, expected a name")
    check_text(line, entity.label)
    if not 0 <= entity.start < entity.end <= len(text):
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


def refuse(path: object, index: int, detail: str) -> DataError:
    """A document that the format to be written cannot hold; `index` counts from 0."""
    return DataError(str(path), None, f"document {index + 1}: {detail}")


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
