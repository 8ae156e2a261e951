"""Batches: everything once, within the budget, in an order that seed and epoch decide."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ner_service.types import Encoding
from training.data.loader import POOL_BATCHES, batches_of_epoch
from training.data.targets import Example


def examples(lengths: list[int]) -> list[Example]:
    """Examples of given lengths, told apart by their first token."""
    return [
        Example(Encoding((number, *[0] * (length - 1)), ((0, 0),) * length), (), (True,))
        for number, length in enumerate(lengths)
    ]


def numbers(batches: list[list[Example]]) -> list[list[int]]:
    return [[example.encoding.token_ids[0] for example in batch] for batch in batches]


LENGTHS = st.lists(st.integers(1, 40), max_size=80)


@given(LENGTHS, st.integers(1, 100), st.integers(0, 5), st.integers(0, 5))
def test_every_example_once_within_the_budget(lengths: list[int], budget: int, seed: int, epoch: int) -> None:
    batches = list(batches_of_epoch(examples(lengths), budget, seed=seed, epoch=epoch))
    assert sorted(number for batch in numbers(batches) for number in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(map(len, batch)) * len(batch) <= budget


@given(LENGTHS, st.integers(1, 100))
def test_a_batch_holds_examples_of_similar_length(lengths: list[int], budget: int) -> None:
    """No two batches of a pool interleave. All of these examples are one pool at most."""
    if sum(lengths) >= budget * POOL_BATCHES:
        return
    batches = list(batches_of_epoch(examples(lengths), budget, seed=0, epoch=0))
    ranges = sorted((min(map(len, batch)), max(map(len, batch))) for batch in batches)
    assert all(one[1] <= other[0] for one, other in pairwise(ranges))


def test_padding_wastes_little() -> None:
    lengths = [5 + number % 60 for number in range(600)]
    batches = list(batches_of_epoch(examples(lengths), 256, seed=0, epoch=0))
    padded = sum(max(map(len, batch)) * len(batch) for batch in batches)
    assert padded < 1.15 * sum(lengths)


def test_the_order_is_that_of_seed_and_epoch_alone() -> None:
    many = examples([1 + number % 9 for number in range(100)])
    first = numbers(list(batches_of_epoch(many, 30, seed=1, epoch=2)))
    assert first == numbers(list(batches_of_epoch(many, 30, seed=1, epoch=2)))
    for seed, epoch in ((1, 3), (2, 2), (12, 0), (2, 1)):
        assert first != numbers(list(batches_of_epoch(many, 30, seed=seed, epoch=epoch)))


def test_short_batches_do_not_come_first() -> None:
    """Sorted within a pool, shuffled among it: else an epoch would go from short to long."""
    many = examples(list(range(1, 60)))
    heads = [max(map(len, batch)) for batch in batches_of_epoch(many, 120, seed=0, epoch=0)]
    assert heads != sorted(heads)


def test_an_example_over_the_budget_stands_alone() -> None:
    batches = numbers(list(batches_of_epoch(examples([50, 3, 3]), 10, seed=0, epoch=0)))
    assert sorted(map(sorted, batches)) == [[0], [1, 2]]
