"""Precision, recall and F1 over documents, by way of the recognizer: the measured F1 is the served F1.

A prediction counts when start, end and label are all right. Every gold entity counts, also one that no token boundary
fits, and one that is scattered over a page. A label that a document is not annotated for is neither right nor wrong
there. Probabilities are measured by their expected calibration error. Knows no training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2

from ner_service.decoding import apply_overlap
from ner_service.errors import NerServiceError
from ner_service.recognizer import Recognizer
from ner_service.records import unstructure
from ner_service.types import Document, Entity, RecognizeOptions
from training.cells import Reliability, Told, annotated, calibration_error, cells_of, nobody

LOWEST_PROBABILITY = 0.01
"""Below it a gold entity's probability counts as 0 in the expected calibration error."""

DOCUMENTS_AT_ONCE = 256
"""Documents whose answers are awaited together."""

NUM_READINGS = 2
"""How often a document is read to be reported on: for its answer, and for what has a probability."""


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of predicted, gold and right entities, and what follows from them; 0 where a ratio has no denominator."""

    num_predicted: int
    num_gold: int
    num_right: int

    @property
    def precision(self) -> float:
        return self.num_right / self.num_predicted if self.num_predicted else 0.0

    @property
    def recall(self) -> float:
        return self.num_right / self.num_gold if self.num_gold else 0.0

    @property
    def f1(self) -> float:
        total = self.num_predicted + self.num_gold
        return 2 * self.num_right / total if total else 0.0

    def as_dict(self) -> dict[str, float]:
        return {"precision": self.precision, "recall": self.recall, "f1": self.f1, "support": self.num_gold}


REPORTED = (
    *("documents", "refused", "macro_f1", "scores", "labels", "sources", "seqeval"),
    *("calibration", "label_calibration"),
)
"""The keys of `Report.as_dict`, the last two where probabilities were measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was measured on a set of documents.

    `num_refused` counts the documents that the service would answer with an error, and so without an entity.
    `overlapping` counts the documents whose gold entities overlap, `flat` the others. `inner` and `outer` split the
    entities of all documents: an inner one, gold or predicted, lies inside a longer gold one.
    Where no gold overlaps, `flat_policy` scores the answers under `overlap: flat`, and `seqeval` is that library's view
    of the same answers. `sources` scores the documents of each known file apart. `calibration` is the error
    of all probabilities, `label_calibration` that of each label's, where they were measured.
    """

    num_documents: int
    num_refused: int
    micro: Score
    labels: dict[str, Score]
    flat: Score
    overlapping: Score
    outer: Score
    inner: Score
    flat_policy: Score | None = None
    seqeval: dict[str, float] | None = None
    sources: dict[str, Score] = field(default_factory=dict)
    calibration: Reliability | None = None
    label_calibration: dict[str, Reliability] = field(default_factory=dict)

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the labels that occur in gold."""
        found = [score.f1 for score in self.labels.values() if score.num_gold]
        return sum(found) / len(found) if found else 0.0

    def as_dict(self) -> dict[str, object]:
        names = ("micro", "flat", "overlapping", "outer", "inner", "flat_policy")
        scores = {name: getattr(self, name) for name in names}
        return {
            "documents": self.num_documents,
            "refused": self.num_refused,
            "macro_f1": self.macro_f1,
            "scores": {name: score.as_dict() for name, score in scores.items() if score is not None},
            "labels": {label: score.as_dict() for label, score in self.labels.items()},
            "sources": {source: score.as_dict() for source, score in self.sources.items()},
            "seqeval": self.seqeval or {},
            **self._calibration(),
        }

    def _calibration(self) -> dict[str, object]:
        if self.calibration is None:
            return {}
        return {"calibration": unstructure(self.calibration), "label_calibration": unstructure(self.label_calibration)}


def evaluate(recognizer: Recognizer, documents: Sequence[Document], told: Told = nobody) -> Report:
    """Recognise every document's text and report on it: on the answers, and on all that has a probability.

    A document that the service refuses has no answer, but its spans have probabilities. Each is read `NUM_READINGS`
    times.
    """
    predictions: list[tuple[Entity, ...] | None] = []
    for first in range(0, len(documents), DOCUMENTS_AT_ONCE):
        some = documents[first : first + DOCUMENTS_AT_ONCE]
        predictions += predict(recognizer, some)
        told(len(some))
    report = full_report(documents, predictions)
    # Read anew, not cut from the cells at the model's thresholds: the service refuses a text for the token spans of one
    # window, and these cannot be counted any more once windows and tokens that share a character are merged.
    cells = cells_of(recognizer, documents, LOWEST_PROBABILITY, told)
    labels = {}
    for index, label in enumerate(recognizer.labels):
        own_N = cells.label_N == index
        labels[label] = calibration_error(cells.probability_N[own_N], cells.gold_N[own_N])
    whole = calibration_error(cells.probability_N, cells.gold_N)
    return replace(report, calibration=whole, label_calibration=labels)


def full_report(documents: Sequence[Document], predictions: Sequence[tuple[Entity, ...] | None]) -> Report:
    """`compare`, file by file too, and for flat gold the answers under `overlap: flat` and seqeval's view of them."""
    report = replace(compare(documents, predictions), sources=_by_source(documents, predictions))
    if any(has_overlap(annotated(document.entities, document)) for document in documents):
        return report
    flat = [apply_overlap(entities or (), "flat") for entities in predictions]
    return replace(report, flat_policy=compare(documents, flat).micro, seqeval=seqeval_score(documents, flat))


