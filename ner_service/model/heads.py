"""Pointer heads: a score for every span and label, computed exactly as the author's code does.

GlobalPointer             s_c(i, j) = (R_i q_ci) . (R_j k_cj) / sqrt(K)
EfficientGlobalPointer    s_c(i, j) = (R_i q_i) . (R_j k_j) / sqrt(K) + start_ci + end_cj

`project` turns hidden states into a `Projection`. From there two ways part: `scores` gives the full grid that a loss
needs; `candidates` gives only the cells above a cut-off and never materialises the grid. Both give -inf, or nothing,
for j < i and at padding. Cut-offs and scores are logits: 0 is the threshold that the loss is built around.

Sources: kexue.fm/archives/8373 and 8877, bert4keras. Shapes: B rows, L tokens, D hidden, C labels, K head width,
N candidates; start i on axis 2, end j (inclusive) on axis 3 of scores_BCLL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ner_service.model.config import HeadConfig
from ner_service.model.initialisation import initialise
from ner_service.model.rotary import rotary_table, rotate

CELLS_AT_ONCE = 1 << 20
"""Scores alive at a time while candidates are sought: 4 MiB, which stay in a CPU's cache."""


@dataclass(frozen=True, slots=True)
class Projection:
    """What a head makes of each token, rotary positions applied, queries already divided by sqrt(K).

    `query` and `key` are [B, G, L, K] with G = C for GlobalPointer and G = 1 for the efficient one, which adds `start`
    and `end` [B, C, L].
    """

    query: Tensor
    key: Tensor
    start: Tensor | None = None
    end: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Cells:
    """Sparse cells of one text's grid: label, start and inclusive end indices, and the score of each."""

    label_N: Tensor
    start_N: Tensor
    end_N: Tensor
    score_N: Tensor


class GlobalPointer(nn.Module):
    """One query and one key a label and token: dense D -> C * 2K, the first K of each label the query."""

    def __init__(self, hidden_size: int, num_labels: int, config: HeadConfig) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.head_size = config.head_size
        self.rotary = config.rotary
        self.dense = nn.Linear(hidden_size, num_labels * 2 * config.head_size)
        self.apply(initialise)

    def project(self, hidden_BLD: Tensor, position_BL: Tensor) -> Projection:
        query_key = self.dense(hidden_BLD).unflatten(-1, (self.num_labels, 2, self.head_size))
        query_key = _turn(query_key, position_BL, self.rotary)
        query, key = query_key.permute(3, 0, 2, 1, 4)
        return Projection(query / math.sqrt(self.head_size), key)


class EfficientGlobalPointer(nn.Module):
    """One query and one key a token for all labels, plus a start and an end term a label.

    u = dense(h); even channels of u are the query, odd ones the key; the terms read the unturned u, and their even
    channels belong to the end, halved.
    """

    def __init__(self, hidden_size: int, num_labels: int, config: HeadConfig) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.head_size = config.head_size
        self.rotary = config.rotary
        self.dense = nn.Linear(hidden_size, 2 * config.head_size)
        self.terms = nn.Linear(2 * config.head_size, 2 * num_labels)
        self.apply(initialise)

    def project(self, hidden_BLD: Tensor, position_BL: Tensor) -> Projection:
        features = self.dense(hidden_BLD)
        query_key = features.unflatten(-1, (self.head_size, 2)).transpose(-1, -2)[:, :, None]
        query_key = _turn(query_key, position_BL, self.rotary)
        query, key = query_key.permute(3, 0, 2, 1, 4)
        end, start = (self.terms(features) / 2).unflatten(-1, (self.num_labels, 2)).permute(3, 0, 2, 1)
        return Projection(query / math.sqrt(self.head_size), key, start, end)


def build_head(hidden_size: int, num_labels: int, config: HeadConfig) -> GlobalPointer | EfficientGlobalPointer:
    """The head of a configuration, with random weights."""
    match config.kind:
        case "global_pointer":
            return GlobalPointer(hidden_size, num_labels, config)
        case "efficient_global_pointer":
            return EfficientGlobalPointer(hidden_size, num_labels, config)


