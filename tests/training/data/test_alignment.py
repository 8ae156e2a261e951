"""Two readings of one text: the finest parts that cut no token of either."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from training.data.alignment import ALONE, common_parts

Ranges = list[tuple[int, int]]


def test_a_word_and_its_characters_are_one_part() -> None:
    characters: Ranges = [(0, 1), (1, 2), (2, 3), (3, 4)]
    pieces: Ranges = [(0, 1), (1, 4)]
    assert common_parts(4, characters, pieces) == ([0, 1, 1, 1], [0, 1])


def test_tokens_that_lie_across_each_other_are_one_part() -> None:
    assert common_parts(6, [(0, 2), (2, 4), (4, 6)], [(0, 1), (1, 3), (3, 4), (4, 6)]) == ([0, 0, 1], [0, 0, 0, 1])


def test_what_one_reading_leaves_out_is_alone() -> None:
    """A space that only one of them reads, tokens that cover nothing, a character that both leave out."""
    assert common_parts(5, [(0, 1), (1, 2), (3, 5)], [(0, 0), (0, 1), (3, 5), (5, 5)]) == (
        [0, ALONE, 1],
        [ALONE, 0, 1, ALONE],
    )


def test_tokens_that_share_a_character_are_one_part() -> None:
    bytes_of_an_emoji: Ranges = [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]
    assert common_parts(3, bytes_of_an_emoji, bytes_of_an_emoji) == ([0, 1, 1, 1, 2], [0, 1, 1, 1, 2])


@st.composite
def readings(draw: st.DrawFn) -> tuple[int, Ranges, Ranges]:
    """Two partitions of a text, each with some tokens left out."""
    length = draw(st.integers(1, 12))
    both = []
    for _ in range(2):
        inner = draw(st.sets(st.integers(1, length))) - {length}
        bounds = [0, *sorted(inner), length]
        ranges = list(pairwise(bounds))
        both.append([token for token in ranges if draw(st.integers(0, 4))])
    return length, both[0], both[1]


@given(readings())
def test_parts_are_connected_overlaps_that_both_readings_have(drawn: tuple[int, Ranges, Ranges]) -> None:
    """Against another definition: tokens linked by overlap, chains followed to their ends."""
    length, first, second = drawn
    tokens = [(0, token) for token in first] + [(1, token) for token in second]
    chains: list[set[tuple[int, tuple[int, int]]]] = []
    for token in tokens:
        touching = [chain for chain in chains if any(a < token[1][1] and token[1][0] < b for _, (a, b) in chain)]
        chains = [chain for chain in chains if chain not in touching] + [set().union({token}, *touching)]
    shared = sorted((chain for chain in chains if {side for side, _ in chain} == {0, 1}), key=_start)
    number = {token: place for place, chain in enumerate(shared) for token in chain}
    assert common_parts(length, first, second) == (
        [number.get((0, token), ALONE) for token in first],
        [number.get((1, token), ALONE) for token in second],
    )


def _start(chain: set[tuple[int, tuple[int, int]]]) -> int:
    return min(start for _, (start, _) in chain)
