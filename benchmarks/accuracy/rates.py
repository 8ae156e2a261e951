"""A learning rate for each of those that are compared: runs of one seed on one set, at several rates.

The rate of the run that scored most on the tenth of the training texts that chooses is that of all other runs, whatever
it scored on dev. Knows nothing of runs but that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

SEED = 0
"""Of the runs at several rates; the one at the best rate is a run as all others."""

DATA = "cluener"
"""The set that these runs learn."""


class Scored(Protocol):
    """A row of a run at a learning rate."""

    @property
    def lr(self) -> float: ...

    @property
    def selection_f1(self) -> float: ...


def best_rate(rows: Iterable[Scored], rates: Sequence[float]) -> float | None:
    """The rate, of all that are tried, that scored most; None as long as one has no row."""
    scores = {row.lr: row.selection_f1 for row in rows}
    return max(rates, key=scores.__getitem__) if set(rates) <= set(scores) else None
