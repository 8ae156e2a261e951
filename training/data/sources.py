"""Sources of a run -> documents with the run's labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ner_service.errors import ConfigError
from ner_service.formats import read_documents
from ner_service.types import Document, Entity, LabelSet
from training.config import DataConfig, SourceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What a run reads: its labels, its documents, and a digest of all of them."""

    labels: LabelSet
    train: tuple[Document, ...]
    dev: tuple[Document, ...]
    sha256: str


def read_corpus(config: DataConfig, folder: Path) -> Corpus:
    """Read every source; relative paths count from `folder`.

    Raises:
        DataError: a file has a fault.
        ConfigError: a source's labels do not fit the run's, or there is nothing to train on.
    """
    train = [document for source in config.train for document in read_source(source, folder)]
    dev = [document for source in config.dev for document in read_source(source, folder)]
    if not config.dev:
        threshold = int(config.dev_fraction * 2**32)
        dev = [document for document in train if _hash(document.text) < threshold]
        train = [document for document in train if _hash(document.text) >= threshold]
    labels = LabelSet(config.labels or sorted({entity.label for document in train for entity in document.entities}))
    if not train or not len(labels):
        raise ConfigError(f"data.train: found {len(train)} documents and {len(labels)} labels, expected some of both")
    for document in (*train, *dev):
        for entity in document.entities:
            if entity.label not in labels:
                raise ConfigError(
                    f"data.labels: document {document.id!r} has {entity.label!r}, expected one of {labels}"
                )
    return Corpus(labels=labels, train=tuple(train), dev=tuple(dev), sha256=digest((*train, *dev)))


def read_source(source: SourceConfig, folder: Path) -> Iterator[Document]:
    """Documents of one source, labels renamed, documents chosen."""
    for document in read_documents(folder / source.path, source.format):
        if all(document.metadata.get(key) in values for key, values in source.where.items()):
            yield _relabel(document, source)


def digest(documents: Iterable[Document]) -> str:
    """SHA-256 over texts, entities and what is known of them, in order."""
    total = hashlib.sha256()
    for document in documents:
        annotated = None if document.annotated is None else sorted(document.annotated)
        keys = [entity.key for entity in document.entities]
        total.update(repr((document.text, keys, annotated, document.flat)).encode("utf-8"))
    return total.hexdigest()


def _relabel(document: Document, source: SourceConfig) -> Document:
    entities: Sequence[Entity] = document.entities
    if source.labels is not None:
        kept = [replace(e, label=source.labels[e.label]) for e in entities if e.label in source.labels]
        entities = sorted(set(kept), key=lambda entity: entity.key)
    annotated = document.annotated
    if source.annotated is not None:
        annotated = frozenset(source.annotated)
    elif source.labels is not None:
        annotated = frozenset(source.labels.values())
    return replace(document, entities=tuple(entities), annotated=annotated, flat=source.flat)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:4], "big")
