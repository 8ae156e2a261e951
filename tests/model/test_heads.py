"""Pointer heads against their formulas, written out cell by cell.

The oracles are numbered GP-1 to GP-18; the tests of losses, decoding and the whole model carry the others. Golden
scores are those of the closed form q . R_{j-i} k / sqrt(K).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ner_service.model import heads
from ner_service.model.config import HeadConfig
from ner_service.model.heads import EfficientGlobalPointer, GlobalPointer, build_head, scores

Head = GlobalPointer | EfficientGlobalPointer
KINDS = (GlobalPointer, EfficientGlobalPointer)
LENGTH, WIDTH = 7, 10


def head(kind: type[Head], *, num_labels: int = 3, head_size: int = 8, rotary: bool = True) -> Head:
    torch.manual_seed(0)
    built = kind(WIDTH, num_labels, HeadConfig(head_size=head_size, rotary=rotary)).double()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter)
    return built.requires_grad_(False)


def hidden(length: int = LENGTH) -> Tensor:
    return torch.randn(length, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def grid(head: Head, hidden_LD: Tensor, shift: int = 0) -> Tensor:
    """scores_CLL of one text."""
    position_L = torch.arange(len(hidden_LD)) + shift
    projection = head.project(hidden_LD[None], position_L[None])
    return scores(projection, torch.ones(1, len(hidden_LD), dtype=torch.bool))[0]


def spans(grid_CLL: Tensor) -> Tensor:
    """The finite cells, one row a label."""
    return grid_CLL[:, torch.ones(grid_CLL.shape[1:], dtype=torch.bool).triu()]


def turn(distance: int, width: int) -> Tensor:
    """The dense matrix R_distance."""
    matrix = torch.zeros(width, width, dtype=torch.float64)
    for pair in range(width // 2):
        angle = distance * 10000.0 ** (-2 * pair / width)
        block = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        matrix[2 * pair : 2 * pair + 2, 2 * pair : 2 * pair + 2] = torch.tensor(block, dtype=torch.float64)
    return matrix


def cell_by_cell(num_labels: int, length: int, score: Callable[[int, int, int], Tensor]) -> Tensor:
    """A grid from a formula of (label, start, end)."""
    found = torch.full((num_labels, length, length), -torch.inf, dtype=torch.float64)
    for label in range(num_labels):
        for start in range(length):
            for end in range(start, length):
                found[label, start, end] = score(label, start, end)
    return found


def global_pointer_formula(
    head: GlobalPointer, hidden_LD: Tensor, *, forwards: bool = True, scaled: bool = True, label_first: bool = True
) -> Tensor:
    """The definition; each option turned round is a mistake."""
    size = head.head_size
    divisor = math.sqrt(size) if scaled else 1.0
    features = hidden_LD @ head.dense.weight.T + head.dense.bias

    def score(label: int, start: int, end: int) -> Tensor:
        queries = 2 * size * label if label_first else size * label
        keys = queries + (size if label_first else size * head.num_labels)
        query, key = features[start, queries : queries + size], features[end, keys : keys + size]
        return query @ turn(end - start if forwards else start - end, size) @ key / divisor

    return cell_by_cell(head.num_labels, len(hidden_LD), score)


def efficient_formula(
    head: EfficientGlobalPointer,
    hidden_LD: Tensor,
    *,
    interleaved: bool = True,
    even_channel_is_end: bool = True,
    term_factor: float = 0.5,
    scaled: bool = True,
) -> Tensor:
    """The author's code as a formula; each option turned round is a known mistake."""
    size = head.head_size
    features = hidden_LD @ head.dense.weight.T + head.dense.bias
    terms = (features @ head.terms.weight.T + head.terms.bias) * term_factor
    queries, keys = (features[:, 0::2], features[:, 1::2]) if interleaved else features.chunk(2, -1)
    even, odd = (1, 0) if even_channel_is_end else (0, 1)

    def score(label: int, start: int, end: int) -> Tensor:
        core = queries[start] @ turn(end - start, size) @ keys[end] / (math.sqrt(size) if scaled else 1.0)
        return core + terms[start, 2 * label + even] + terms[end, 2 * label + odd]

    return cell_by_cell(head.num_labels, len(hidden_LD), score)


