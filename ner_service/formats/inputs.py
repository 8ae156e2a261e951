"""What is to be recognised: plain files, JSON Lines of texts and of pages, standard input. Knows no annotation."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ner_service.errors import DataError
from ner_service.formats.checks import parse_json, read_identifier, take
from ner_service.formats.lines import Line, read_lines
from ner_service.formats.pages import page_of_record
from ner_service.types import Page, PageOrder

STANDARD_INPUT = "standard input"


@dataclass(frozen=True, slots=True)
class Input:
    """A text or a page, and the name it is answered by; `order` is that of a page's words."""

    id: str | None
    content: str | Page
    order: PageOrder = "reading"


def read_inputs(paths: Sequence[Path], *, lines: bool) -> Iterator[Input]:
    """What files hold, in order, or standard input where there is no file.

    A file named `.jsonl` or `.jsonl.gz` holds an object a line, a text or a page as over HTTP; any other file is one
    text, or with `lines` a text a line, empty lines included. Ids are the objects' own; else the file's name, with the
    line's number.

    Raises:
        DataError: a file cannot be read, or a line is not an object with a text or a page.
    """
    if not paths:
        yield from _read_standard_input(lines=lines)
    for path in paths:
        if path.name.removesuffix(".gz").endswith(".jsonl"):
            yield from _read_json_lines(path)
        elif lines:
            yield from (Input(f"{path}:{line.number}", line.text) for line in read_lines(path))
        else:
            yield Input(str(path), _read_whole(path))


def _read_standard_input(*, lines: bool) -> Iterator[Input]:
    """Bytes are decoded here: Python's text mode would alter line ends."""
    if not lines:
        yield Input(None, _decode(STANDARD_INPUT, None, sys.stdin.buffer.read()))
        return
    for number, content in enumerate(sys.stdin.buffer, start=1):
        yield Input(None, _decode(STANDARD_INPUT, number, content.removesuffix(b"\n").removesuffix(b"\r")))


def _read_json_lines(path: Path) -> Iterator[Input]:
    for line in read_lines(path):
        if not line.text.strip():
            continue
        record = parse_json(line, dict)
        yield Input(read_identifier(line, record), _content(line, record), _order(line, record))


def _content(line: Line, record: dict[str, Any]) -> str | Page:
    return page_of_record(line, record) if "words" in record else take(line, record, "text", str)


def _order(line: Line, record: dict[str, Any]) -> PageOrder:
    match record.get("order", "reading"):
        case "reading":
            return "reading"
        case "given":
            return "given"
        case found:
            raise line.error(f"order: found {found!r}, expected 'reading' or 'given'")


def _read_whole(path: Path) -> str:
    """The file as it is, line ends too: offsets count its characters."""
    try:
        return _decode(path, None, path.read_bytes())
    except OSError as error:
        raise DataError(path, None, f"cannot be read: {error.strerror}") from error


def _decode(path: Path | str, line: int | None, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig" if line in (None, 1) else "utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02X} at position {error.start}"
        raise DataError(path, line, f"found {found}, expected UTF-8") from None
