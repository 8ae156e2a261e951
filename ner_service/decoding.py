"""candidates -> entities: thresholds, calibration, overlap policy, nesting. The only decoder.

GlobalPointer's inclusive token end becomes an exclusive character end here and nowhere else. Works on NumPy arrays;
knows no model, no tensor, no text. Shapes: N candidates, C labels.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ner_service.types import Encoding, Entity, LabelSet, OverlapPolicy

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """p_c = sigma(slope_c * s + intercept_c), a label each. Uncalibrated scores have slope 2 and intercept 0.

    sigma(2s) is where the loss puts a soft label's optimum (source: kexue.fm/archives/9064); p > 0.5 means s > 0.
    """

    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.slopes) != len(self.intercepts):
            raise ValueError(f"{len(self.slopes)} slopes, {len(self.intercepts)} intercepts: expected one a label")
        if any(slope <= 0 for slope in self.slopes):
            raise ValueError(f"slopes are {self.slopes}: expected positive numbers, or the order of scores turns")

    @classmethod
    def uncalibrated(cls, num_labels: int) -> Calibration:
        return cls(slopes=(2.0,) * num_labels, intercepts=(0.0,) * num_labels)

    def probability(self, label_N: IntArray, score_N: FloatArray) -> FloatArray:
        """Probability of each candidate's logit."""
        logit_N = np.asarray(self.slopes)[label_N] * score_N + np.asarray(self.intercepts)[label_N]
        probability_N: FloatArray = np.exp(-np.logaddexp(0.0, -logit_N))
        return probability_N

    def cutoff(self, label: int, probability: float) -> float:
        """The logit above which a label's probability is above `probability`; -inf at 0, +inf at 1."""
        if probability <= 0.0:
            return -math.inf
        if probability >= 1.0:
            return math.inf
        return (math.log(probability) - math.log1p(-probability) - self.intercepts[label]) / self.slopes[label]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Spans of one encoding above their cut-offs: label index, first and last token, logit.

    `overflow` names the label that had more spans than the model may emit; the arrays are then empty.
    """

    label_N: IntArray
    start_N: IntArray
    end_N: IntArray
    score_N: FloatArray
    overflow: str | None = None

    @classmethod
    def none(cls, overflow: str | None = None) -> Candidates:
        index = np.empty(0, dtype=np.int64)
        return cls(index, index, index, np.empty(0, dtype=np.float64), overflow)


def decode(candidates: Candidates, encoding: Encoding, labels: LabelSet, calibration: Calibration) -> list[Entity]:
    """Candidates as entities of the encoding's text, in `Entity.key` order.

    Spans that differ only in tokens that share a character are one entity, with the best score.
    """
    best: dict[Entity, Entity] = {}
    probability_N = calibration.probability(candidates.label_N, candidates.score_N)
    columns = (candidates.label_N, candidates.start_N, candidates.end_N, probability_N)
    for label, first, last, probability in zip(*(column.tolist() for column in columns), strict=True):
        start, end = encoding.offsets[first][0], encoding.offsets[last][1]
        entity = Entity(start, end, labels[label], probability)
        if entity not in best or probability > (best[entity].score or 0.0):
            best[entity] = entity
    return sorted(best.values(), key=lambda entity: entity.key)


def apply_overlap(entities: Sequence[Entity], policy: OverlapPolicy) -> list[Entity]:
    """Entities that a policy keeps, in `Entity.key` order.

    all: every one. nested: greedy by score, none that crosses a kept one. flat: greedy by score, none that overlaps a
    kept one. longest: greedy by length, then score, none that overlaps a kept one.
    """
    if policy == "all":
        return sorted(entities, key=lambda entity: entity.key)
    kept = _Kept()
    clashes = kept.crosses if policy == "nested" else kept.overlaps
    for entity in sorted(entities, key=_by_length if policy == "longest" else _by_score):
        if not clashes(entity):
            kept.add(entity)
    return sorted(kept.entities, key=lambda entity: entity.key)


def nesting(entities: Sequence[Entity]) -> list[tuple[int | None, int]]:
    """For each entity, in `Entity.key` order, the index of the smallest one that strictly contains it, and its depth.

    Depth counts the steps to the outermost along parents. Of several smallest ones the first in order is the parent.
    """
    parents: dict[tuple[int, int], int | None] = {}
    alive: list[tuple[int, int, int]] = []
    answers: list[tuple[int | None, int]] = []
    for index, entity in enumerate(entities):
        span = (entity.start, entity.end)
        if span not in parents:  # entities of one span have one parent: labels may be many
            alive = [other for other in alive if other[1] > entity.start]
            around = ((end - start, other) for start, end, other in alive if entity.end <= end)
            parents[span] = min(around, default=(0, None))[1]
            alive.append((*span, index))
        parent = parents[span]
        answers.append((parent, 0 if parent is None else answers[parent][1] + 1))
    return answers


class _Kept:
    """The entities that a greedy policy has kept, with their starts and ends in order."""

    def __init__(self) -> None:
        self.entities: list[Entity] = []
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._last_end: dict[int, int] = {}
        self._first_start: dict[int, int] = {}

    def add(self, entity: Entity) -> None:
        start, end = entity.start, entity.end
        self.entities.append(entity)
        if start not in self._last_end:
            insort(self._starts, start)
        if end not in self._first_start:
            insort(self._ends, end)
        self._last_end[start] = max(end, self._last_end.get(start, end))
        self._first_start[end] = min(start, self._first_start.get(end, start))

    def overlaps(self, entity: Entity) -> bool:
        """Whether the entity overlaps one of these, none of which overlap each other."""
        place = bisect_left(self._starts, entity.end)
        return place > 0 and self._last_end[self._starts[place - 1]] > entity.start

    def crosses(self, entity: Entity) -> bool:
        """Whether one of these begins inside the entity and ends after it, or begins before it and ends inside."""
        start, end = entity.start, entity.end
        begun = self._starts[bisect_right(self._starts, start) : bisect_left(self._starts, end)]
        ended = self._ends[bisect_right(self._ends, start) : bisect_left(self._ends, end)]
        return any(self._last_end[place] > end for place in begun) or any(
            self._first_start[place] < start for place in ended
        )


def _by_score(entity: Entity) -> tuple[object, ...]:
    return (-(entity.score or 0.0), entity.key)


def _by_length(entity: Entity) -> tuple[object, ...]:
    return (entity.start - entity.end, -(entity.score or 0.0), entity.key)
