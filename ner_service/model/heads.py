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
from torch.nn import functional

from ner_service.model.config import HeadConfig
from ner_service.model.initialisation import initialise
from ner_service.model.rotary import rotary_table, rotate

CELLS_AT_ONCE = 1 << 20
"""Scores alive at a time while candidates are sought: 4 MiB, which stay in a CPU's cache."""

ROWS_AT_ONCE = 128
"""Rows of one product: few, so that little below the diagonal is computed for nothing."""

COLUMNS_OF_BOUND = 32
"""Cells of a row that share an upper bound."""


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
    below_LL = _below_diagonal(grid.shape[-1], grid)
    allowed_BLL = valid_BL[:, :, None] & valid_BL[:, None, :]
    # Sums in place, and for the efficient head before the labels part: a grid is hundreds of megabytes.
    grid += below_LL.masked_fill(~allowed_BLL, -torch.inf)[:, None]
    if projection.start is None or projection.end is None:
        return grid
    grid = grid + projection.start[..., :, None]
    grid += projection.end[..., None, :]
    return grid


@torch.no_grad()
def candidates(projection: Projection, cutoff_C: Tensor) -> Cells:
    """Cells (c, i, j), i <= j, with a score above `cutoff_C[c]`, of the one text in `projection`; without gradient.

    The set is that of `scores(...) > cutoff`, found without the grid. A cut-off of +inf switches a label off at no
    cost. Cells come in ascending order of (label, start, end).
    """
    if not projection.query.shape[2]:
        return _concatenate([], projection.query)
    if projection.start is not None and projection.end is not None:
        core_LL = projection.query[0, 0] @ projection.key[0, 0].T
        core_LL += _below_diagonal(len(core_LL), core_LL)
        return _candidates_factored(core_LL, projection.start[0], projection.end[0], cutoff_C)
    return _candidates_dense(projection.query[0], projection.key[0], cutoff_C)


def _turn(query_key_BLGQK: Tensor, position_BL: Tensor, rotary: bool) -> Tensor:
    """Rotary positions on queries and keys; positions count from the first token of the text."""
    if not rotary:
        return query_key_BLGQK
    table = rotary_table(position_BL, query_key_BLGQK.shape[-1], query_key_BLGQK.dtype)
    return rotate(query_key_BLGQK, table[:, :, None, None])


def _candidates_factored(core_LL: Tensor, start_CL: Tensor, end_CL: Tensor, cutoff_C: Tensor) -> Cells:
    """Row i of label c can fire only if max_j core_ij + start_ci + max_{j >= i} end_cj is above the label's cut-off.

    In rows that can, the same bound over W columns at a time says which blocks are looked at. Bounds are summed in the
    order of the scores, and rounding never turns two sums round: no cell is lost to it.
    """
    core_LJW, end_CJW = _blocks(core_LL), _blocks(end_CL)
    best_core_LJ, best_end_CJ = core_LJW.amax(-1), end_CJW.amax(-1)
    end_from_CL = end_CL.flip(-1).cummax(-1).values.flip(-1)
    bound_CL = best_core_LJ.amax(-1) + start_CL + end_from_CL
    found = []
    for rows in (bound_CL > cutoff_C[:, None]).nonzero().split(_at_once(best_core_LJ.shape[-1])):
        label_R, row_R = rows.unbind(-1)
        start_R = start_CL[label_R, row_R]
        bound_RJ = best_core_LJ[row_R] + start_R[:, None] + best_end_CJ[label_R]
        blocks = (bound_RJ > cutoff_C[label_R, None]).nonzero()
        for of_R, block in (part.unbind(-1) for part in blocks.split(_at_once(COLUMNS_OF_BOUND))):
            label, row = label_R[of_R], row_R[of_R]
            score_NW = core_LJW[row, block] + start_R[of_R, None] + end_CJW[label, block]
            hit, column = (score_NW > cutoff_C[label, None]).nonzero().unbind(-1)
            end = block[hit] * COLUMNS_OF_BOUND + column
            found.append(Cells(label[hit], row[hit], end, score_NW[hit, column]))
    return _concatenate(found, core_LL)


