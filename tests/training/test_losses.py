"""The multi-label loss against its definition, its golden values and its published mistakes.

The oracles are numbered GP-7 to GP-12 in continuation of the tests of the pointer heads. GP-16 is R-Drop's divergence;
S3, S4, S5 and S8 are the losses of pairs of sentences.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from training.losses import cosine_distillation, pair_contrast, partner_rows, soft_zlpr, sparse_zlpr, symmetric_kl


def dense(scores: Tensor, gold: Tensor) -> Tensor:
    """The definition over the last axis, -inf cells left out of both sums."""
    allowed = scores > -torch.inf
    negative = scores.masked_fill(gold, -torch.inf)
    positive = (-scores).masked_fill(~gold | ~allowed, -torch.inf)
    return torch.log1p(negative.exp().sum(-1)) + torch.log1p(positive.exp().sum(-1))


def subtractive(scores: Tensor, gold: Tensor) -> Tensor:
    """The published sparse form: the sum over positives is taken away from the sum over all cells."""
    zero = torch.zeros(*scores.shape[:-1], 1)
    total = torch.cat([scores, zero], -1).logsumexp(-1)
    positive = scores.masked_fill(~gold, -torch.inf).logsumexp(-1)
    rest = total + (1 - (positive - total).exp()).clamp(1e-7, 1).log()
    return rest + torch.cat([(-scores).masked_fill(~gold, -torch.inf), zero], -1).logsumexp(-1)


def positives(gold_BCLL: Tensor) -> Tensor:
    """Flat indices filled up with -1, as they come on the wire."""
    rows = [row.flatten().nonzero().flatten().tolist() for text in gold_BCLL for row in text]
    longest = max(1, *(len(row) for row in rows))
    filled = torch.tensor([row + [-1] * (longest - len(row)) for row in rows])
    return filled.view(*gold_BCLL.shape[:2], longest)


def grids(seed: int, scale: float, density: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Scores and gold of 3 texts of 6, 4 and 1 tokens and 2 labels, masked as a head masks them."""
    generator = torch.Generator().manual_seed(seed)
    valid_BL = torch.arange(6) < torch.tensor([6, 4, 1])[:, None]
    spans = torch.ones(6, 6, dtype=torch.bool).triu() & valid_BL[:, None, :, None] & valid_BL[:, None, None, :]
    scores = (torch.rand(3, 2, 6, 6, dtype=dtype, generator=generator) * 2 - 1) * scale
    gold = (torch.rand(3, 2, 6, 6, generator=generator) < density) & spans
    return scores.masked_fill(~spans, -torch.inf), gold


def test_gp7_golden_loss() -> None:
    """log(1 + e^-1 + e^0.5) + log(1 + e^-2 + e^3); without the class at 0 it would be another loss."""
    scores = torch.tensor([2.0, -1.0, 0.5, -3.0], dtype=torch.float64).view(1, 1, 2, 2)
    found = sparse_zlpr(scores, torch.tensor([[[0, 3]]]))
    assert found.item() == pytest.approx(4.159115840713875, abs=1e-14)
    without_zero = scores.flatten()[[1, 2]].logsumexp(0) + (-scores.flatten()[[0, 3]]).logsumexp(0)
    assert abs(without_zero.item() - 4.159115840713875) > 0.1


@pytest.mark.parametrize(("gold", "expected"), [([-1, -1], math.log(1276)), ([51, 7], math.log(1274) + math.log(3))])
def test_gp8_loss_of_zero_scores(gold: list[int], expected: float) -> None:
    """50 tokens have 1,275 spans; over all 2,500 cells the loss would be larger."""
    below = torch.ones(50, 50, dtype=torch.bool).tril(-1)
    every = torch.zeros(1, 1, 50, 50, dtype=torch.float64)
    found = sparse_zlpr(every.masked_fill(below, -torch.inf), torch.tensor([[gold]]))
    assert found.item() == pytest.approx(expected, abs=1e-12)
    assert sparse_zlpr(every, torch.tensor([[gold]])).item() > expected + 0.5


@given(st.integers(0, 2**32), st.sampled_from((1.0, 10.0, 50.0)), st.sampled_from((0.0, 0.1, 0.5, 1.0)))
def test_gp9_sparse_equals_dense(seed: int, scale: float, density: float) -> None:
    scores, gold = grids(seed, scale, density)
    expected = dense(scores.flatten(2), gold.flatten(2))
    torch.testing.assert_close(sparse_zlpr(scores, positives(gold)), expected, rtol=1e-13, atol=1e-13)
    single = sparse_zlpr(scores.float(), positives(gold))
    torch.testing.assert_close(single.double(), expected, rtol=1e-6, atol=1e-6)
    assert (single >= 0).all()


