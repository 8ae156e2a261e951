"""Losses as pure functions of tensors. Know no model, no batch, no label's name.

Shapes: B texts, C labels, L tokens, P positives (padded).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def sparse_zlpr(scores_BCLL: Tensor, positive_BCP: Tensor) -> Tensor:
    """log(1 + sum over negatives of e^s) + log(1 + sum over positives of e^-s), for each text and label: loss_BC.

    `positive_BCP` holds flat cells start * L + end, -1 where a row has fewer than P. Cells with a score of -inf
    count on neither side. Positives are struck out of a copy of the grid, not subtracted from a sum over all of it: the
    subtractive form turns negative in fp32 near a score of 9, and beyond 16 pulls right answers down.

    Source: kexue.fm/archives/7359 (the loss), 8888 (sparse labels).
    """
    flat_BCM = scores_BCLL.flatten(2)
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
