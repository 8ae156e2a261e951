"""JSON Lines: one document a line, `{"id", "text", "entities": [{"start", "end", "label"}]}`.

Offsets are code points, end exclusive. Optional: `id`, `annotated` (the labels that the annotators looked for), `flat`
(true where they marked outermost mentions alone), in an entity `score` and `text` (its mention, checked). Any other
key of a document is metadata.
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
    refuse,
    take,
    to_json,
)
from ner_service.formats.lines import Line, read_lines, write_lines
from ner_service.types import Document, Entity

_KEYS = ("id", "text", "entities", "annotated", "flat")


def read(path: Path) -> Iterator[Document]:
    """The documents of a file; empty lines are skipped.

    Raises:
        DataError: names the line, what was found and what was expected.
    """
    for line in read_lines(path):
        if line.text.strip():
            yield _document(line, parse_json(line, dict))


def write(documents: Iterable[Document], path: Path) -> None:
    """Write documents; a metadata key named like one of the format's own cannot be written.

    Raises:
        DataError: names the document.
    """
    write_lines(path, (_line(path, index, document) for index, document in enumerate(documents)))


def _document(line: Line, record: dict[str, Any]) -> Document:
    text = check_unicode(line, take(line, record, "text", str))
    items = take(line, record, "entities", list)
    entities = in_order(_entity(line, text, item, f"entities[{index}]") for index, item in enumerate(items))
    return Document(
        text=text,
        entities=entities,
        id=read_identifier(line, record),
        annotated=_annotated(line, record.get("annotated"), entities),
        flat=_flat(line, record.get("flat", False)),
        metadata={key: value for key, value in record.items() if key not in _KEYS},
    )


def _entity(line: Line, text: str, item: object, where: str) -> Entity:
    record = expect(line, item, dict, where)
    start = take(line, record, "start", int, where)
    end = take(line, record, "end", int, where)
    label = take(line, record, "label", str, where)
    score = record.get("score")
    if score is not None:
        score = float(expect(line, score, int if isinstance(score, int) else float, f"{where}.score"))
    mention = expect(line, record["text"], str, f"{where}.text") if "text" in record else None
    return check_entity(line, text, Entity(start, end, label, score), where, mention)


def _annotated(line: Line, value: object, entities: tuple[Entity, ...]) -> frozenset[str] | None:
    if value is None:
        return None
    items = expect(line, value, list, "annotated")
    labels = frozenset(expect(line, item, str, f"annotated[{index}]") for index, item in enumerate(items))
    for entity in entities:
        if entity.label not in labels:
            raise line.error(f"annotated: found an entity {entity.label!r}, expected only {sorted(labels)}")
    return labels


def _flat(line: Line, value: object) -> bool:
    if not isinstance(value, bool):
        raise line.error(f"flat: found {value!r}, expected true or false")
    return value


def _line(path: Path, index: int, document: Document) -> str:
    check_writable(path, index, document, partial=True)
    clash = [key for key in document.metadata if key in _KEYS]
    if clash:
        raise refuse(path, index, f"found metadata {clash[0]!r}, expected other keys than {', '.join(_KEYS)}")
    record: dict[str, object] = {} if document.id is None else {"id": document.id}
    record |= {"text": document.text, "entities": [_item(entity) for entity in document.entities]}
    if document.annotated is not None:
        record["annotated"] = sorted(document.annotated)
    if document.flat:
        record["flat"] = True
    return to_json(path, index, record | dict(document.metadata))


def _item(entity: Entity) -> dict[str, object]:
    item: dict[str, object] = {"start": entity.start, "end": entity.end, "label": entity.label}
    return item if entity.score is None else item | {"score": entity.score}
