"""The training documents of a set, cut or all: a share of them, or two files, a tenth to choose by and the others.

Hashes of the texts decide, none of which may have cut off the set's own dev documents. A text that stands in the set's
`dev.jsonl.gz` as well is left out, for some sets repeat themselves. Knows no run.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ner_service.formats import read_documents, write_documents
from ner_service.types import Document
from training.data.raw import fraction_of

CHOOSING_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Files of documents: those to learn from, and those to choose the epoch by."""

    learn: Path
    choose: Path


def split_texts(source: Path, num_texts: int | None, folder: Path) -> Split:
    """Both files of a set's training documents, cut to `num_texts` if that is a number; made unless they stand there.

    Their names say the set, the cut and the SHA-256 of `source`, so that another folder's set is another file. They
    appear whole, also where two threads make them at once.
    """
    name = _name(source, str(num_texts or "full"))
    split = Split(learn=folder / f"{name}-learn.jsonl", choose=folder / f"{name}-choose.jsonl")
    if split.learn.exists() and split.choose.exists():
        return split
    documents = _documents(source)
    if num_texts is not None:
        documents = sorted(documents, key=lambda document: fraction_of("cut " + document.text))[:num_texts]
    chooses = [fraction_of("choose " + document.text) < CHOOSING_SHARE for document in documents]
    for path, wanted in ((split.choose, True), (split.learn, False)):
        _write([document for document, chosen in zip(documents, chooses, strict=True) if chosen == wanted], path)
    return split


def share_texts(source: Path, share: float, folder: Path) -> Path:
    """A file with a share of a set's training documents, all of them if that is 1; named and made as `split_texts`."""
    path = folder / f"{_name(source, f'{share:g}')}.jsonl"
    if not path.exists():
        _write([document for document in _documents(source) if fraction_of("share " + document.text) < share], path)
    return path


def _name(source: Path, cut: str) -> str:
    return f"{source.parent.name}-{cut}-{hashlib.sha256(source.read_bytes()).hexdigest()[:8]}"


def _documents(source: Path) -> list[Document]:
    dev = source.with_name("dev.jsonl.gz")
    reported = {document.text for document in read_documents(dev)} if dev.exists() else set()
    return [document for document in read_documents(source) if document.text not in reported]


def _write(documents: Sequence[Document], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        write_documents(documents, Path(scratch, path.name))
        Path(scratch, path.name).replace(path)
