"""What is to be recognised: plain files, JSON and JSON Lines of texts and of pages, ALTO, FUNSD, hOCR, standard input.

Knows no annotation: whatever else an object has is passed over.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ner_service.errors import DataError
from ner_service.formats import read_documents
from ner_service.formats.checks import parse_json, read_identifier
from ner_service.formats.detection import page_format
from ner_service.formats.lines import Line, read_lines, read_whole
from ner_service.formats.pages import read_content
from ner_service.types import Page, PageOrder

STANDARD_INPUT = "standard input"


@dataclass(frozen=True, slots=True)
class Input:
    """A text, a page, or why it is neither, and the name it is answered by; `order` is that of a page's words."""

    id: str | None
    content: str | Page | DataError
    order: PageOrder = "reading"


def read_inputs(paths: Sequence[Path], *, lines: bool) -> Iterator[Input]:
    """What files hold, in order, or standard input where there is no file.

    A file named `.jsonl` holds an object a line, a text or a page as over HTTP, one named `.json` such an object alone;
    a fault of an object is its content. A file of hOCR, ALTO or FUNSD holds pages. These may be gzipped. Any other file
    is one text, or with `lines` a text a line, empty lines included. An id is the object's own; else it is the file's
    name, with the number of the line or page.

    Raises:
        DataError: a file cannot be read, or what should be an object is none.
    """
    if not paths:
        yield from _read_standard_input(lines=lines)
    for path in paths:
        name = path.name.removesuffix(".gz")
        if name.endswith(".jsonl"):
            objects = (line for line in read_lines(path) if line.text.strip())
            yield from (_input(line, parse_json(line, dict), f"{path}:{line.number}") for line in objects)
        elif path.is_file() and (format := page_format(path)):
            pages = enumerate(read_documents(path, format), start=1)
            yield from (Input(f"{path}:{number}", page.content) for number, page in pages)
        elif name.endswith(".json"):
            whole = read_whole(path)
            yield _input(whole, parse_json(whole, dict), str(path))
        elif lines:
            yield from (Input(f"{path}:{line.number}", line.text) for line in read_lines(path))
        else:
            yield Input(str(path), _read_whole(path))


def check_inputs(paths: Sequence[Path]) -> None:
    """Whether every file is there to be read. Opens none of them: a pipe can be read only once.

    Raises:
        DataError: a path is no file, or one that may not be read.
    """
    for path in paths:
        try:
            if stat.S_ISDIR(path.stat().st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not os.access(path, os.R_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise DataError(path, None, f"cannot be read: {error.strerror}") from error


def _read_standard_input(*, lines: bool) -> Iterator[Input]:
    """Bytes are decoded here: Python's text mode would alter line ends."""
    if not lines:
        yield Input(None, _decode(STANDARD_INPUT, None, sys.stdin.buffer.read()))
        return
    for number, content in enumerate(sys.stdin.buffer, start=1):
        yield Input(None, _decode(STANDARD_INPUT, number, content.removesuffix(b"\n").removesuffix(b"\r")))


def _input(line: Line, record: dict[str, Any], name: str) -> Input:
    try:
        own = read_identifier(line, record)
        name = name if own is None else own
        content = read_content(line, record)
        return Input(name, content, "reading" if isinstance(content, str) else _order(line, record))
    except DataError as fault:
        return Input(name, fault)


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
