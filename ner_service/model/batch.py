"""Encodings as tensors: padded into a rectangle, or packed end to end into one row.

A packed row wastes nothing on padding and is what CPUs like; a padded rectangle keeps the number of kernels small and
is what GPUs like. Every encoder of ours gives the same hidden states for both.

Knows token ids, places and lengths; knows no text and no label. Shapes: B rows, L tokens, P axes of a place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PaddingMask:
    """Every token of a row attends to every valid token of it; `valid_BL` None where nothing is padded."""

    valid_BL: Tensor | None


@dataclass(frozen=True, slots=True)
class PackedMask:
    """One row of texts end to end; a token attends within the half-open bounds of its own text."""

    bounds: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class CausalMask:
    """A token attends to itself, to what stands before it and to every cached key; padding stands at the end."""


@dataclass(frozen=True, slots=True)
class UniLMMask:
    """Source (segment 0) is read both ways, target (segment 1) attends to the source and to what it has so far.

    Padding is segment 0 behind the target: neither read nor a target.

    Source: Dong et al., UniLM (arXiv 1905.03197).
    """

    segment_BL: Tensor
    valid_BL: Tensor

    def allowed_BLL(self) -> Tensor:
        """True where the row's token may attend to the column's."""
        order_BL = self.segment_BL.cumsum(-1)
        return (order_BL[:, None, :] <= order_BL[:, :, None]) & self.valid_BL[:, None, :]


Places = Sequence[tuple[float, float]]
"""Where each token of a page stands."""

Mask = PaddingMask | PackedMask | CausalMask | UniLMMask


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What an encoder reads. `order_BL` counts from 0 within each text; without segments every token is of type 0.

    `position_BLP` is where tokens stand: one axis, that of the order, or two where a page is among the texts; there a
    text's token n stands at (n, n).
    """

    token_ids_BL: Tensor
    order_BL: Tensor
    position_BLP: Tensor
    mask: Mask
    lengths: tuple[int, ...]
    segment_BL: Tensor | None = None

    def texts(self, hidden_BLD: Tensor) -> list[Tensor]:
        """Hidden states [L, D] of each text, padding cut off, in the order of the encodings."""
        if isinstance(self.mask, PackedMask):
            return [hidden_BLD[0, start:end] for start, end in self.mask.bounds]
        return [hidden_BLD[row, :length] for row, length in enumerate(self.lengths)]

    def firsts(self, hidden_BLD: Tensor) -> Tensor:
        """The hidden state [B, D] at position 0 of each text."""
        if isinstance(self.mask, PackedMask):
            return hidden_BLD[0, [start for start, _ in self.mask.bounds]]
        return hidden_BLD[:, 0]

    def valid_BL(self) -> Tensor:
        """True at tokens of a text, False at padding."""
        if isinstance(self.mask, PackedMask):
            return torch.ones_like(self.token_ids_BL, dtype=torch.bool)
        return _valid(self.token_ids_BL, self.lengths)


def pad(
    token_ids: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device | str = "cpu",
    positions: Sequence[Places | None] | None = None,
) -> Batch:
    """One text a row, the shorter ones filled up with `pad_id` on the right; `positions` are those of pages."""
    token_ids_BL, lengths = _rows(token_ids, pad_id)
    order_BL = _orders(token_ids_BL)
    valid_BL = None if min(lengths) == max(lengths) else _valid(token_ids_BL, lengths).to(device)
    return Batch(
        token_ids_BL=token_ids_BL.to(device),
        order_BL=order_BL.to(device),
        position_BLP=_positions(order_BL, [(row, 0) for row in range(len(lengths))], positions).to(device),
        mask=PaddingMask(valid_BL),
        lengths=lengths,
    )


def pack(
    token_ids: Sequence[Sequence[int]],
    device: torch.device | str = "cpu",
    positions: Sequence[Places | None] | None = None,
) -> Batch:
    """All texts end to end in one row; `positions` are those of pages."""
    lengths = tuple(len(ids) for ids in token_ids)
    ends = torch.tensor(lengths).cumsum(0).tolist()
    bounds = tuple((end - length, end) for end, length in zip(ends, lengths, strict=True))
    row = torch.tensor([token for ids in token_ids for token in ids], dtype=torch.long)
    order_BL = torch.cat([torch.arange(length) for length in lengths])[None]
    return Batch(
        token_ids_BL=row[None].to(device),
        order_BL=order_BL.to(device),
        position_BLP=_positions(order_BL, [(0, start) for start, _ in bounds], positions).to(device),
        mask=PackedMask(bounds),
        lengths=lengths,
    )


def pad_targets(
    token_ids: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu", *, first_position: int = 0
) -> Batch:
    """Texts to be written from left to right: padded rows of segment 1 under a causal mask."""
    token_ids_BL, lengths = _rows(token_ids, pad_id)
    order_BL = (_orders(token_ids_BL) + first_position).to(device)
    return Batch(
        token_ids_BL=token_ids_BL.to(device),
        order_BL=order_BL,
        position_BLP=order_BL[..., None],
        mask=CausalMask(),
        lengths=lengths,
        segment_BL=torch.ones_like(token_ids_BL).to(device),
    )


def pad_pairs(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int, device: torch.device | str = "cpu"
) -> Batch:
    """A source and its target a row, under UniLM's mask."""
    token_ids_BL, lengths = _rows([(*source, *target) for source, target in pairs], pad_id)
    order_BL = _orders(token_ids_BL)
    starts = torch.tensor([len(source) for source, _ in pairs])
    valid_BL = _valid(token_ids_BL, lengths)
    segment_BL = ((order_BL >= starts[:, None]) & valid_BL).long().to(device)
    return Batch(
        token_ids_BL=token_ids_BL.to(device),
        order_BL=order_BL.to(device),
        position_BLP=order_BL[..., None].to(device),
        mask=UniLMMask(segment_BL, valid_BL.to(device)),
        lengths=lengths,
        segment_BL=segment_BL,
    )


def _rows(token_ids: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, tuple[int, ...]]:
    lengths = tuple(len(ids) for ids in token_ids)
    longest = max(lengths)
    rows = [[*ids, *[pad_id] * (longest - len(ids))] for ids in token_ids]
    return torch.tensor(rows, dtype=torch.long), lengths


def _orders(token_ids_BL: Tensor) -> Tensor:
    return torch.arange(token_ids_BL.shape[1]).expand(token_ids_BL.shape)


def _positions(
    order_BL: Tensor, firsts: Sequence[tuple[int, int]], positions: Sequence[Places | None] | None
) -> Tensor:
    """position_BLP: the order, but a page's own places from the row and column of its first token on."""
    if positions is None or all(places is None for places in positions):
        return order_BL[..., None]
    position_BLP = order_BL[..., None].to(torch.float64).repeat(1, 1, 2)
    for (row, first), places in zip(firsts, positions, strict=True):
        if places is not None:
            position_BLP[row, first : first + len(places)] = torch.tensor(places, dtype=torch.float64)
    return position_BLP


def _valid(token_ids_BL: Tensor, lengths: Sequence[int]) -> Tensor:
    positions = torch.arange(token_ids_BL.shape[1], device=token_ids_BL.device)
    return positions < torch.tensor(lengths, device=token_ids_BL.device)[:, None]
