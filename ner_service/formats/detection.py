"""Which format a file is in, by its content. Knows what tells formats apart, not how they are read."""

from __future__ import annotations

import json
import re
from itertools import chain
from pathlib import Path

from ner_service.formats import alto, funsd, hocr
from ner_service.formats.conll import split_row
from ner_service.formats.lines import Line, read_bytes, read_lines
from ner_service.formats.pages import files_of
from ner_service.formats.tags import is_tag

_HEAD_BYTES = 1 << 20
_BYTE_ORDER_MARKS = "\xef\xbb\xbf\xfe\xff"
_ALTO = re.compile(r"<(\w+:)?alto\b", re.IGNORECASE)
_SUFFIXES = (*alto.SUFFIXES, *funsd.SUFFIXES, *hocr.SUFFIXES)
_FORM = re.compile(r'\{\s*("form"\s*:|("[^"\\]*"\s*:\s*("[^"\\]*"|[-\d.]+)\s*,\s*)+"form"\s*:\s*\[\s*\{)')
"""Its list of items, behind names and numbers at most."""


def detect(path: Path) -> str:
    """A name of `FORMATS`. JSON is told by the keys of its first object, CoNLL by the letters of all its tags.

    A CoNLL file with only B-, I- and O is taken for "conll-bio", never for "conll-iob1". An empty file is "jsonl". XML
    and HTML are told by their elements, a folder by its first page, SROIE's by its folder of boxes.

    Raises:
        DataError: no readable file, or one in none of the formats.
    """
    if path.is_dir():
        return "sroie" if (path / "box").is_dir() else detect(files_of(path, _SUFFIXES)[0])
    if format := page_format(path):
        return format
    lines = (line for line in read_lines(path) if line.text.strip())
    first = next(lines, None)
    if first is None:
        return "jsonl"
    head = first.text.strip()
    if head.endswith("|||"):
        return "cmeee"
    if head[0] == "<" and not is_tag(split_row(head)[1]):
        raise first.error(f"found {head[:60]!r}, expected ALTO XML or hOCR where a file begins like that")
    if head[0] in "[{" and not is_tag(split_row(head)[1]):
        return "cmeee" if head[0] == "[" else _json_format(first)
    tags = (split_row(line.text)[1] for line in chain([first], lines) if not line.text.startswith("# "))
    letters = {tag[0] for tag in tags if is_tag(tag)}
    for format, telling in (("conll-bmes", "M"), ("conll-bilou", "LU"), ("conll-bioes", "ES"), ("conll-bio", "BIO")):
        if letters & set(telling):
            return format
    raise first.error(f"found {head[:60]!r}, expected JSON, text with ||| or rows of token and tag")


def page_format(path: Path) -> str | None:
    """The format of a file that begins like ALTO, hOCR or FUNSD, in whatever encoding; None for any other file.

    Raises:
        DataError: no readable file, or damaged gzip.
    """
    # What tells these formats is ASCII: of UTF-16 it is every other byte, in other encodings the bytes are its own.
    head = read_bytes(path, _HEAD_BYTES).replace(b"\0", b"").decode("latin-1").lstrip(_BYTE_ORDER_MARKS).lstrip()
    if _FORM.match(head):
        return "funsd"
    if not head.startswith("<") or is_tag(split_row(head.splitlines()[0])[1]):
        return None
    if _ALTO.search(head):
        return "alto"
    return "hocr" if "ocr_page" in head else None


def _json_format(line: Line) -> str:
    try:
        record = json.loads(line.text)
    except (ValueError, RecursionError):
        return "jsonl"
    if "form" in record and "text" not in record:
        return "funsd"
    if "label" in record and "entities" not in record:
        return "cluener"
    items = record.get("entities")
    first = items[0] if isinstance(items, list) and items else None
    return "cmeee" if isinstance(first, dict) and "start_idx" in first else "jsonl"
