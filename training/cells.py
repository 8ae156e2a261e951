"""Cells: spans with a label, the probability that the service gives each, and whether it is gold; the error of these.

Cells come by way of the recognizer, so a probability that is measured or fitted is one that is served. What a document
does not tell is no cell: labels that it is not annotated for, and in a flat document spans inside a mention of another
label. Knows no training. Shapes: N cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ner_service.decoding import FloatArray, IntArray
from ner_service.errors import NerServiceError
from ner_service.recognizer import Recognizer
from ner_service.types import Document, Entity, LabelSet, Recognition, RecognizeOptions

BoolArray = npt.NDArray[np.bool_]

NUM_BINS = 15
"""Bins of the expected calibration error, of equal mass."""

COUNTED = 0.05
"""Cells with at least this probability count in the expected calibration error."""

DOCUMENTS_AT_ONCE = 256
"""Documents whose entities are alive at a time: a cell is a hundred times smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """The document's number, the label's index, the probability and whether it is gold, of each cell.

    A gold entity that was not found, also one that no token boundary fits, is a cell with probability 0.
    """

    document_N: IntArray
    label_N: IntArray
    probability_N: FloatArray
    gold_N: BoolArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Expected calibration error; None where no cell counts.

    `ece` counts the cells with a probability of at least `COUNTED` and all gold ones. `ece_found` counts the former
    alone, so that a model whose probabilities are right has none, however many entities it overlooks.
    """

    ece: float | None
    ece_found: float | None


def cells_of(recognizer: Recognizer, documents: Sequence[Document], threshold: float) -> Cells:
    """The cells of documents with a probability above `threshold`, and all gold ones of labels that the model has.

    A document that is answered with an error is one without an answer.
    """
    options = RecognizeOptions(threshold=threshold)
    parts = []
    for first in range(0, len(documents), DOCUMENTS_AT_ONCE):
        some = documents[first : first + DOCUMENTS_AT_ONCE]
        answers = recognizer.recognize([document.text for document in some], options)
        rows = [
            (number, *row)
            for number, (document, answer) in enumerate(zip(some, answers, strict=True), first)
            for row in _rows(document, answer, recognizer.labels)
        ]
        parts.append(np.array(rows, dtype=np.float64).reshape(-1, 4))
    document_N, label_N, probability_N, gold_N = np.concatenate([np.empty((0, 4)), *parts]).T
    return Cells(
        document_N=document_N.astype(np.int64),
        label_N=label_N.astype(np.int64),
        probability_N=probability_N,
        gold_N=gold_N > 0,
    )


def annotated(entities: Iterable[Entity], document: Document) -> tuple[Entity, ...]:
    """Those of the entities whose label the document's annotators looked for."""
    return tuple(e for e in entities if document.annotated is None or e.label in document.annotated)


def is_unknown(entity: Entity, document: Document) -> bool:
    """Whether a flat document does not tell: the span is inside mentions, all of other labels and other spans."""
    if not document.flat:
        return False
    around = [other for other in document.entities if other.start <= entity.start and entity.end <= other.end]
    span = (entity.start, entity.end)
    return bool(around) and all(other.label != entity.label and (other.start, other.end) != span for other in around)


def calibration_error(probability_N: FloatArray, gold_N: BoolArray) -> Reliability:
    """Expected calibration error of cells, over two choices of those that count.

    The mean over cells of the distance, in their bin, between the mean probability and the share of gold; bins hold
    equally many cells, sorted by probability.

    Source: Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning (AAAI 2015); equal mass:
    Nguyen and O'Connor, Posterior calibration and exploratory analysis (arXiv 1508.05154).
    """
    found_N = probability_N >= COUNTED
    either_N = found_N | gold_N
    return Reliability(
        ece=_binned(probability_N[either_N], gold_N[either_N]),
        ece_found=_binned(probability_N[found_N], gold_N[found_N]),
    )


def _binned(probability_N: FloatArray, gold_N: BoolArray) -> float | None:
    if not len(probability_N):
        return None
    excess_N = (probability_N - gold_N)[np.argsort(probability_N, kind="stable")]
    return float(sum(abs(part.sum()) for part in np.array_split(excess_N, NUM_BINS)) / len(excess_N))


def _rows(
    document: Document, answer: Recognition | NerServiceError, labels: LabelSet
) -> Iterator[tuple[int, float, bool]]:
    """Label, probability and whether gold, of a document's cells."""
    gold = {entity for entity in annotated(document.entities, document) if entity.label in labels}
    entities = () if isinstance(answer, NerServiceError) else answer.entities
    for entity in annotated(entities, document):
        if not is_unknown(entity, document):
            yield labels.index(entity.label), entity.score or 0.0, entity in gold
    for entity in sorted(gold.difference(entities), key=lambda entity: entity.key):
        yield labels.index(entity.label), 0.0, True
