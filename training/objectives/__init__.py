"""What a run learns, a file an objective. The loop knows only `Objective`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Objective(Protocol[T]):
    """Owns how documents become its batches, its loss and its way back; T is its own kind of batch."""

    def batches(self, epoch: int) -> Sequence[T]:
        """All batches of an epoch, the same on every process."""
        ...

    def count(self, batch: T) -> float:
        """How many terms the batch's loss is a sum of: a step divides by the count of all its batches."""
        ...

    def num_tokens(self, batch: T) -> int: ...

    def backward(self, batch: T, scale: float) -> float:
        """Add the gradient of `scale` times the batch's summed loss; return that summed loss, unscaled."""
        ...
