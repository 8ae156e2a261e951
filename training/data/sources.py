"""Sources of a run -> documents with the run's labels."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from ner_service.errors import ConfigError
from ner_service.formats import read_documents
from ner_service.types import Document, Entity, LabelSet
from training.config import DataConfig, SourceConfig
from training.data.pages import in_reading_order
from training.data.pairs import read_pairs
from training.data.raw import RawCorpus, fraction_of
from training.data.silver import add_inner
from training.data.texts import TextStream

AUGMENTED_FROM = "augmented_from"
"""Metadata of a document that was made of another: the text of that one."""

SHOWN_CHARACTERS = 40
"""Characters of a text or a mention that a message quotes."""

SHOWN_VALUES = 5
"""Values of a document's metadata that a message lists, the most frequent first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What a run reads: its labels and documents, texts and pairs without labels, and a digest of all of them."""

    labels: LabelSet
    train: tuple[Document, ...]
    dev: tuple[Document, ...]
    sha256: str
    raw: RawCorpus = field(default_factory=RawCorpus)


def read_corpus(config: DataConfig, folder: Path) -> Corpus:
    """Read every source; relative paths count from `folder`.

    Raises:
        DataError: a file has a fault.
        ConfigError: a source's labels do not fit the run's, or there is nothing to train on.
    """
    if not config.train:
        raw = _read_raw(config, (), (), folder)
        return Corpus(labels=LabelSet(()), train=(), dev=(), sha256=raw.sha256(), raw=raw)
    sources = [list(read_source(source, folder)) for source in config.train]
    dev = [document for source in config.dev for document in read_source(source, folder)]
    if not config.dev:
        dev = [document for own in sources for document in own if _is_held_out(document, config.dev_fraction)]
        sources = [[document for document in own if not _is_held_out(document, config.dev_fraction)] for own in sources]
    learnt = (add_inner(own, source.inner) for own, source in zip(sources, config.train, strict=True))
    train = [document for own in learnt for document in own]
    dev_texts = {document.text for document in dev}
    train = [document for document in train if not _leaks(document, dev_texts)]
    mentions = (entity for document in train for entity in (*document.entities, *document.scattered))
    labels = LabelSet(config.labels or sorted({entity.label for entity in mentions}))
    _check_annotated(config, labels)
    train = [document for document in train if document.annotated is None or not document.annotated.isdisjoint(labels)]
    if not train or not len(labels):
        raise ConfigError(f"data.train: found {len(train)} documents and {len(labels)} labels, expected some of both")
    if not dev:
        raise ConfigError("data.dev: found no document, expected some to tell the best epoch by; raise dev_fraction")
    check_labels((*train, *dev), labels)
    raw = _read_raw(config, train, dev, folder)
    sha256 = digest(train, dev)
    if raw.files:
        sha256 = hashlib.sha256(f"{sha256} {raw.sha256()}".encode()).hexdigest()
    return Corpus(labels=labels, train=tuple(train), dev=tuple(dev), sha256=sha256, raw=raw)


def read_source(source: SourceConfig, folder: Path) -> Iterator[Document]:
    """Documents of one source, chosen and their labels renamed, pages in the order that the source asks for.

    Their metadata names the source under "source".

    Raises:
        DataError: the file has a fault.
        ConfigError: no entity of the file has a label that is to be renamed, but some have one that is spelt much alike
            and would be left out; an entity has a label that `annotated` does not name; no document fits `where`.
    """
    met: Counter[str] = Counter()
    said: dict[str, Counter[str]] = {key: Counter() for key in source.where}
    num_fitting = 0
    for document in read_documents(folder / source.path, source.format):
        met.update(entity.label for entity in (*document.entities, *document.scattered))
        for key, values in said.items():
            values[repr(document.metadata.get(key))] += 1
        num_fitting += _fits(document, source)
        if _is_chosen(document, source):
            ordered = in_reading_order(document) if source.order == "reading" else document
            yield _relabel(ordered, source)
    _check_renamed(source, met)
    if not num_fitting:
        found = f"found no document that fits, expected some; the file has {_commonest(said)}"
        raise ConfigError(f"{source.path}: where: {found}")


def check_labels(documents: Iterable[Document], labels: LabelSet) -> None:
    """Whether every entity has one of the labels.

    Raises:
        ConfigError: names the first that has not, and where it stands.
    """
    for document in documents:
        for entity in (*document.entities, *document.scattered):
            if entity.label not in labels:
                own = repr(_beginning(document.text)) if document.id is None else repr(document.id)
                place = ", document ".join(filter(None, (str(document.metadata.get("source", "")), own)))
                mention = repr(_beginning(document.text[entity.start : entity.end]))
                found = f"found the label {entity.label!r} of {mention}"
                raise ConfigError(f"{place}: {found}, expected {_listed(labels)}; rename it")