@pytest.mark.parametrize("score", [12.0, 20.0, 30.0])
def test_gp9_the_subtractive_form_fails_on_confident_positives(score: float) -> None:
    """One positive, no strong negative: in single precision it turns negative, then wrong by whole units."""
    scores = torch.full((1, 1, 30, 30), -20.0)
    scores[0, 0, 3, 5] = score
    gold = torch.zeros(1, 1, 30, 30, dtype=torch.bool)
    gold[0, 0, 3, 5] = True
    exact = dense(scores.double().flatten(2), gold.flatten(2))
    ours = sparse_zlpr(scores, positives(gold)).double()
    torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-6)
    error = subtractive(scores.flatten(2), gold.flatten(2)).double() - exact
    assert error.abs().item() > 1e-2


def test_padding_of_labels_strikes_nothing_out() -> None:
    scores, _ = grids(0, 3.0, 0.0)
    longer = sparse_zlpr(scores, torch.tensor([7, -1, -1]).expand(3, 2, 3))
    assert torch.equal(longer, sparse_zlpr(scores, torch.full((3, 2, 1), 7)))


@given(st.integers(0, 2**32), st.sampled_from((1.0, 10.0, 50.0)))
def test_gp10_soft_targets_of_0_and_1_are_hard_ones(seed: int, scale: float) -> None:
    scores, gold = grids(seed, scale, 0.3)
    hard = sparse_zlpr(scores, positives(gold)).flatten()
    soft = soft_zlpr(scores.flatten(2).flatten(0, 1), gold.double().flatten(2).flatten(0, 1))
    torch.testing.assert_close(soft, hard, rtol=1e-12, atol=1e-12)


def test_gp10_the_soft_loss_is_least_at_half_the_logit() -> None:
    target = torch.tensor([[0.02, 0.3, 0.5, 0.9, 0.999]], dtype=torch.float64)
    score = (target.logit() / 2).requires_grad_(True)
    (at_half,) = torch.autograd.grad(soft_zlpr(score, target).sum(), score)
    assert at_half.abs().max() < 1e-15
    whole = target.logit().requires_grad_(True)
    (at_whole,) = torch.autograd.grad(soft_zlpr(whole, target).sum(), whole)
    assert at_whole.abs().max() > 1e-2


def test_gp10_masked_cells_count_nowhere() -> None:
    score = torch.tensor([[1.0, -torch.inf, -2.0]], requires_grad=True)
    target = torch.tensor([[0.7, 0.4, 0.1]])
    loss = soft_zlpr(score, target)
    torch.testing.assert_close(loss, soft_zlpr(score[:, [0, 2]], target[:, [0, 2]]))
    (gradient,) = torch.autograd.grad(loss.sum(), score)
    assert gradient.isfinite().all()
    assert gradient[0, 1] == 0


@given(st.integers(0, 2**32), st.sampled_from((1.0, 10.0, 50.0)), st.sampled_from((0.0, 0.1, 0.5)))
def test_gp11_gradients_are_bounded_and_0_at_masked_cells(seed: int, scale: float, density: float) -> None:
    scores, gold = grids(seed, scale, density, torch.float32)
    scores.requires_grad_(True)
    (gradient,) = torch.autograd.grad(sparse_zlpr(scores, positives(gold)).sum(), scores)
    assert gradient.isfinite().all()
    assert (gradient.abs().sum((-1, -2)) < 2 + 1e-5).all()
    assert (gradient[scores == -torch.inf] == 0).all()
    assert (gradient[gold] <= 0).all()
    assert (gradient[~gold] >= 0).all()


def test_gp11_a_grid_in_bf16_loses_nothing_more_under_autocast() -> None:
    """Sums of exponentials are taken in fp32: as exact as of the same numbers in fp64."""
    scores, gold = grids(0, 50.0, 0.3, torch.bfloat16)
    scores.requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sparse_zlpr(scores, positives(gold))
    assert loss.dtype == torch.float32
    exact = sparse_zlpr(scores.detach().double(), positives(gold))
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-6)
    assert (exact.bfloat16().double() - exact).abs().max() > 1e-2
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert gradient.isfinite().all()


