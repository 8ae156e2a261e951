"""Rotary positions against their closed form. Golden values: turns by position * 10000^(-2t/K), worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ner_service.model.rotary import rotary_table, rotate

Rotation = Callable[[Tensor, Tensor], Tensor]


def turn(vectors_LK: Tensor, position_L: Tensor) -> Tensor:
    """Ours: adjacent channels are a pair."""
    return rotate(vectors_LK, rotary_table(position_L, vectors_LK.shape[-1], vectors_LK.dtype))


def turn_halves(vectors_LK: Tensor, position_L: Tensor) -> Tensor:
    """Llama's layout: channels t and t + K / 2 are a pair."""
    first, second = vectors_LK.chunk(2, -1)
    table = rotary_table(position_L, vectors_LK.shape[-1], vectors_LK.dtype)
    return torch.cat([first * table.real - second * table.imag, second * table.real + first * table.imag], -1)


def turn_mixed_up(vectors_LK: Tensor, position_L: Tensor) -> Tensor:
    """The published mistake: the table of the half-split layout, the rotation of the adjacent one."""
    table = rotary_table(position_L, vectors_LK.shape[-1], vectors_LK.dtype).tile(2)
    crossed = torch.stack([-vectors_LK[..., 1::2], vectors_LK[..., ::2]], -1).flatten(-2)
    return vectors_LK * table.real + crossed * table.imag


def products(rotation: Rotation, query_LK: Tensor, key_LK: Tensor, shift: float) -> Tensor:
    position_L = torch.arange(len(query_LK)) + shift
    return rotation(query_LK, position_L) @ rotation(key_LK, position_L).T


@pytest.mark.parametrize(
    ("rotation", "position", "expected"),
    [
        (turn, 1, (-1.14263966, 1.92207560, 2.95985067, 4.02979950)),
        (turn, 3, (-1.27223251, -1.83886499, 2.87866810, 4.08818664)),
        (turn_halves, 1, (-1.98411065, 1.95990067, 2.46237790, 4.01979967)),
    ],
)
def test_golden_turns(rotation: Rotation, position: int, expected: tuple[float, ...]) -> None:
    vector = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    found = rotation(vector, torch.tensor([position]))
    torch.testing.assert_close(found[0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=5e-9)


def test_golden_angles() -> None:
    assert rotary_table(torch.tensor(1), 4, torch.float64).angle().tolist() == pytest.approx([1.0, 0.01], abs=1e-15)
    angle = rotary_table(torch.tensor(1), 64, torch.float64).angle()
    assert angle[1].item() == pytest.approx(0.74989421, abs=5e-9)
    assert angle[31].item() == pytest.approx(1.33352143e-4, abs=5e-13)


def test_angles_do_not_depend_on_the_precision_of_the_model() -> None:
    """At position 100,000 an angle in single precision is off by 4e-3, in half precision it is noise."""
    exact = rotary_table(torch.tensor(100_000), 64, torch.float64)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        table = rotary_table(torch.tensor(100_000), 64, dtype)
        assert table.dtype == torch.complex64
        torch.testing.assert_close(table.to(torch.complex128), exact, rtol=0, atol=1e-7)
    single = torch.tensor(100_000, dtype=torch.float32) * 10000.0 ** -(torch.arange(0, 64, 2, dtype=torch.float32) / 64)
    assert (single.double().cos() - exact.real).abs().max() > 1e-4


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=5), st.integers(0, 5))
def test_a_turn_keeps_every_norm(positions: list[float], seed: int) -> None:
    vectors = torch.randn(len(positions), 64, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    turned = turn(vectors, torch.tensor(positions, dtype=torch.float64))
    torch.testing.assert_close(turned.norm(dim=-1), vectors.norm(dim=-1), rtol=1e-14, atol=1e-13)


def test_norms_change_in_the_mixed_up_layout() -> None:
    vectors = torch.randn(5, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned = turn_mixed_up(vectors, torch.arange(5) + 777)
    assert (turned.norm(dim=-1) - vectors.norm(dim=-1)).abs().max() > 0.1


@given(st.sampled_from((1, 17, 777, 1000, -0.5)), st.sampled_from((turn, turn_halves)))
def test_products_do_not_change_with_a_shift(shift: float, rotation: Rotation) -> None:
    query, key = torch.randn(2, 9, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        products(rotation, query, key, shift), products(rotation, query, key, 0), atol=1e-9, rtol=0
    )


def test_products_change_with_a_shift_in_the_mixed_up_layout() -> None:
    query, key = torch.randn(2, 9, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    difference = products(turn_mixed_up, query, key, 777) - products(turn_mixed_up, query, key, 0)
    assert difference.abs().max() > 1.0


def test_halves_are_a_permutation_of_adjacent_pairs() -> None:
    vectors = torch.randn(7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    position = torch.arange(7)
    assert torch.equal(turn_halves(vectors[:, order], position), turn(vectors, position)[:, order])
    assert not torch.allclose(turn_halves(vectors, position), turn(vectors, position))


def test_position_0_is_the_identity() -> None:
    vectors = torch.randn(3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert torch.equal(turn(vectors, torch.zeros(3)), vectors)


@given(st.integers(-500, 500), st.integers(-500, 500))
def test_turns_add_up(first: int, second: int) -> None:
    vector = torch.randn(1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    twice = turn(turn(vector, torch.tensor([first])), torch.tensor([second]))
    torch.testing.assert_close(twice, turn(vector, torch.tensor([first + second])), rtol=0, atol=1e-11)


def test_every_pair_is_a_rotation_matrix() -> None:
    turned = turn(torch.eye(4, dtype=torch.float64), torch.full((4,), 5)).T
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for pair, angle in enumerate((5.0, 0.05)):
        cos, sin = math.cos(angle), math.sin(angle)
        square = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
        expected[2 * pair : 2 * pair + 2, 2 * pair : 2 * pair + 2] = square
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-15)


def test_the_dtype_is_kept() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert turn(torch.ones(2, 8, dtype=dtype), torch.arange(2)).dtype == dtype
