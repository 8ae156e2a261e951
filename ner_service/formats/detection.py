"""Which format a file is in, by its content. Knows what tells formats apart, not how they are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from ner_service.errors import DataError
from ner_service.formats.conll import split_row
from ner_service.formats.lines import Line, read_lines
from ner_service.formats.tags import is_tag


def detect(path: Path) -> str:
    """A name of `FORMATS`. JSON is told by the keys of its first object, CoNLL by the letters of all its tags.

    A CoNLL file with only B-, I- and O is taken for "conll-bio", never for "conll-iob1". An empty file is "jsonl". XML
    and HTML are told by their elements, a folder is of the format of its first file, SROIE's by its folder of boxes.

    Raises:
        DataError: no readable file, or one in none of the formats.
    """
    if path.is_dir():
        return _folder_format(path)
    lines = (line for line in read_lines(path) if line.text.strip())
    first = next(lines, None)
    if first is None:
        return "jsonl"
    head = first.text.strip()
    if head.endswith("|||"):
        return "cmeee"
    if head[0] == "<" and not is_tag(split_row(head)[1]):
        return _markup_format(first, lines)
    if head == "{":
        return "funsd" if next(lines, first).text.lstrip().startswith('"form"') else "jsonl"
    if head[0] in "[{" and not is_tag(split_row(head)[1]):
        return "cmeee" if head[0] == "[" else _json_format(first)
    tags = (split_row(line.text)[1] for line in chain([first], lines) if not line.text.startswith("# "))
    letters = {tag[0] for tag in tags if is_tag(tag)}
    for format, telling in (("conll-bmes", "M"), ("conll-bilou", "LU"), ("conll-bioes", "ES"), ("conll-bio", "BIO")):
        if letters & set(telling):
            return format
    raise first.error(f"found {head[:60]!r}, expected JSON, text with ||| or rows of token and tag")


def _folder_format(path: Path) -> str:
    """The format of a folder's files."""
    if (path / "box").is_dir():
        return "sroie"
    files = sorted(file for file in path.iterdir() if file.is_file())
    if not files:
        raise DataError(path, None, "found an empty folder, expected a file a page")
    return detect(files[0])


def _markup_format(first: Line, lines: Iterable[Line]) -> str:
    for line in chain([first], lines):
        markup = line.text.lower()
        if re.search(r"<(\w+:)?alto\b", markup):
            return "alto"
        if "<html" in markup or "ocr_page" in markup:
            return "hocr"
    raise first.error(f"found {first.text.strip()[:60]!r}, expected ALTO XML or hOCR where a file begins like that")


def _json_format(line: Line) -> str:
    try:
        record = json.loads(line.text)
    except (ValueError, RecursionError):
        return "jsonl"
    if "form" in record:
        return "funsd"
    if "label" in record and "entities" not in record:
        return "cluener"
    items = record.get("entities")
    first = items[0] if isinstance(items, list) and items else None
    return "cmeee" if isinstance(first, dict) and "start_idx" in first else "jsonl"
