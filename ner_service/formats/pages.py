"""What the formats of pages share: words and boxes of a file as a `Page`. Knows no format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ner_service.errors import DataError, InvalidPageError
from ner_service.formats.checks import expect, take
from ner_service.formats.lines import Line
from ner_service.types import Box, Page

Word = tuple[str, Box]


def page_of(line: Line, words: Sequence[Word], size: tuple[float, float] | None) -> Page:
    """The page of these words; without a size it is as large as they need.

    Raises:
        DataError: no page can be such; names the word.
    """
    if size is None:
        size = (max([1.0, *(box[2] for _, box in words)]), max([1.0, *(box[3] for _, box in words)]))
    try:
        return Page(tuple(word for word, _ in words), tuple(box for _, box in words), size)
    except InvalidPageError as error:
        raise line.error(str(error)) from error


def clipped(words: Iterable[Word], size: tuple[float, float] | None) -> list[Word]:
    """The words, their boxes cut to the page: engines round, and then a box reaches over an edge.

    A box that lies beside the page, or has a number that is not finite, stays as it is, for `page_of` to refuse.
    """
    width, height = size or (math.inf, math.inf)
    return [(text, _clipped(box, width, height)) for text, box in words]


def read_content(line: Line, record: dict[str, Any]) -> str | Page:
    """The text of a JSON object with `text`, else the page of one with `words`, `boxes` and `page`.

    Raises:
        DataError: names what is wrong, and the word.
    """
    if "text" in record:
        return take(line, record, "text", str)
    if "words" not in record:
        found = ", ".join(map(repr, record)) or "none"
        raise line.error(f"text: missing; found the keys {found}, expected 'text', or 'words' of a page")
    words = [expect(line, word, str, f"words[{index}]") for index, word in enumerate(take(line, record, "words", list))]
    items = take(line, record, "boxes", list)
    if len(items) != len(words):
        raise line.error(f"boxes: found {len(items)} boxes, expected {len(words)}, one for each word")
    boxes = [box_of(line, box, f"boxes[{index}]") for index, box in enumerate(items)]
    width, height = numbers(line, record.get("page"), 2, "page")
    return page_of(line, list(zip(words, boxes, strict=True)), (width, height))


def numbers(line: Line, value: object, count: int, where: str) -> tuple[float, ...]:
    """The numbers of a JSON array of so many.

    Raises:
        DataError: anything else.
    """
    items = expect(line, value, list, where)
    if len(items) != count:
        raise line.error(f"{where}: found {len(items)} numbers, expected {count}")
    for index, item in enumerate(items):
        expect(line, item, int if type(item) is int else float, f"{where}[{index}]")
    return tuple(as_float(item) for item in items)


def box_of(line: Line, value: object, where: str) -> Box:
    """The box of a JSON array `[x0, y0, x1, y1]`.

    Raises:
        DataError: anything else.
    """
    x0, y0, x1, y1 = numbers(line, value, 4, where)
    return x0, y0, x1, y1


def spread(text: str, box: Box) -> Iterator[Word]:
    """The words of a line that has one box: parted at white space, each with its share of the line's width."""
    x0, y0, x1, y1 = box
    step = (x1 - x0) / max(1, len(text))
    end = 0
    for word in text.split():
        start = text.index(word, end)
        end = start + len(word)
        yield word, (x0 + start * step, y0, x1 if end == len(text) else x0 + end * step, y1)


def files_of(path: Path, suffixes: Iterable[str]) -> list[Path]:
    """The file, or the folder's files with one of the suffixes, plain or gzipped, by name; hidden ones are left out.

    Raises:
        DataError: a folder without such a file.
    """
    if not path.is_dir():
        return [path]
    wanted = tuple(suffixes)
    named = (file for file in path.iterdir() if file.name.lower().removesuffix(".gz").endswith(wanted))
    files = sorted(file for file in named if not file.name.startswith("."))
    if not files:
        raise DataError(path, None, f"found no file in the folder, expected some that end in {', '.join(wanted)}")
    return files


def _clipped(box: Box, width: float, height: float) -> Box:
    x0, y0, x1, y1 = box
    if not all(map(math.isfinite, box)) or min(x1, y1) < 0 or x0 > width or y0 > height:
        return box
    return max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)


def as_float(number: int | float) -> float:
    """A whole number may be too large for a float; no page is."""
    try:
        return float(number)
    except OverflowError:
        return math.inf