@pytest.mark.parametrize("kind", KINDS)
def test_gp1_scores_do_not_change_with_a_shift(kind: type[Head]) -> None:
    built = head(kind, head_size=64)
    for shift in (1, 777, 1000):
        torch.testing.assert_close(grid(built, hidden(), shift), grid(built, hidden()), rtol=0, atol=1e-9)
    single = built.float()
    far, near = grid(single, hidden().float(), 1000), grid(single, hidden().float())
    torch.testing.assert_close(far, near, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_gp1_finds_a_tiled_table_under_an_adjacent_rotation(kind: type[Head], monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed_up(vectors: Tensor, table: Tensor) -> Tensor:
        tiled = table.tile(2)
        crossed = torch.stack([-vectors[..., 1::2], vectors[..., ::2]], -1).flatten(-2)
        return vectors * tiled.real + crossed * tiled.imag

    monkeypatch.setattr(heads, "rotate", mixed_up)
    built = head(kind, head_size=64)
    assert (spans(grid(built, hidden(), 777)) - spans(grid(built, hidden()))).abs().max() > 1


def test_gp2_scores_equal_those_of_dense_rotations() -> None:
    built = head(GlobalPointer)
    assert isinstance(built, GlobalPointer)
    found = grid(built, hidden())
    torch.testing.assert_close(found, global_pointer_formula(built, hidden()), rtol=1e-13, atol=1e-13)
    for mistake in (
        global_pointer_formula(built, hidden(), forwards=False),
        global_pointer_formula(built, hidden(), scaled=False),
        global_pointer_formula(built, hidden(), label_first=False),
    ):
        assert (spans(found) - spans(mistake)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (
            (4.0, 3.0, 2.0, 1.0),
            {
                0: 10.0,
                1: 9.829938576779,
                2: 5.241506084395,
                5: 4.139699465810,
                -1: 5.572584486069,
                -2: 0.595025616800,
            },
        ),
        ((1.0, 2.0, 3.0, 4.0), {0: 15.0, 1: 13.850130769879, 2: 11.457132991964, 5: 13.193533718595}),
    ],
)
def test_gp3_golden_scores_by_distance(key: tuple[float, ...], expected: dict[int, float]) -> None:
    built = GlobalPointer(8, 1, HeadConfig(head_size=4)).double().requires_grad_(False)
    built.dense.weight.copy_(torch.eye(8))
    built.dense.bias.zero_()
    hidden_LD = torch.tensor([[1.0, 2.0, 3.0, 4.0, *key]], dtype=torch.float64).expand(6, 8)
    projection = built.project(hidden_LD[None], torch.arange(6)[None])
    product_LL = (projection.query @ projection.key.transpose(-1, -2))[0, 0]
    grid_LL = scores(projection, torch.ones(1, 6, dtype=torch.bool))[0, 0]
    for distance, score in expected.items():
        assert product_LL.diagonal(distance).tolist() == pytest.approx([score] * (6 - abs(distance)), abs=1e-11)
        if distance >= 0:
            assert torch.equal(grid_LL.diagonal(distance), product_LL.diagonal(distance))
    if -1 in expected:
        assert product_LL.T.diagonal(1).tolist() != pytest.approx([expected[1]] * 5, abs=1)


@pytest.mark.parametrize("kind", KINDS)
def test_gp4_without_rotation_scores_depend_on_content_alone(kind: type[Head]) -> None:
    order = torch.tensor([3, 1, 6, 0, 5, 2, 4])

    def products(rotary: bool, hidden_LD: Tensor) -> Tensor:
        projection = head(kind, rotary=rotary).project(hidden_LD[None], torch.arange(LENGTH)[None])
        return (projection.query @ projection.key.transpose(-1, -2))[0]

    permuted = products(False, hidden())[:, order][:, :, order]
    torch.testing.assert_close(products(False, hidden()[order]), permuted)
    assert not torch.allclose(products(True, hidden()[order]), products(True, hidden())[:, order][:, :, order])


@pytest.mark.parametrize("kind", KINDS)
def test_gp5_padding_and_neighbours_do_not_change_scores(kind: type[Head]) -> None:
    built = head(kind)
    lengths = (7, 4, 1)
    hidden_BLD = torch.stack([hidden(), hidden().flip(0), hidden().roll(2, 0)])
    valid_BL = torch.arange(LENGTH) < torch.tensor(lengths)[:, None]
    padded = scores(built.project(hidden_BLD, torch.arange(LENGTH).expand(3, -1)), valid_BL)
    for row, length in enumerate(lengths):
        alone = grid(built, hidden_BLD[row, :length])
        torch.testing.assert_close(padded[row, :, :length, :length], alone, rtol=1e-13, atol=1e-13)
        outside = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
        outside[:length, :length] = False
        assert (padded[row][:, outside] == -torch.inf).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gp5_left_padding_is_masked_as_well(kind: type[Head]) -> None:
    built = head(kind)
    valid_BL = torch.tensor([[False, False, True, True, True, True, True]])
    padded = scores(built.project(hidden()[None], torch.arange(LENGTH)[None]), valid_BL)[0]
    assert (padded[:, :2] == -torch.inf).all()
    torch.testing.assert_close(padded[:, 2:, 2:], grid(built, hidden()[2:]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gp6_cells_are_finite_on_and_above_the_diagonal_alone(kind: type[Head]) -> None:
    finite = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu().expand(3, -1, -1)
    assert torch.equal(grid(head(kind), hidden()).isfinite(), finite)


def test_gp13_the_efficient_head_is_the_authors_code() -> None:
    built = head(EfficientGlobalPointer)
    assert isinstance(built, EfficientGlobalPointer)
    found = grid(built, hidden())
    torch.testing.assert_close(found, efficient_formula(built, hidden()), rtol=1e-13, atol=1e-13)
    for mistake in (
        efficient_formula(built, hidden(), interleaved=False),
        efficient_formula(built, hidden(), even_channel_is_end=False),
        efficient_formula(built, hidden(), term_factor=1.0),
        efficient_formula(built, hidden(), scaled=False),
    ):
        assert (spans(found) - spans(mistake)).abs().max() > 0.1


def test_gp13_labels_of_the_efficient_head_cannot_differ_in_pairs() -> None:
    """s_a - s_b = f(start) + g(end): its mixed second difference is 0, as it is not for GlobalPointer."""

    def mixed_difference(kind: type[Head]) -> float:
        grid_CLL = grid(head(kind), hidden())
        difference = grid_CLL[0] - grid_CLL[1]
        # Starts 0..2 and ends 4..6: all four corners of each square are spans.
        square = difference[:3, 4:]
        return float((square[1:, 1:] - square[:-1, 1:] - square[1:, :-1] + square[:-1, :-1]).abs().max())

    assert mixed_difference(EfficientGlobalPointer) < 1e-13
    assert mixed_difference(GlobalPointer) > 0.1


def test_gp13_the_efficient_head_is_global_pointer_with_two_channels_more() -> None:
    built = head(EfficientGlobalPointer)
    projection = built.project(hidden()[None], torch.arange(LENGTH)[None])
    assert projection.start is not None
    assert projection.end is not None
    ones = torch.ones(1, 3, LENGTH, 1, dtype=torch.float64)
    query = torch.cat([projection.query.expand(-1, 3, -1, -1), projection.start[..., None], ones], -1)
    key = torch.cat([projection.key.expand(-1, 3, -1, -1), ones, projection.end[..., None]], -1)
    augmented = (query @ key.transpose(-1, -2))[0]
    torch.testing.assert_close(spans(augmented), spans(grid(built, hidden())), rtol=1e-13, atol=1e-13)


def test_gp14_without_terms_every_label_is_a_global_pointer_of_one_label() -> None:
    built = head(EfficientGlobalPointer)
    assert isinstance(built, EfficientGlobalPointer)
    built.terms.weight.zero_()
    built.terms.bias.zero_()
    single = head(GlobalPointer, num_labels=1)
    order = [*range(0, 16, 2), *range(1, 16, 2)]
    single.dense.weight.copy_(built.dense.weight[order])
    single.dense.bias.copy_(built.dense.bias[order])
    expected = spans(grid(single, hidden())).expand(3, -1)
    torch.testing.assert_close(spans(grid(built, hidden())), expected, rtol=1e-13, atol=1e-13)
    built.terms.bias.copy_(torch.arange(6))
    assert not torch.allclose(spans(grid(built, hidden())), expected)


@pytest.mark.parametrize(
    ("num_labels", "plain", "efficient"),
    [
        (3, 295_296, 99_206),
        (9, 885_888, 100_754),
        (10, 984_320, 101_012),
        (50, 4_921_600, 111_332),
        (100, 9_843_200, 124_232),
    ],
)
def test_gp17_parameter_counts(num_labels: int, plain: int, efficient: int) -> None:
    """2KC(D + 1) and 2K(D + 1) + 2C(2K + 1), at D = 768 and K = 64."""

    def count(config: HeadConfig) -> int:
        return sum(parameter.numel() for parameter in build_head(768, num_labels, config).parameters())

    assert count(HeadConfig(kind="global_pointer", head_size=64)) == plain
    assert count(HeadConfig(kind="efficient_global_pointer", head_size=64)) == efficient


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_flow_through_a_padded_grid(kind: type[Head]) -> None:
    """The grid is summed in place; its gradient is that of the formula, 0 at masked cells."""
    built = head(kind).requires_grad_(True)
    hidden_BLD = torch.stack([hidden(4), hidden(4).flip(0)])
    valid_BL = torch.tensor([[True, True, True, True], [True, True, False, False]])
    position_BL = torch.arange(4).expand(2, -1)

    def probability_mass(hidden_BLD: Tensor) -> Tensor:
        return scores(built.project(hidden_BLD, position_BL), valid_BL).sigmoid().sum()

    assert torch.autograd.gradcheck(probability_mass, hidden_BLD.requires_grad_(True))
    (gradient,) = torch.autograd.grad(probability_mass(hidden_BLD), hidden_BLD)
    assert (gradient[1, 2:] == 0).all()
    assert (gradient[1, :2] != 0).any()
