"""Two rotary axes: the oracles T-1 to T-10. The half-split layout stands here as the published one to compare with."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ner_service.model.rotary import BASE, rotary_table, rotary_table_of_axes, rotate

WIDTH = 16
Rotation = Callable[[Tensor, Tensor], Tensor]


def turn(vectors: Tensor, place: Tensor) -> Tensor:
    """Ours: even pairs on x, odd ones on y."""
    return rotate(vectors, rotary_table_of_axes(place, vectors.shape[-1], vectors.dtype))


def turn_halves(vectors: Tensor, place: Tensor) -> Tensor:
    """The article's: the first half of the channels on x, the second on y, each by a table of its own width."""
    halves = zip(vectors.chunk(2, -1), place.unbind(-1), strict=True)
    tables = ((half, rotary_table(axis, half.shape[-1], half.dtype)) for half, axis in halves)
    return torch.cat([rotate(half, table) for half, table in tables], -1)


def turn_by_sum(vectors: Tensor, place: Tensor) -> Tensor:
    """Relative, but it cannot be undone: a rotation by x + y."""
    return rotate(vectors, rotary_table(place.sum(-1), vectors.shape[-1], vectors.dtype))


def turn_by_square(vectors: Tensor, place: Tensor) -> Tensor:
    """A rotation, but by no difference of places: x squared and y squared."""
    return turn(vectors, place**2)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def at(*places: tuple[float, float]) -> Tensor:
    return torch.tensor(places, dtype=torch.float64)


def matrix(rotation: Rotation, x: float, y: float, width: int = 4) -> Tensor:
    """The rotation as a matrix that acts on columns."""
    return rotation(torch.eye(width, dtype=torch.float64), at((x, y)).expand(width, -1)).T


LAYOUTS = pytest.mark.parametrize("rotation", [turn, turn_halves])
coordinates = st.floats(-500, 500)


@given(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=5))
def test_t1_norms_are_kept(places: list[tuple[float, float]]) -> None:
    vectors = random(len(places), WIDTH)
    torch.testing.assert_close(turn(vectors, at(*places)).norm(dim=-1), vectors.norm(dim=-1), rtol=1e-13, atol=1e-13)


def test_t1_norms_are_not_kept_by_a_table_of_other_lengths() -> None:
    """The twin."""
    vectors, table = random(3, WIDTH), rotary_table_of_axes(at((1, 2), (3, 4), (5, 6)), WIDTH, torch.float64)
    assert (rotate(vectors, 1.1 * table).norm(dim=-1) - vectors.norm(dim=-1)).abs().min() > 0.1


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_t2_products_do_not_change_with_a_shift(right: float, down: float) -> None:
    places, shift = random(9, 2, seed=1) * 10, at((right, down))
    query, key = random(2, 9, WIDTH, seed=2)
    here = turn(query, places) @ turn(key, places).T
    there = turn(query, places + shift) @ turn(key, places + shift).T
    torch.testing.assert_close(there, here, rtol=0, atol=1e-12)


def test_t2_products_change_when_one_token_moves() -> None:
    places = random(9, 2, seed=1) * 10
    query, key = random(2, 9, WIDTH, seed=2)
    elsewhere = places.clone()
    elsewhere[4] += at((1, 0))[0]
    difference = turn(query, elsewhere) @ turn(key, elsewhere).T - turn(query, places) @ turn(key, places).T
    assert difference[4].abs().max() > 0.1
    assert difference[:4, :4].abs().max() < 1e-12


@LAYOUTS
@given(st.tuples(coordinates, coordinates), st.tuples(coordinates, coordinates))
def test_t3_the_matrix_of_two_places_is_that_of_their_difference(
    rotation: Rotation, one: tuple[float, float], other: tuple[float, float]
) -> None:
    between = matrix(rotation, other[0] - one[0], other[1] - one[1])
    found = matrix(rotation, *one).T @ matrix(rotation, *other)
    torch.testing.assert_close(found, between, rtol=0, atol=1e-11)


