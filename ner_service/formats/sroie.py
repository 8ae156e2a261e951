"""SROIE: a folder with `box/NAME.csv` or `.txt`, the lines of a receipt, and `key/NAME.json` or `.txt`, what it says.

A line is `x1,y1,x2,y2,x3,y3,x4,y4,text`: the corners, then a text that may hold commas. It is parted into words at
white space, each with its share of the line's width. A key file is `{"company", "date", "address", "total"}` and does
not say where a value stands: a mention is where words spell the value, but for case and spaces: the last such place of
a total, which stands below what it sums up, the first of anything else. A value that is nowhere spelt so makes its
label one that the document is not annotated for. The key folder may be named `entities`. The id is the file's name.

Source: Huang et al., ICDAR 2019 competition on scanned receipt OCR and information extraction (arXiv 2103.10213).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ner_service.errors import DataError
from ner_service.formats.checks import check_label, expect, in_order, parse_json
from ner_service.formats.lines import Line, read_lines, read_whole
from ner_service.formats.pages import Word, files_of, page_of, spread
from ner_service.types import MAX_LENGTH, Document, Entity, Page, words_to_codepoints

BOXES = "box"
KEYS = ("key", "entities")
LAST = "total"
_KEY_SUFFIXES = (".json", ".txt", ".json.gz", ".txt.gz")
_NUM_CORNERS = 8


def read(path: Path) -> Iterator[Document]:
    """The receipts of a folder, by name.

    Raises:
        DataError: names the file and line, what was found and what was expected.
    """
    if not (path / BOXES).is_dir():
        raise DataError(path, None, f"found no folder {BOXES!r} in it, expected one beside a folder {KEYS[0]!r}")
    for file in files_of(path / BOXES, (".csv", ".txt")):
        words = [word for line in read_lines(file) if line.text.strip() for word in _words(line)]
        page = page_of(Line(file, None, ""), words, None)
        name = file.with_name(file.name.removesuffix(".gz")).stem
        whole = read_whole(_key_file(path, name))
        yield _document(name, page, whole, parse_json(whole, dict))


def _document(name: str, page: Page, whole: Line, values: Mapping[str, Any]) -> Document:
    entities = []
    found = set()
    for label, value in values.items():
        span = _find(page, expect(whole, value, str, check_label(whole, label, "a key")), last=label == LAST)
        if span is not None:
            entities.append(Entity(*words_to_codepoints(page, *span), label))
            found.add(label)
    return Document(
        text=page.text,
        entities=in_order(entities),
        id=name,
        annotated=None if len(found) == len(values) else frozenset(found),
        page=page,
    )


def _key_file(path: Path, name: str) -> Path:
    candidates = [path / folder / f"{name}{suffix}" for folder in KEYS for suffix in _KEY_SUFFIXES]
    for file in candidates:
        if file.is_file():
            return file
    raise DataError(candidates[0], None, "found no such file, expected what the receipt says")


def _words(line: Line) -> Iterator[Word]:
    fields = line.text.split(",", _NUM_CORNERS)
    try:
        corners = [float(field) for field in fields[:_NUM_CORNERS]]
    except ValueError as error:
        raise line.error(f"found {error}, expected {_NUM_CORNERS} numbers and a text, with commas between") from None
    if len(fields) <= _NUM_CORNERS:
        raise line.error(f"found {len(fields)} fields, expected {_NUM_CORNERS} numbers and a text")
    for corner in corners:
        if not 0 <= corner <= MAX_LENGTH:
            raise line.error(f"found the corner {corner}, expected a number from 0 to {MAX_LENGTH:g}")
    xs, ys = corners[::2], corners[1::2]
    return spread(fields[_NUM_CORNERS], (min(xs), min(ys), max(xs), max(ys)))


def _find(page: Page, value: str, *, last: bool) -> tuple[int, int] | None:
    """The words that spell a value, as a half-open range."""
    wanted = "".join(value.split()).casefold()
    words = [word.casefold() for word in page.words]
    firsts = range(len(words))
    for first in reversed(firsts) if last else firsts:
        end, spelt = first, ""
        while end < len(words) and len(spelt) < len(wanted) and wanted.startswith(spelt):
            spelt += "".join(words[end].split())
            end += 1
        if spelt == wanted != "":
            return first, end
    return None