def _by_source(documents: Sequence[Document], predictions: Sequence[tuple[Entity, ...] | None]) -> dict[str, Score]:
    parts: dict[str, tuple[list[Document], list[tuple[Entity, ...] | None]]] = {}
    for document, found in zip(documents, predictions, strict=True):
        if (source := document.metadata.get("source")) is not None:
            own, answers = parts.setdefault(str(source), ([], []))
            own.append(document)
            answers.append(found)
    return {source: compare(own, answers).micro for source, (own, answers) in sorted(parts.items())}


def predict(
    recognizer: Recognizer, documents: Sequence[Document], options: RecognizeOptions | None = None
) -> list[tuple[Entity, ...] | None]:
    """The recognizer's entities for each document, those that it is not annotated for left out; None for an error.

    A model that has learnt next to nothing finds too many candidates: no reason to break a run off.
    """
    answers = recognizer.recognize([document.content for document in documents], options)
    return [
        None if isinstance(answer, NerServiceError) else annotated(answer.entities, document)
        for document, answer in zip(documents, answers, strict=True)
    ]


def compare(documents: Sequence[Document], predictions: Sequence[Iterable[Entity] | None]) -> Report:
    """Score predictions, one collection or None a document, against the documents' entities."""
    pairs = [(set(annotated(d.entities, d)), set(p or ())) for d, p in zip(documents, predictions, strict=True)]
    overlapping = [has_overlap(gold) for gold, _ in pairs]
    inside = [(_inner(gold, gold), _inner(predicted, gold)) for gold, predicted in pairs]
    for document, (gold, _) in zip(documents, pairs, strict=True):
        gold.update(_Scattered(e.start, e.end, e.label) for e in annotated(document.scattered, document))
    names = sorted({entity.label for gold, predicted in pairs for entity in gold | predicted})
    outside = [(gold - a, predicted - b) for (gold, predicted), (a, b) in zip(pairs, inside, strict=True)]
    return Report(
        num_documents=len(pairs),
        num_refused=sum(found is None for found in predictions),
        micro=_count(pairs),
        labels={
            name: _count([(_only(gold, name), _only(predicted, name)) for gold, predicted in pairs]) for name in names
        },
        flat=_count([pair for pair, nested in zip(pairs, overlapping, strict=True) if not nested]),
        overlapping=_count([pair for pair, nested in zip(pairs, overlapping, strict=True) if nested]),
        outer=_count(outside),
        inner=_count(inside),
    )


class _Scattered(Entity):
    """A gold mention that is no span: equal to no prediction, whatever that covers."""

    __slots__ = ()


def has_overlap(entities: Iterable[Entity]) -> bool:
    """Whether two of the entities share a character."""
    ordered = sorted(entities, key=lambda entity: entity.key)
    return any(one.end > other.start for one, other in pairwise(ordered))


def _inner(entities: set[Entity], gold: set[Entity]) -> set[Entity]:
    """Those of the entities that lie inside a longer gold one."""
    return {
        entity
        for entity in entities
        if any(
            other.start <= entity.start
            and entity.end <= other.end
            and other.end - other.start > entity.end - entity.start
            for other in gold
        )
    }


def _only(entities: set[Entity], label: str) -> set[Entity]:
    return {entity for entity in entities if entity.label == label}


def _count(pairs: Iterable[tuple[set[Entity], set[Entity]]]) -> Score:
    totals: Counter[str] = Counter()
    for gold, predicted in pairs:
        totals.update(predicted=len(predicted), gold=len(gold), right=len(gold & predicted))
    return Score(totals["predicted"], totals["gold"], totals["right"])


def seqeval_score(documents: Sequence[Document], predictions: Sequence[Iterable[Entity]]) -> dict[str, float]:
    """The field's yardstick for flat entities: seqeval, strict, IOB2, one tag a character; micro averages.

    A mention that is scattered over a page is a tag of its own behind the text, where no answer has one.

    Raises:
        ValueError: entities overlap; tags cannot say that.
    """
    scattered = [[f"B-{entity.label}" for entity in annotated(d.scattered, d)] for d in documents]
    gold = [_tags(d.text, annotated(d.entities, d)) + own for d, own in zip(documents, scattered, strict=True)]
    predicted = [
        _tags(d.text, found) + ["O"] * len(own) for d, found, own in zip(documents, predictions, scattered, strict=True)
    ]
    precision, recall, f1, _ = precision_recall_fscore_support(
        gold, predicted, average="micro", scheme=IOB2, zero_division=0
    )
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1)}


def _tags(text: str, entities: Iterable[Entity]) -> list[str]:
    tags = ["O"] * len(text)
    for entity in entities:
        if any(tag != "O" for tag in tags[entity.start : entity.end]):
            raise ValueError("entities overlap; IOB2 tags hold one entity a character")
        tags[entity.start : entity.end] = [f"B-{entity.label}"] + [f"I-{entity.label}"] * (
            entity.end - entity.start - 1
        )
    return tags