def _check_renamed(source: SourceConfig, met: Mapping[str, int]) -> None:
    """Whether the source's map of labels looks mistyped; one that speaks of labels which the file has not is none."""
    renamed = source.labels or {}
    left_out = {name.casefold(): name for name in met if name not in renamed}
    for name in renamed.keys() - met.keys():
        for near in get_close_matches(name.casefold(), left_out, n=1):
            lost = f"{left_out[near]!r}, of which {met[left_out[near]]} would be left out"
            found = f"found {name!r}, which no entity has; did you mean {lost}? If not, remove the key"
            raise ConfigError(f"{source.path}: labels: {found}")


def _commonest(said: Mapping[str, Counter[str]]) -> str:
    listed = {key: [value for value, _ in values.most_common(SHOWN_VALUES)] for key, values in said.items()}
    return "; ".join(f"{key}: {', '.join(values)}" for key, values in listed.items())


def _beginning(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}\u2026"


def _fits(document: Document, source: SourceConfig) -> bool:
    return all(document.metadata.get(key) in values for key, values in source.where.items())


def _is_chosen(document: Document, source: SourceConfig) -> bool:
    first, end = source.part
    # Another hash than that of `dev_fraction`, by which a file may have been cut already.
    return _fits(document, source) and first <= fraction_of(f"part {_augmented_from(document) or document.text}") < end


def digest(train: Iterable[Document], dev: Iterable[Document]) -> str:
    """SHA-256 over texts, entities, boxes of pages and what is known of them, in order."""
    total = hashlib.sha256()
    for part, documents in (("train", train), ("dev", dev)):
        for document in documents:
            annotated = None if document.annotated is None else sorted(document.annotated)
            keys = [entity.key for entity in document.entities]
            parts: tuple[object, ...] = (part, document.text, keys, annotated, document.flat)
            if document.page is not None:
                parts += (document.page.boxes, [entity.key for entity in document.scattered])
            total.update(repr(parts).encode("utf-8"))
    return total.hexdigest()


def _read_raw(config: DataConfig, train: Sequence[Document], dev: Sequence[Document], folder: Path) -> RawCorpus:
    """Texts and pairs; with documents none of them is held out, for the dev documents' F1 is what is measured."""
    texts = tuple(folder / path for path in config.texts)
    pairs = tuple(folder / path for path in config.pairs)
    return RawCorpus(
        stream=TextStream(texts, config.round_lines) if texts else None,
        fixed=tuple(document.text for document in train),
        all_pairs=tuple(pair for path in pairs for pair in read_pairs(path)),
        dev_fraction=0.0 if train else config.dev_fraction,
        measured=frozenset(document.text for document in dev),
        files=(*texts, *pairs),
    )


def _is_held_out(document: Document, dev_fraction: float) -> bool:
    """A text alone decides, wherever it stands; an augmented document is never measured on."""
    return _augmented_from(document) is None and fraction_of(document.text) < dev_fraction


def _leaks(document: Document, dev_texts: Set[str]) -> bool:
    """Whether a document was augmented from what is measured on, or came to read like it."""
    source = _augmented_from(document)
    return source is not None and not dev_texts.isdisjoint((source, document.text))


def _augmented_from(document: Document) -> str | None:
    source = document.metadata.get(AUGMENTED_FROM)
    return None if source is None else str(source)


def _check_annotated(config: DataConfig, labels: LabelSet) -> None:
    for part, sources in (("train", config.train), ("dev", config.dev)):
        for number, source in enumerate(sources):
            for name in source.annotated or ():
                if name not in labels:
                    raise ConfigError(f"data.{part}[{number}].annotated: found {name!r}, expected {_listed(labels)}")


def _relabel(document: Document, source: SourceConfig) -> Document:
    entities, scattered = (_renamed(own, source.labels) for own in (document.entities, document.scattered))
    for entity in (*entities, *scattered):
        if source.annotated is not None and entity.label not in source.annotated:
            expected = f"expected only {', '.join(map(repr, source.annotated))}; `labels` can leave it out"
            raise ConfigError(f"{source.path}: annotated: found an entity {entity.label!r}, {expected}")
    metadata = {**document.metadata, "source": source.path}
    return replace(
        document,
        entities=entities,
        scattered=scattered,
        annotated=_annotated(document, source),
        flat=document.flat or source.flat,
        metadata=metadata,
    )


def _annotated(document: Document, source: SourceConfig) -> frozenset[str] | None:
    """The run's labels that a document is annotated for; not those that a label it leaves open is renamed to."""
    if source.annotated is not None:
        return frozenset(source.annotated)
    if source.labels is None:
        return document.annotated
    left_open = set() if document.annotated is None else source.labels.keys() - document.annotated
    return frozenset(source.labels.values()) - {source.labels[name] for name in left_open}


def _renamed(entities: tuple[Entity, ...], labels: Mapping[str, str] | None) -> tuple[Entity, ...]:
    """The entities by their new names, those of no new name left out; of equal ones the first."""
    if labels is None:
        return entities
    kept = {replace(entity, label=labels[entity.label]) for entity in entities if entity.label in labels}
    return tuple(sorted(kept, key=lambda entity: entity.key))


def _listed(labels: LabelSet) -> str:
    return "one of " + ", ".join(map(repr, labels))
