"""The rate that is chosen."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.accuracy.rates import best_rate


@dataclass(frozen=True)
class Tried:
    lr: float
    selection_f1: float


def test_the_rate_that_scored_most_once_all_are_tried() -> None:
    rows = [Tried(1e-4, 0.5), Tried(2e-4, 0.7), Tried(4e-4, 0.6)]
    assert best_rate(rows, (1e-4, 2e-4, 4e-4)) == 2e-4
    assert best_rate(rows, (1e-4, 4e-4)) == 4e-4
    assert best_rate(rows[:2], (1e-4, 2e-4, 4e-4)) is None
    assert best_rate([], (1e-4,)) is None
