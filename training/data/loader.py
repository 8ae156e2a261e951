"""Examples -> batches of similar length within a token budget, in an order that a seed and an epoch decide alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Sized
from typing import TypeVar

from ner_service.text.planning import plan_groups

E = TypeVar("E", bound=Sized)

POOL_BATCHES = 32
"""Batches' worth of examples that are sorted together: enough to waste little padding, few enough to stay random."""


def batches_of_epoch(examples: Sequence[E], budget_tokens: int, *, seed: int, epoch: int) -> Iterator[list[E]]:
    """Every example once, in batches whose padded size is at most `budget_tokens`; a longer example stands alone."""
    generator = random.Random(f"{seed} {epoch}")
    order = list(range(len(examples)))
    generator.shuffle(order)
    for pool in _pools(order, examples, budget_tokens * POOL_BATCHES):
        groups = plan_groups([len(examples[index]) for index in pool], budget_tokens, padded=True)
        generator.shuffle(groups)
        for group in groups:
            yield [examples[pool[index]] for index in group]


def _pools(order: Sequence[int], examples: Sequence[E], size_tokens: int) -> Iterator[list[int]]:
    pool: list[int] = []
    total = 0
    for index in order:
        pool.append(index)
        total += len(examples[index])
        if total >= size_tokens:
            yield pool
            pool, total = [], 0
    if pool:
        yield pool
