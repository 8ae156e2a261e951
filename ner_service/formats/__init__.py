"""Files of annotated documents: readers and writers, one file a format. Knows no model and no tokenizer.

Readers yield each document's entities in the order of `Entity.key`, identical spans once, and refuse what they cannot
read: every fault is a `DataError` that names file, line, what was found and what was expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

from ner_service.errors import ConfigError, DataError
from ner_service.formats import jsonl
from ner_service.types import Document

Format = Literal["jsonl"]
FORMATS: tuple[str, ...] = get_args(Format)


def read_documents(path: Path | str, format: str = "jsonl") -> Iterator[Document]:
    """The documents of a file, plain or gzipped.

    Raises:
        DataError: a fault of the file, or no document in it.
        ConfigError: an unknown format.
    """
    path = Path(path)
    documents = _read(path, format)
    empty = True
    for document in documents:
        empty = False
        yield document
    if empty:
        raise DataError(path, None, "found no document, expected at least one")


def write_documents(documents: Iterable[Document], path: Path | str, format: str = "jsonl") -> None:
    """Write documents, gzipped if the name ends in ".gz"; the file appears whole or not at all.

    Raises:
        DataError: a document that the format cannot hold.
        ConfigError: an unknown format.
    """
    path = Path(path)
    match format:
        case "jsonl":
            jsonl.write(documents, path)
        case _:
            raise _unknown(format)


def _read(path: Path, format: str) -> Iterator[Document]:
    match format:
        case "jsonl":
            return jsonl.read(path)
        case _:
            raise _unknown(format)


def _unknown(format: str) -> ConfigError:
    return ConfigError(f"format: found {format!r}, expected one of {', '.join(FORMATS)}")
