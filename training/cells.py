"""Cells: spans with a label, the probability that the service gives each, and whether it is gold; the error of these.

Cells come by way of the recognizer, so a probability that is measured or fitted is one that is served. What a document
does not tell is no cell: labels that it is not annotated for, and in a flat document spans inside a mention of another
label. Knows no training. Shapes: N cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ner_service.decoding import FloatArray, IntArray
from ner_service.errors import NerServiceError
from ner_service.recognizer import Recognizer
from ner_service.types import Document, Entity, LabelSet, Recognition, RecognizeOptions

BoolArray = npt.NDArray[np.bool_]

Told: TypeAlias = Callable[[int], object]
"""Who is told, while documents are read, how many more have been."""

NUM_BINS = 15
"""Bins of the expected calibration error, of equal mass."""

COUNTED = 0.05
"""Cells with at least this probability count in the expected calibration error."""

CHARACTERS_AT_ONCE = 2048
"""Characters of the texts whose entities are alive at a time, one text beyond them included: a cell is much smaller.

A model that has learnt next to nothing finds every span of a text, half a million of a label in so many characters.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """The document's number, the label's index, the probability and whether it is gold, of each cell.

    A gold entity that was not found, also one that no token boundary fits or that is scattered over a page, is a cell
    with probability 0.
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


def nobody(num_documents: int) -> None:
    """Who is told where nobody watches."""


def cells_of(recognizer: Recognizer, documents: Sequence[Document], threshold: float, told: Told = nobody) -> Cells:
    """The cells of documents with a probability above `threshold`, and all gold ones of labels that the model has.

    A text has as many as there are: the limits of a recognizer refuse none. One that is no Unicode has no answer.
    """
    return join(read_cells(recognizer, documents, threshold, told))


def read_cells(
    recognizer: Recognizer, documents: Sequence[Document], threshold: float, told: Told = nobody
) -> Iterator[Cells]:
    """What `cells_of` joins, a few documents at a time."""
    reader, options = _unlimited(recognizer), RecognizeOptions(threshold=threshold)
    ends = accumulate(len(document.text) for document in documents)
    numbered = zip(ends, enumerate(documents), strict=True)
    for _, group in groupby(numbered, key=lambda item: item[0] // CHARACTERS_AT_ONCE):
        some = [item for _, item in group]
        answers = reader.recognize([document.content for _, document in some], options)
        yield join(
            _cells(number, document, answer, reader.labels)
            for (number, document), answer in zip(some, answers, strict=True)
        )
        told(len(some))


def join(parts: Iterable[Cells]) -> Cells:
    """The cells of all parts, in their order."""
    empty = np.empty(0, dtype=np.int64)
    found = [
        Cells(document_N=empty, label_N=empty, probability_N=np.empty(0), gold_N=np.empty(0, dtype=np.bool_)),
        *parts,
    ]
    return Cells(
        document_N=np.concatenate([part.document_N for part in found]),
        label_N=np.concatenate([part.label_N for part in found]),
        probability_N=np.concatenate([part.probability_N for part in found]),
        gold_N=np.concatenate([part.gold_N for part in found]),
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


def _unlimited(recognizer: Recognizer) -> Recognizer:
    """The same model, its weights shared, to which no text has too many spans.

    A service protects itself by refusing such a text; here its gold would pass for spans that the model gives p = 0.
    """
    reader = copy(recognizer)
    reader.max_candidates = reader.max_coverage = math.inf
    return reader


def _cells(number: int, document: Document, answer: Recognition | NerServiceError, labels: LabelSet) -> Cells:
    """The cells of one document."""
    rows = list(_rows(document, answer, labels))
    label_N, probability_N, gold_N = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return Cells(
        document_N=np.full(len(rows), number),
        label_N=label_N.astype(np.int64),
        probability_N=probability_N,
        gold_N=gold_N > 0,
    )


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
    for entity in annotated(document.scattered, document):
        if entity.label in labels:
            yield labels.index(entity.label), 0.0, True
