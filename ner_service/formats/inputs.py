"""Texts to recognise: plain files, JSON Lines `{"id", "text"}`, standard input. Knows no annotation."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ner_service.errors import DataError
from ner_service.formats.checks import parse_json, read_identifier, take
from ner_service.formats.lines import read_lines

STANDARD_INPUT = "standard input"


@dataclass(frozen=True, slots=True)
class Input:
    """A text and the name it is answered by."""

    id: str | None
    text: str


def read_inputs(paths: Sequence[Path], *, lines: bool) -> Iterator[Input]:
    """The texts of files in order, or of standard input where there is no file.

    A file named `.jsonl` or `.jsonl.gz` holds an object a line; any other file is one text, or with `lines` a text a
    line, empty lines included. Ids are the objects' own; else the file's name, with the line's number.

    Raises:
        DataError: a file cannot be read, or a line is not an object with a text.
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
        yield Input(read_identifier(line, record), take(line, record, "text", str))


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
