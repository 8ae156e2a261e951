"""Files of annotated documents: readers and writers, one file a format. Knows no model and no tokenizer.

Readers yield each document's entities in the order of `Entity.key`, identical spans once, and refuse what they cannot
read: every fault is a `DataError` that names file, line, what was found and what was expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ner_service.errors import ConfigError, DataError
from ner_service.formats import alto, cluener, cmeee, conll, funsd, hocr, jsonl, sroie, tags
from ner_service.formats.detection import detect
from ner_service.types import Document

FORMATS = (
    "jsonl",
    "cluener",
    "cmeee",
    "conll-bio",
    "conll-iob1",
    "conll-bioes",
    "conll-bmes",
    "conll-bilou",
    "funsd",
    "sroie",
    "hocr",
    "alto",
)
READ_ONLY = ("funsd", "sroie", "hocr", "alto")
"""Pages as others write them; their folders may be read too. We write pages as JSON Lines."""


def read_documents(path: Path | str, format: str = "auto") -> Iterator[Document]:
    """The documents of a file, plain or gzipped, one at a time.

    Args:
        path: the file; a folder for pages that are a file each.
        format: one of `FORMATS`, or "auto" to tell it by the content.

    Raises:
        DataError: a fault of the file, or no document in it.
        ConfigError: an unknown format.
    """
    path = Path(path)
    empty = True
    for document in _read(path, detect(path) if format == "auto" else format):
        empty = False
        yield document
    if empty:
        raise DataError(path, None, "found no document, expected at least one")


def write_documents(documents: Iterable[Document], path: Path | str, format: str = "jsonl") -> None:
    """Write documents, gzipped if the name ends in ".gz"; the file appears whole or not at all.

    Raises:
        DataError: a document that the format cannot hold.
        ConfigError: an unknown format, or one that is only read.
    """
    path = Path(path)
    if format in READ_ONLY:
        raise ConfigError(f"format: found {format!r}, which is only read; write pages as 'jsonl'")
    match format:
        case "jsonl":
            jsonl.write(documents, path)
        case "cluener":
            cluener.write(documents, path)
        case "cmeee":
            cmeee.write(documents, path)
        case _:
            conll.write(documents, path, _scheme(format))


def _read(path: Path, format: str) -> Iterator[Document]:
    match format:
        case "jsonl":
            return jsonl.read(path)
        case "cluener":
            return cluener.read(path)
        case "cmeee":
            return cmeee.read(path)
        case "funsd":
            return funsd.read(path)
        case "sroie":
            return sroie.read(path)
        case "hocr":
            return hocr.read(path)
        case "alto":
            return alto.read(path)
        case _:
            return conll.read(path, _scheme(format))


def _scheme(format: str) -> tags.TagScheme:
    match format:
        case "conll-bio":
            return tags.BIO
        case "conll-iob1":
            return tags.IOB1
        case "conll-bioes":
            return tags.BIOES
        case "conll-bmes":
            return tags.BMES
        case "conll-bilou":
            return tags.BILOU
        case _:
            raise ConfigError(f"format: found {format!r}, expected one of {', '.join(FORMATS)}")