def _candidates_dense(query_CLK: Tensor, key_CLK: Tensor, cutoff_C: Tensor) -> Cells:
    """Block of rows by block of rows, each from its own diagonal on; only rows whose best score fires are looked at."""
    labels = _wanted(cutoff_C)
    if len(labels) < len(cutoff_C):
        query_CLK, key_CLK = query_CLK[labels], key_CLK[labels]
    length = query_CLK.shape[1]
    memory = query_CLK.new_empty(max(CELLS_AT_ONCE, ROWS_AT_ONCE * length))
    below = _below_diagonal(ROWS_AT_ONCE, query_CLK)
    found = []
    for first in range(0, length, ROWS_AT_ONCE):
        parts = (labels, query_CLK[:, first : first + ROWS_AT_ONCE], key_CLK[:, first:].transpose(-1, -2))
        at_once = _at_once(ROWS_AT_ONCE * (length - first))
        for label_C, query_CRK, key_CKL in zip(*(part.split(at_once) for part in parts), strict=True):
            score_CRL = _product(query_CRK, key_CKL, memory)
            num_rows = score_CRL.shape[1]
            score_CRL[..., :num_rows] += below[:num_rows, :num_rows]
            label, row = (score_CRL.amax(-1) > cutoff_C[label_C, None]).nonzero().unbind(-1)
            score_NL, label_N = score_CRL[label, row], label_C[label]
            hit, column = (score_NL > cutoff_C[label_N, None]).nonzero().unbind(-1)
            found.append(Cells(label_N[hit], row[hit] + first, column + first, score_NL[hit, column]))
    cells = _concatenate(found, query_CLK)
    order = ((cells.label_N * length + cells.start_N) * length + cells.end_N).argsort()
    return Cells(cells.label_N[order], cells.start_N[order], cells.end_N[order], cells.score_N[order])


def _product(left: Tensor, right: Tensor, memory: Tensor) -> Tensor:
    """Batched matrix product in memory that is already at hand: fresh memory costs as much as the product."""
    shape = (*left.shape[:2], right.shape[2])
    return torch.bmm(left, right, out=memory[: math.prod(shape)].view(shape))


def _wanted(cutoff_C: Tensor) -> Tensor:
    """Indices of the labels that can fire at all."""
    return (cutoff_C < torch.inf).nonzero().flatten()


def _at_once(num_cells: int) -> int:
    """How many blocks of so many cells may be alive at a time; at least one."""
    return max(1, CELLS_AT_ONCE // max(1, num_cells))


def _blocks(values: Tensor) -> Tensor:
    """The last axis cut into blocks of `COLUMNS_OF_BOUND`, the last one filled up with -inf."""
    length = values.shape[-1]
    num_blocks = math.ceil(length / COLUMNS_OF_BOUND)
    padded = functional.pad(values, (0, num_blocks * COLUMNS_OF_BOUND - length), value=-torch.inf)
    return padded.unflatten(-1, (num_blocks, COLUMNS_OF_BOUND))  # type: ignore[no-any-return]


def _below_diagonal(length: int, like: Tensor) -> Tensor:
    """A square with -inf below the diagonal and 0 elsewhere: what adds nothing to a span and takes the others out."""
    return torch.full((length, length), -torch.inf, dtype=like.dtype, device=like.device).tril(-1)


def _concatenate(found: list[Cells], like: Tensor) -> Cells:
    index = torch.empty(0, dtype=torch.long, device=like.device)
    empty = Cells(index, index, index, torch.empty(0, dtype=like.dtype, device=like.device))
    parts = found or [empty]
    return Cells(*(torch.cat([getattr(part, name) for part in parts]) for name in Cells.__dataclass_fields__))
