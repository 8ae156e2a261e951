"""Losses as pure functions of tensors. Know no model, no batch, no label's name.

Shapes: B texts, C labels, L tokens, P positives (padded); N rows, E and F widths of a vector.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def sparse_zlpr(scores_BCLL: Tensor, positive_BCP: Tensor) -> Tensor:
    """log(1 + sum over negatives of e^s) + log(1 + sum over positives of e^-s), for each text and label: loss_BC.

    `positive_BCP` holds flat cells start * L + end, -1 where a row has fewer than P. Cells with a score of -inf
    count on neither side. In single precision or wider, under autocast too. Positives are struck out of a copy of the
    grid, not subtracted from a sum over all of it: the subtractive form turns negative in fp32 near a score of 9, and
    beyond 16 pulls right answers down.

    Source: kexue.fm/archives/7359 (the loss), 8888 (sparse labels).
    """
    flat_BCM = _wide(scores_BCLL).flatten(2)
    num_cells = flat_BCM.shape[-1]
    given = positive_BCP >= 0
    # Two columns more: the 0 of the threshold class, and a spare one that padding of the labels may strike out.
    with_zero = functional.pad(flat_BCM, (0, 2))
    spare = torch.full_like(positive_BCP, num_cells + 1)
    struck_out = with_zero.scatter(2, torch.where(given, positive_BCP, spare), -torch.inf)
    struck_out = struck_out[..., : num_cells + 1]
    positive_scores = flat_BCM.gather(2, positive_BCP.clamp(min=0)).masked_fill(~given, torch.inf)
    positive_scores = functional.pad(positive_scores, (0, 1))
    return torch.logsumexp(struck_out, -1) + torch.logsumexp(-positive_scores, -1)


def soft_zlpr(score_NM: Tensor, target_NM: Tensor) -> Tensor:
    """The same loss for soft targets t in [0, 1] over M cells: loss_N. Its optimum is t = sigma(2s).

    A target of exactly 0 or 1 takes the cell out of the other sum, whatever its score; -inf cells count nowhere.

    Source: kexue.fm/archives/9064.
    """
    allowed = score_NM > -torch.inf
    score = score_NM.masked_fill(~allowed, 0.0)
    positive = (target_NM.log() - score).masked_fill(~allowed | (target_NM <= 0), -torch.inf)
    negative = (torch.log1p(-target_NM) + score).masked_fill(~allowed | (target_NM >= 1), -torch.inf)
    return torch.logsumexp(functional.pad(positive, (0, 1)), -1) + torch.logsumexp(functional.pad(negative, (0, 1)), -1)


def partner_rows(num_rows: int) -> Tensor:
    """The row that each row is to find: rows 2i and 2i + 1 are a pair. An index_N that is its own inverse.

    Raises:
        ValueError: an odd number of rows.
    """
    if num_rows % 2:
        raise ValueError(f"found {num_rows} rows, expected pairs: an even number")
    return torch.arange(num_rows) ^ 1


def pair_contrast(vectors_NE: Tensor, scale: float) -> Tensor:
    """Cross-entropy of finding a row's partner among all other rows by `scale` times the cosine: loss_N.

    In single precision or wider, under autocast too. `scale` is the inverse of the temperature.

    Raises:
        ValueError: an odd number of rows.

    Source: github.com/ZhuiyiTechnology/simbert.
    """
    partner_N = partner_rows(len(vectors_NE)).to(vectors_NE.device)
    scores_NN = scale * _cosines(vectors_NE)
    itself_NN = torch.eye(len(vectors_NE), dtype=torch.bool, device=vectors_NE.device)
    scores_NN = scores_NN.masked_fill(itself_NN, torch.finfo(scores_NN.dtype).min)
    return functional.cross_entropy(scores_NN, partner_N, reduction="none")


def cosine_distillation(student_NE: Tensor, teacher_NF: Tensor) -> Tensor:
    """Mean over all N^2 pairs of rows of the squared difference of their cosines: a scalar.

    The widths may differ. In single precision or wider, under autocast too.

    Source: kexue.fm/archives/8454 (RoFormer-Sim), without its weight of 100.
    """
    return (_cosines(student_NE) - _cosines(teacher_NF)).square().mean()


def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    """(sigmoid(a) - sigmoid(b)) (a - b) for each cell: KL(p|q) + KL(q|p) of the two Bernoulli distributions.

    Never negative, 0 where the logits are equal or both -inf. In single precision or wider.

    Source: kexue.fm/archives/9039; R-Drop: Liang et al. 2021, arXiv 2106.14448.
    """
    masked = (first == -torch.inf) & (second == -torch.inf)
    first, second = (_wide(logits).masked_fill(masked, 0.0) for logits in (first, second))
    return (first.sigmoid() - second.sigmoid()) * (first - second)


def _cosines(vectors_NE: Tensor) -> Tensor:
    with torch.autocast(vectors_NE.device.type, enabled=False):
        unit_NE = functional.normalize(_wide(vectors_NE), dim=-1)
        return unit_NE @ unit_NE.T


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