def test_gp12_the_pairwise_form_is_the_same_loss() -> None:
    """log(1 + sum e^(n - p) + sum e^(n - 0) + sum e^(0 - p)) over negatives n and positives p."""
    scores, gold = grids(5, 4.0, 0.3)
    cells, mask = scores[0, 0].flatten(), gold[0, 0].flatten()
    negative, positive = cells[~mask & cells.isfinite()], cells[mask]
    assert len(positive) > 1
    pairs = (negative[:, None] - positive).exp().sum()
    pairwise = torch.log1p(pairs + negative.exp().sum() + (-positive).exp().sum())
    loss = sparse_zlpr(scores, positives(gold))[0, 0].item()
    assert loss == pytest.approx(pairwise.item(), abs=2e-14)
    assert abs(loss - torch.log1p(pairs).item()) > 1e-3, "the class at 0 counts"
    # Without the class at 0, one positive leaves softmax cross-entropy.
    single = torch.log1p((negative - positive[0]).exp().sum())
    cross_entropy = torch.cat([positive[:1], negative]).logsumexp(0) - positive[0]
    assert single.item() == pytest.approx(cross_entropy.item(), abs=1e-14)


def vectors(num_rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def broken_properties(partner_N: Tensor) -> set[str]:
    """What of S3 does not hold of the label matrix of an index."""
    matrix_NN, size = torch.eye(len(partner_N))[partner_N], len(partner_N)
    holds = {
        "symmetric": torch.equal(matrix_NN, matrix_NN.T),
        "one 1 a row": torch.equal(matrix_NN.sum(1), torch.ones(size)),
        "zero diagonal": matrix_NN.trace().item() == 0,
        "own inverse": torch.equal(matrix_NN @ matrix_NN, torch.eye(size)),
    }
    return {name for name, held in holds.items() if not held}


@pytest.mark.parametrize("num_rows", [0, 2, 8, 30])
def test_s3_label_matrix(num_rows: int) -> None:
    """And rows 2i and 2i + 1 are a pair."""
    partner_N = partner_rows(num_rows)
    assert broken_properties(partner_N) == set()
    assert all(partner_N[row] == row + 1 for row in range(0, num_rows, 2))


@pytest.mark.parametrize("seed", range(5))
def test_s3_must_fail_with_a_shuffled_index(seed: int) -> None:
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    assert broken_properties(partner_rows(8)[order])


@pytest.mark.parametrize(
    ("index", "broken"),
    [
        ([1, 2, 3, 0], {"symmetric", "own inverse"}),
        ([0, 1, 2, 3], {"zero diagonal"}),
        ([1, 0, 1, 0], {"symmetric", "own inverse"}),
        ([2, 3, 0, 1], set()),
    ],
)
def test_s3_each_wrong_index_breaks_its_own_properties(index: list[int], broken: set[str]) -> None:
    """Another pairing, the last, breaks none: that neighbours are pairs is asked apart."""
    assert broken_properties(torch.tensor(index)) == broken


def test_s3_a_row_without_a_partner_is_refused() -> None:
    with pytest.raises(ValueError, match="found 5 rows, expected pairs"):
        pair_contrast(vectors(5, 4), 20.0)


@pytest.mark.parametrize("scale", [1.0, 20.0, 30.0])
@pytest.mark.parametrize("num_rows", [2, 4, 16])
def test_s4_identical_pairs_orthogonal_others(num_rows: int, scale: float) -> None:
    """log(1 + (b - 2) e^-scale), whatever the lengths of the vectors."""
    pairs = torch.eye(num_rows // 2, 12, dtype=torch.float64).repeat_interleave(2, 0)
    lengths = torch.linspace(0.1, 9, num_rows, dtype=torch.float64)[:, None]
    expected = torch.full((num_rows,), math.log1p((num_rows - 2) * math.exp(-scale)), dtype=torch.float64)
    torch.testing.assert_close(pair_contrast(pairs * lengths, scale), expected, rtol=1e-12, atol=1e-15)


def test_s4_a_row_that_meets_itself_has_another_loss() -> None:
    """The twin: without the mask on the diagonal every row is its own best partner, log(2 + (b - 2) e^-scale)."""
    pairs = torch.eye(8, dtype=torch.float64).repeat_interleave(2, 0)
    unmasked = functional.cross_entropy(20 * pairs @ pairs.T, partner_rows(16), reduction="none")
    assert unmasked.min() > math.log(2)
    assert pair_contrast(pairs, 20.0).max() < 1e-6


def test_s4_half_precision_is_computed_in_single() -> None:
    rounded = vectors(8, 16).half()
    exact = pair_contrast(rounded.double(), 20.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pair_contrast(rounded, 20.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    unit = functional.normalize(rounded.double(), dim=-1).bfloat16()
    assert ((20 * unit @ unit.T).double() - 20 * unit.double() @ unit.double().T).abs().max() > 1e-3


def test_s8_the_order_of_the_pairs_is_free() -> None:
    rows = vectors(12, 6)
    loss = pair_contrast(rows, 20.0)
    pair = torch.tensor([4, 0, 5, 2, 1, 3])
    shuffled = torch.stack([2 * pair, 2 * pair + 1], -1).flatten()
    swapped = partner_rows(12)
    for order in (shuffled, swapped):
        torch.testing.assert_close(pair_contrast(rows[order], 20.0), loss[order], rtol=1e-12, atol=1e-12)
        assert pair_contrast(rows[order], 20.0).sum().item() == pytest.approx(loss.sum().item(), rel=1e-12)
    # The twin: rows moved on by one leave their partners.
    assert abs(pair_contrast(rows.roll(1, 0), 20.0).sum() - loss.sum()).item() > 1


def test_s5_a_rotated_and_rescaled_teacher_is_matched() -> None:
    """Into a wider space too, where the rotation is any matrix with orthonormal rows."""
    teacher = vectors(9, 5)
    lengths = vectors(9, 1, seed=1).exp()
    rotation, _ = torch.linalg.qr(vectors(5, 5, seed=2))
    wider = torch.linalg.qr(vectors(8, 5, seed=3))[0].T
    assert cosine_distillation(lengths * teacher @ rotation, teacher).item() < 1e-28
    assert cosine_distillation(lengths * teacher @ wider, teacher).item() < 1e-28
    # The twins: another geometry, and rows turned round.
    assert cosine_distillation(vectors(9, 5, seed=4), teacher).item() > 0.1
    assert cosine_distillation(teacher * torch.tensor([[-1.0]] + [[1.0]] * 8), teacher).item() > 0.05


def test_s5_lengths_of_rows_do_not_count() -> None:
    student, teacher = vectors(9, 7), vectors(9, 5, seed=1)
    lengths = vectors(9, 1, seed=2).exp()
    found = cosine_distillation(student, teacher).item()
    assert found > 0.1
    assert cosine_distillation(lengths * student, teacher).item() == pytest.approx(found, rel=1e-13)
    assert cosine_distillation(student, lengths * teacher).item() == pytest.approx(found, rel=1e-13)


def test_s5_distillation_is_the_mean_over_all_pairs_of_rows() -> None:
    """Cosines of the student 0, of the teacher 1: two of the four cells differ by 1."""
    student = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    teacher = torch.tensor([[1.0], [5.0]])
    assert cosine_distillation(student, teacher).item() == 0.5


def bernoulli_kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(p|q) by its definition, p = sigmoid(first) and q = sigmoid(second)."""
    yes = first.sigmoid() * (functional.logsigmoid(first) - functional.logsigmoid(second))
    no = (-first).sigmoid() * (functional.logsigmoid(-first) - functional.logsigmoid(-second))
    return yes + no


logits = st.lists(st.floats(-40, 40) | st.just(-math.inf), min_size=1, max_size=8)


@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=1, max_size=8))
def test_gp16_symmetric_kl_is_the_bernoulli_sum(cells: list[tuple[float, float]]) -> None:
    first, second = torch.tensor(cells, dtype=torch.float64).T
    found = symmetric_kl(first, second)
    expected = bernoulli_kl(first, second) + bernoulli_kl(second, first)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(found, symmetric_kl(second, first))
    assert (found >= 0).all()


@given(logits)
def test_gp16_symmetric_kl_of_equals_is_0(cells: list[float]) -> None:
    scores = torch.tensor(cells)
    assert torch.equal(symmetric_kl(scores, scores), torch.zeros(len(cells)))


def test_gp16_one_direction_is_not_the_symmetric_one() -> None:
    """The twin: KL(p|q) alone changes with the order."""
    first, second = torch.tensor([2.0], dtype=torch.float64), torch.tensor([-1.0], dtype=torch.float64)
    assert bernoulli_kl(first, second).item() != pytest.approx(bernoulli_kl(second, first).item(), rel=0.01)
    assert symmetric_kl(first, second).item() == pytest.approx(3 * (1 / (1 + math.exp(-2)) - 1 / (1 + math.e)))


def test_gp16_masked_cells_count_0_and_have_no_gradient() -> None:
    first = torch.tensor([1.0, -torch.inf, -2.0], requires_grad=True)
    second = torch.tensor([0.5, -torch.inf, 3.0])
    divergence = symmetric_kl(first, second)
    assert divergence[1] == 0
    assert (divergence[[0, 2]] > 0).all()
    (gradient,) = torch.autograd.grad(divergence.sum(), first)
    assert gradient.isfinite().all()
    assert gradient[1] == 0
    # The twin: the bare formula has no number there.
    assert ((first.sigmoid() - second.sigmoid()) * (first - second))[1].isnan()


def test_gp16_half_precision_is_computed_in_single() -> None:
    first, second = torch.tensor([6.0]).bfloat16(), torch.tensor([7.0]).bfloat16()
    assert symmetric_kl(first, second).item() == pytest.approx(
        1 / (1 + math.exp(-7)) - 1 / (1 + math.exp(-6)), rel=1e-3
    )