def scores(projection: Projection, valid_BL: Tensor) -> Tensor:
    """The full grid scores_BCLL, -inf below the diagonal and where start or end is not valid."""
    grid = projection.query @ projection.key.transpose(-1, -2)
    if projection.start is not None and projection.end is not None:
        grid = grid + projection.start[..., :, None] + projection.end[..., None, :]
    length = grid.shape[-1]
    spans = torch.ones(length, length, dtype=torch.bool, device=grid.device).triu()
    allowed = spans & valid_BL[:, None, :, None] & valid_BL[:, None, None, :]
    return grid.masked_fill(~allowed, -torch.inf)


def candidates(projection: Projection, cutoff_C: Tensor) -> Cells:
    """Cells (c, i, j), i <= j, with a score above `cutoff_C[c]`, of the one text in `projection`.

    The set is that of `scores(...) > cutoff`, found without the grid. A cut-off of +inf switches a label off.
    Cells come in ascending order of (label, start, end).
    """
    if projection.start is not None and projection.end is not None:
        return _candidates_factored(projection, cutoff_C)
    return _candidates_dense(projection, cutoff_C)


def _turn(query_key_BLGQK: Tensor, position_BL: Tensor, rotary: bool) -> Tensor:
    """Rotary positions on queries and keys; positions count from the first token of the text."""
    if not rotary:
        return query_key_BLGQK
    table = rotary_table(position_BL, query_key_BLGQK.shape[-1], query_key_BLGQK.dtype)
    return rotate(query_key_BLGQK, table[:, :, None, None])


def _candidates_factored(projection: Projection, cutoff_C: Tensor) -> Cells:
    """Row i of label c can fire only if start_ci + max_j core_ij + max_{j>=i} end_cj is above the cut-off."""
    assert projection.start is not None
    assert projection.end is not None
    start_CL, end_CL = projection.start[0], projection.end[0]
    core_LL = _upper(projection.query[0, 0] @ projection.key[0, 0].T)
    best_end_CL = end_CL.flip(-1).cummax(-1).values.flip(-1)
    bound_CL = start_CL + core_LL.amax(-1) + best_end_CL
    rows = (bound_CL > cutoff_C[:, None]).nonzero()
    found = []
    for label_R, row_R in (block.unbind(-1) for block in rows.split(max(1, CELLS_AT_ONCE // len(core_LL)))):
        score_RL = core_LL[row_R] + start_CL[label_R, row_R, None] + end_CL[label_R]
        hit, end_N = (score_RL > cutoff_C[label_R, None]).nonzero().unbind(-1)
        found.append(Cells(label_R[hit], row_R[hit], end_N, score_RL[hit, end_N]))
    return _concatenate(found, core_LL)


def _candidates_dense(projection: Projection, cutoff_C: Tensor) -> Cells:
    """Label by label in blocks of rows, each from its own diagonal on: half the products, a cache's worth at a time."""
    query_CLK, key_CLK = projection.query[0], projection.key[0]
    length = query_CLK.shape[1]
    labels = (cutoff_C < torch.inf).nonzero().flatten()
    num_rows = 64
    found = []
    for first in range(0, length, num_rows):
        columns = length - first
        for chunk in labels.split(max(1, CELLS_AT_ONCE // (num_rows * columns))):
            block = query_CLK[chunk, first : first + num_rows] @ key_CLK[chunk, first:].transpose(-1, -2)
            block = _upper(block)
            label, row, column = (block > cutoff_C[chunk, None, None]).nonzero().unbind(-1)
            found.append(Cells(chunk[label], row + first, column + first, block[label, row, column]))
    cells = _concatenate(found, query_CLK)
    order = ((cells.label_N * length + cells.start_N) * length + cells.end_N).argsort()
    return Cells(cells.label_N[order], cells.start_N[order], cells.end_N[order], cells.score_N[order])


def _upper(grid: Tensor) -> Tensor:
    """-inf below the diagonal of the last two axes."""
    below = torch.ones(grid.shape[-2:], dtype=torch.bool, device=grid.device).tril(-1)
    return grid.masked_fill(below, -torch.inf)


def _concatenate(found: list[Cells], like: Tensor) -> Cells:
    index = torch.empty(0, dtype=torch.long, device=like.device)
    empty = Cells(index, index, index, torch.empty(0, dtype=like.dtype, device=like.device))
    parts = found or [empty]
    return Cells(*(torch.cat([getattr(part, name) for part in parts]) for name in Cells.__dataclass_fields__))
