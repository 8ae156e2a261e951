"""Which format a file is in, by its content. Knows what tells formats apart, not how they are read."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

from ner_service.formats.conll import split_row
from ner_service.formats.lines import Line, read_lines
from ner_service.formats.tags import is_tag


def detect(path: Path) -> str:
    """A name of `FORMATS`. JSON is told by the keys of its first object, CoNLL by the letters of all its tags.

    A CoNLL file with only B-, I- and O is taken for "conll-bio", never for "conll-iob1". An empty file is "jsonl".

    Raises:
        DataError: no readable file, or one in none of the formats.
    """
    lines = (line for line in read_lines(path) if line.text.strip())
    first = next(lines, None)
    if first is None:
        return "jsonl"
    head = first.text.strip()
    if head.endswith("|||"):
        return "cmeee"
    if head[0] in "[{" and not is_tag(split_row(head)[1]):
        return "cmeee" if head[0] == "[" else _json_format(first)
    tags = (split_row(line.text)[1] for line in chain([first], lines) if not line.text.startswith("# "))
    letters = {tag[0] for tag in tags if is_tag(tag)}
    for format, telling in (("conll-bmes", "M"), ("conll-bilou", "LU"), ("conll-bioes", "ES"), ("conll-bio", "BIO")):
        if letters & set(telling):
            return format
    raise first.error(f"found {head[:60]!r}, expected JSON, text with ||| or rows of token and tag")


def _json_format(line: Line) -> str:
    try:
        record = json.loads(line.text)
    except (ValueError, RecursionError):
        return "jsonl"
    if "label" in record and "entities" not in record:
        return "cluener"
    items = record.get("entities")
    first = items[0] if isinstance(items, list) and items else None
    return "cmeee" if isinstance(first, dict) and "start_idx" in first else "jsonl"
