"""Lengths -> groups within a token budget; shared by loader, evaluation and batcher. Knows only numbers."""

from __future__ import annotations

from collections.abc import Sequence


def plan_groups(lengths: Sequence[int], budget_tokens: int, *, padded: bool) -> list[list[int]]:
    """Indices of `lengths`, shortest first, cut into groups that fit the budget.

    A padded group costs its longest length times its count, a packed one the sum of its lengths. An item over the
    budget stands alone. Every index occurs exactly once.
    """
    groups: list[list[int]] = []
    total = 0
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        length = lengths[index]
        count = len(groups[-1]) + 1 if groups else 1
        cost = length * count if padded else total + length
        if groups and cost <= budget_tokens:
            groups[-1].append(index)
            total += length
        else:
            groups.append([index])
            total = length
    return groups


def take_prefix(lengths: Sequence[int], budget_tokens: int) -> int:
    """How many items at the head of a queue fit the budget together; at least one, unless the queue is empty."""
    total = 0
    for count, length in enumerate(lengths):
        total += length
        if total > budget_tokens and count:
            return count
    return len(lengths)
