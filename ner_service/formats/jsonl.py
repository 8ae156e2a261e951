"""JSON Lines: one document a line, `{"id", "text", "entities": [{"start", "end", "label"}]}`.

A page has `words`, `boxes` (`[x0, y0, x1, y1]` of each) and `page` (`[width, height]`) in place of `text`. Beside a
`text` these three are metadata, as any other key of a document is.

Offsets are code points, or a page's words, end exclusive. Optional: `id`, `annotated` (the labels that the annotators
looked for), `flat` (true where they marked outermost mentions alone), in an entity `score` and `text` (its mention,
checked).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ner_service.formats.checks import (
    check_entity,
    check_label,
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
from ner_service.formats.pages import as_float, read_content
from ner_service.types import Document, Entity, Page, codepoints_to_words, words_to_codepoints

_TEXT_KEYS = ("id", "text", "entities", "annotated", "flat")
_PAGE_KEYS = (*_TEXT_KEYS, "words", "boxes", "page")


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
    content = read_content(line, record)
    page, text = (None, check_unicode(line, content)) if isinstance(content, str) else (content, content.text)
    items = take(line, record, "entities", list)
    entities = in_order(_entity(line, content, item, f"entities[{index}]") for index, item in enumerate(items))
    return Document(
        text=text,
        entities=entities,
        id=read_identifier(line, record),
        annotated=_annotated(line, record.get("annotated"), entities),
        flat=_flat(line, record.get("flat", False)),
        metadata={key: value for key, value in record.items() if key not in _keys(page)},
        page=page,
    )


def _keys(page: Page | None) -> tuple[str, ...]:
    """The keys that are no metadata."""
    return _TEXT_KEYS if page is None else _PAGE_KEYS


def _entity(line: Line, content: str | Page, item: object, where: str) -> Entity:
    record = expect(line, item, dict, where)
    start = take(line, record, "start", int, where)
    end = take(line, record, "end", int, where)
    label = take(line, record, "label", str, where)
    score = record.get("score")
    if score is not None:
        score = as_float(expect(line, score, int if type(score) is int else float, f"{where}.score"))
        if not math.isfinite(score):
            raise line.error(f"{where}.score: found {score}, expected a finite number")
    mention = expect(line, record["text"], str, f"{where}.text") if "text" in record else None
    if isinstance(content, str):
        return check_entity(line, content, Entity(start, end, label, score), where, mention)
    if not 0 <= start < end <= len(content.words):
        expected = f"0 <= start < end <= {len(content.words)}, the number of words"
        raise line.error(f"{where}: found the span [{start}, {end}), expected {expected}")
    spanned = Entity(*words_to_codepoints(content, start, end), label, score)
    return check_entity(line, content.text, spanned, where, mention)


def _annotated(line: Line, value: object, entities: tuple[Entity, ...]) -> frozenset[str] | None:
    if value is None:
        return None
    items = expect(line, value, list, "annotated")
    placed = ((f"annotated[{index}]", item) for index, item in enumerate(items))
    labels = frozenset(check_label(line, expect(line, item, str, where), where) for where, item in placed)
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
    keys = _keys(document.page)
    clash = [key for key in document.metadata if key in keys]
    if clash:
        raise refuse(path, index, f"found metadata {clash[0]!r}, expected other keys than {', '.join(keys)}")
    record: dict[str, object] = {} if document.id is None else {"id": document.id}
    record |= {"text": document.text} if document.page is None else _page_record(document.page)
    record["entities"] = [_item(path, index, document, entity) for entity in document.entities]
    if document.annotated is not None:
        record["annotated"] = sorted(document.annotated)
    if document.flat:
        record["flat"] = True
    return to_json(path, index, record | dict(document.metadata))


def _page_record(page: Page) -> dict[str, object]:
    return {"words": list(page.words), "boxes": [list(box) for box in page.boxes], "page": list(page.size)}


def _item(path: Path, index: int, document: Document, entity: Entity) -> dict[str, object]:
    start, end = entity.start, entity.end
    if document.page is not None:
        start, end = codepoints_to_words(document.page, entity.start, entity.end)
        if start == end or words_to_codepoints(document.page, start, end) != (entity.start, entity.end):
            raise refuse(path, index, f"found {entity} in a page, expected the code points of whole words")
    item: dict[str, object] = {"start": start, "end": end, "label": entity.label}
    return item if entity.score is None else item | {"score": entity.score}
