"""Raw sentences -> documents to learn from, with what a model is sure of as their entities. Knows no file.

Self-training by pseudo-labels (Lee, 2013), a label of a sentence at a time: those that the model is in doubt about are
left open, neither present nor absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from ner_service.errors import NerServiceError
from ner_service.recognizer import Recognizer
from ner_service.types import Document, Entity, RecognizeOptions

BLOCK = 1024
"""How many sentences are recognised at a time, so that those of like length share a batch."""


def pseudo_label(
    recognizer: Recognizer, sentences: Iterable[str], sure: float, *, outermost: bool = False
) -> Iterator[Document | None]:
    """For each sentence a document, or None where there is no entity that the model is sure of.

    It is sure of a span if its probability exceeds `sure`, and in doubt if it exceeds `1 - sure` and no more; `sure` is
    at least 0.5. The document is annotated for the labels that no span is in doubt of, and has their entities alone;
    with `outermost`, none that lies inside another of its label. A sentence that the recognizer refuses gives None.
    """
    doubtful = RecognizeOptions(threshold=1 - sure)
    rest = iter(sentences)
    while block := list(islice(rest, BLOCK)):
        for sentence, answer in zip(block, recognizer.recognize(block, doubtful), strict=True):
            candidates = () if isinstance(answer, NerServiceError) else answer.entities
            document = _document(sentence, candidates, recognizer.labels.names, sure)
            yield _without_inner(document) if document and outermost else document


def _document(sentence: str, candidates: Sequence[Entity], labels: Sequence[str], sure: float) -> Document | None:
    doubted = {entity.label for entity in candidates if (entity.score or 0.0) <= sure}
    entities = tuple(entity for entity in candidates if entity.label not in doubted)
    return Document(sentence, entities, annotated=frozenset(labels) - doubted) if entities else None


def _without_inner(document: Document) -> Document:
    """The document without entities that lie inside another of their label."""
    kept = tuple(
        entity
        for entity in document.entities
        if not any(
            other.start <= entity.start and entity.end <= other.end
            for other in document.entities
            if other.label == entity.label and other is not entity
        )
    )
    return replace(document, entities=kept)
