"""Texts to recognise: plain files, JSON Lines `{"id", "text"}`, standard input. Knows no annotation."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ner_service.errors import DataError
from ner_service.formats.checks import expect, parse_json
from ner_service.formats.lines import read_lines


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
    if lines:
        yield from (Input(None, line.rstrip("\r\n")) for line in sys.stdin)
    else:
        yield Input(None, sys.stdin.read())


def _read_json_lines(path: Path) -> Iterator[Input]:
    for line in read_lines(path):
        if not line.text.strip():
            continue
        value = parse_json(line, dict)
        if "text" not in value:
            raise line.error(f"found the keys {', '.join(map(repr, value))}, expected 'text' among them")
        name = value.get("id")
        yield Input(None if name is None else str(name), expect(line, value["text"], str, "'text'"))


def _read_whole(path: Path) -> str:
    """The file as it is, line ends too: offsets count its characters."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(path, None, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        raise DataError(path, None, f"found {found}, expected UTF-8") from None
