"""What a run learns, a file an objective. The loop knows only `Objective`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from training.config import WeightConfig

T = TypeVar("T")


class Objective(Protocol[T]):
    """Owns how data becomes its batches, its loss and its way back; T is its own kind of batch.

    `extra` are parameters that leave with the objective: they are trained and not part of the model.
    """

    extra: nn.Module | None

    def steps(self, epoch: int) -> Sequence[Sequence[T]]:
        """The batches of every step of an epoch, the same on every process."""
        ...

    def count(self, batch: T) -> float:
        """How many terms the batch's loss is a sum of: a step divides by the count of all its batches."""
        ...

    def num_tokens(self, batch: T) -> int: ...

    def backward(self, batches: Sequence[T], scale: float) -> float:
        """Add the gradient of `scale` times the summed loss of this process's share of a step.

        Called on every process in every step, with an empty share too. Returns the summed loss of the share, unscaled.
        """
        ...


class MeasuredObjective(Objective[T], Protocol[T]):
    """One that needs no documents, and so no dev documents either: it holds out some of what it learns from.

    Asked for its loss where nothing else is measured.
    """

    def dev_loss(self) -> float:
        """The mean loss over what is held out, without dropout.

        Raises:
            ConfigError: nothing is held out.
        """
        ...


@dataclass(frozen=True, slots=True)
class Weighted:
    """An objective of a run, its name in the configuration, and its weight beside the others."""

    name: str
    objective: Objective[Any]
    weight: WeightConfig


def steps_of(batches: Sequence[T], batches_a_step: int) -> list[Sequence[T]]:
    """Batches in their order, so many a step; the last step has what is left."""
    return [batches[first : first + batches_a_step] for first in range(0, len(batches), batches_a_step)]


def backward_each(loss: Callable[[T], Tensor], batches: Iterable[T], scale: float) -> float:
    """Add the gradient of `scale` times each batch's summed loss, one graph at a time; their sum, unscaled."""
    summed = 0.0
    for batch in batches:
        total = loss(batch)
        (total * scale).backward()
        summed += float(total.detach())
    return summed
