"""The rate that is chosen."""

from __future__ import annotations

from benchmarks.accuracy.rates import best_rate


def test_the_rate_that_scored_most_once_all_are_tried() -> None:
    scores = {1e-4: 0.5, 2e-4: 0.7, 4e-4: 0.7}
    assert best_rate(scores, (1e-4, 2e-4, 4e-4)) == 2e-4
    assert best_rate(scores, (1e-4, 4e-4)) == 4e-4
    assert best_rate(scores, (1e-4, 8e-4)) is None
    assert best_rate({}, (1e-4,)) is None