def test_t3_is_not_so_for_angles_that_are_no_multiples_of_a_place() -> None:
    """The twin."""
    found = matrix(turn_by_square, 1, 2).T @ matrix(turn_by_square, 2, 4)
    assert (found - matrix(turn_by_square, 1, 2)).abs().max() > 0.1


@given(coordinates)
def test_t4_an_axis_on_which_all_stand_alike_has_no_effect(elsewhere: float) -> None:
    query, key = random(2, 5, WIDTH, seed=3)
    for axis in (0, 1):
        places = random(5, 2, seed=4) * 10
        places[:, axis] = 3.0
        moved = places.clone()
        moved[:, axis] = elsewhere
        here, there = (turn(query, p) @ turn(key, p).T for p in (places, moved))
        torch.testing.assert_close(there, here, rtol=0, atol=1e-11)


def test_t4_either_axis_has_an_effect() -> None:
    """The twin: one token further on along an axis."""
    query, key = random(2, 5, WIDTH, seed=3)
    for axis in (0, 1):
        places = at((1, 1)).repeat(5, 1)
        moved = places.clone()
        moved[2, axis] = 2.0
        assert (turn(query, moved) @ turn(key, moved).T - query @ key.T).abs().max() > 0.1


@given(st.tuples(coordinates, coordinates))
def test_t5_halves_and_coordinates_swapped_together_are_the_same(place: tuple[float, float]) -> None:
    vectors = random(1, WIDTH, seed=5)
    swapped = turn_halves(vectors.roll(WIDTH // 2, -1), at(place[::-1]))
    torch.testing.assert_close(swapped.roll(WIDTH // 2, -1), turn_halves(vectors, at(place)), rtol=0, atol=1e-12)


def test_t5_is_not_so_for_alternating_pairs_whose_angles_differ() -> None:
    """The twin: x has the faster pairs, by sqrt of the base to the 2/K; swapping pairs and coordinates shows it."""
    vectors = random(1, WIDTH, seed=5)
    order = torch.arange(WIDTH).view(-1, 2, 2).flip(1).flatten()
    swapped = turn(vectors[:, order], at((3, 7)))[:, order]
    assert (swapped - turn(vectors, at((7, 3)))).abs().max() > 0.1


def test_t6_golden_turn() -> None:
    vector = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    expected = torch.tensor([[-1.14263966, 1.92207560, -4.88563022, 1.06330493]], dtype=torch.float64)
    torch.testing.assert_close(turn_halves(vector, at((1, 2))), expected, rtol=0, atol=5e-9)
    # Ours turns the second pair by 2 * 10000^(-1/2) = 0.02: (3 cos 0.02 - 4 sin 0.02, 4 cos 0.02 + 3 sin 0.02).
    expected[0, 2:] = torch.tensor([2.91940535, 4.05919603], dtype=torch.float64)
    torch.testing.assert_close(turn(vector, at((1, 2))), expected, rtol=0, atol=5e-9)


def test_t6_finds_coordinates_that_are_swapped() -> None:
    vector = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    for rotation in (turn, turn_halves):
        assert (rotation(vector, at((2, 1))) - rotation(vector, at((1, 2)))).abs().max() > 0.01


@given(coordinates)
def test_t7_without_y_its_pairs_are_untouched_and_the_others_turn_as_with_one_axis(x: float) -> None:
    vectors = random(1, WIDTH, seed=6)
    halves = turn_halves(vectors, at((x, 0)))
    first = vectors[:, : WIDTH // 2]
    along = rotate(first, rotary_table(torch.tensor([x], dtype=torch.float64), WIDTH // 2, torch.float64))
    torch.testing.assert_close(halves[:, : WIDTH // 2], along, rtol=0, atol=0)
    assert torch.equal(halves[:, WIDTH // 2 :], vectors[:, WIDTH // 2 :])

    alternating = turn(vectors, at((x, 0))).view(-1, 2, 2)
    one_axis = rotate(vectors, rotary_table(torch.tensor([x], dtype=torch.float64), WIDTH, torch.float64))
    assert torch.equal(alternating[:, 1], vectors.view(-1, 2, 2)[:, 1])
    assert torch.equal(alternating[:, 0], one_axis.view(-1, 2, 2)[:, 0])


def test_t7_with_y_its_pairs_turn_and_the_others_as_before() -> None:
    """The twin."""
    vectors = random(1, WIDTH, seed=6)
    without, along = (turn(vectors, at((3, y))).view(-1, 2, 2) for y in (0, 1))
    assert torch.equal(along[:, 0], without[:, 0])
    assert (along[:, 1] - without[:, 1]).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_t8_at_n_n_alternating_pairs_turn_exactly_as_with_one_axis(dtype: torch.dtype) -> None:
    order = torch.arange(2000)
    one = rotary_table(order, 64, dtype)
    assert torch.equal(rotary_table_of_axes(torch.stack([order, order], -1), 64, dtype), one)
    assert torch.equal(rotary_table_of_axes(torch.stack([order, order], -1).double(), 64, dtype), one)


def test_t8_is_not_so_for_halves() -> None:
    vectors, place = random(1, WIDTH, seed=7), at((5, 5))
    one_axis = rotate(vectors, rotary_table(torch.tensor([5.0]), WIDTH, torch.float64))
    assert (turn_halves(vectors, place) - one_axis).abs().max() > 0.1


def test_t9_the_rotation_is_the_exponential_of_two_commuting_matrices() -> None:
    angles = (1.0, BASE**-0.5)
    generators = []
    for pair, angle in enumerate(angles):
        generator = torch.zeros(4, 4, dtype=torch.float64)
        generator[2 * pair, 2 * pair + 1], generator[2 * pair + 1, 2 * pair] = -angle, angle
        generators.append(generator)
    along, down = generators
    assert torch.equal(along @ down, down @ along)
    for x, y in ((1.0, 2.0), (-3.5, 40.0), (0.0, 0.25)):
        torch.testing.assert_close(
            torch.linalg.matrix_exp(x * along + y * down), matrix(turn, x, y), rtol=0, atol=1e-12
        )


def test_t9_exponentials_of_matrices_that_do_not_commute_do_not_add() -> None:
    """The quaternions i and j as matrices: the attempt that the article gives up."""
    one = torch.tensor([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -1], [0, 0, 1, 0]], dtype=torch.float64)
    other = torch.tensor([[0, 0, -1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, -1, 0, 0]], dtype=torch.float64)
    together = torch.linalg.matrix_exp(one + other)
    apart = torch.linalg.matrix_exp(one) @ torch.linalg.matrix_exp(other)
    assert (together - apart).abs().max() > 0.5


def test_t10_places_with_one_sum_collide_only_where_the_sum_is_what_turns() -> None:
    vectors = random(1, WIDTH, seed=8)
    assert torch.equal(turn_by_sum(vectors, at((1, 2))), turn_by_sum(vectors, at((2, 1))))
    for rotation in (turn, turn_halves):
        assert (rotation(vectors, at((1, 2))) - rotation(vectors, at((2, 1)))).abs().max() > 0.1


def test_places_between_whole_numbers_are_not_rounded() -> None:
    table = rotary_table_of_axes(torch.tensor([1.25, 2.5]), 4, torch.float64)
    assert table.angle().tolist() == pytest.approx([1.25, 2.5 / math.sqrt(BASE)], abs=1e-12)


def test_places_far_out_are_as_exact_for_any_precision_of_the_model() -> None:
    place = torch.tensor([1000.5, 777.25], dtype=torch.float64)
    exact = rotary_table_of_axes(place, 64, torch.float64)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        found = rotary_table_of_axes(place, 64, dtype).to(torch.complex128)
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-7)
