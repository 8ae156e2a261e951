"""A learning rate for each of those that are compared: runs of one seed on one set, at several rates.

What scored most on the tenth of the training texts that chooses is the rate of all other runs, whatever dev says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SEED = 0
"""Of the runs at several rates."""

DATA = "cluener"
"""The set that these runs learn."""


def best_rate(scores: Mapping[float, float], rates: Sequence[float]) -> float | None:
    """The rate that scored most, of equals the first; None as long as one has no score."""
    return max(rates, key=scores.__getitem__) if set(rates) <= set(scores) else None
