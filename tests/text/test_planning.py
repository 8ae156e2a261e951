from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ner_service.text.planning import plan_groups, take_prefix

LENGTHS = st.lists(st.integers(1, 40), max_size=40)


def cost(lengths: list[int], group: list[int], padded: bool) -> int:
    sizes = [lengths[index] for index in group]
    return max(sizes) * len(sizes) if padded else sum(sizes)


def test_padded_groups() -> None:
    assert plan_groups([7, 2, 3, 2], 8, padded=True) == [[1, 3], [2], [0]]


def test_packed_groups() -> None:
    assert plan_groups([7, 2, 3, 2], 8, padded=False) == [[1, 3, 2], [0]]


def test_no_item_no_group() -> None:
    assert plan_groups([], 8, padded=True) == []


@given(lengths=LENGTHS, budget=st.integers(1, 60), padded=st.booleans())
def test_groups_hold_every_index_once_and_fit(lengths: list[int], budget: int, padded: bool) -> None:
    groups = plan_groups(lengths, budget, padded=padded)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or cost(lengths, group, padded) <= budget for group in groups)


@given(lengths=LENGTHS, budget=st.integers(1, 60), padded=st.booleans())
def test_no_group_could_take_the_next_item(lengths: list[int], budget: int, padded: bool) -> None:
    groups = plan_groups(lengths, budget, padded=padded)
    for group, following in pairwise(groups):
        assert cost(lengths, [*group, following[0]], padded) > budget


@pytest.mark.parametrize(
    ("lengths", "budget", "count"), [([], 5, 0), ([9, 1], 5, 1), ([2, 3, 1], 5, 2), ([1, 1], 5, 2), ([5], 5, 1)]
)
def test_take_prefix(lengths: list[int], budget: int, count: int) -> None:
    assert take_prefix(lengths, budget) == count
