"""Encodings as tensors: padded into a rectangle, or packed end to end into one row.

A packed row wastes nothing on padding and is what CPUs like; a padded rectangle keeps the number of kernels small and
is what GPUs like. Every encoder of ours gives the same hidden states for both.

Knows token ids and lengths; knows no text and no label. Shapes: B rows, L tokens.
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


Mask = PaddingMask | PackedMask | CausalMask | UniLMMask


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What an encoder reads. Positions count from 0 within each text; without segments every token is of type 0."""

    token_ids_BL: Tensor
    position_BL: Tensor
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


def pad(token_ids: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """One text a row, the shorter ones filled up with `pad_id` on the right."""
    token_ids_BL, lengths = _rows(token_ids, pad_id)
    valid_BL = None if min(lengths) == max(lengths) else _valid(token_ids_BL, lengths).to(device)
    return Batch(
        token_ids_BL=token_ids_BL.to(device),
        position_BL=_positions(token_ids_BL).to(device),
        mask=PaddingMask(valid_BL),
        lengths=lengths,
    )


def pack(token_ids: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Batch:
    """All texts end to end in one row."""
    lengths = tuple(len(ids) for ids in token_ids)
    ends = torch.tensor(lengths).cumsum(0).tolist()
    bounds = tuple((end - length, end) for end, length in zip(ends, lengths, strict=True))
    row = torch.tensor([token for ids in token_ids for token in ids], dtype=torch.long)
    position = torch.cat([torch.arange(length) for length in lengths])
    return Batch(
        token_ids_BL=row[None].to(device),
        position_BL=position[None].to(device),
        mask=PackedMask(bounds),
        lengths=lengths,
    )


def pad_targets(
    token_ids: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu", *, first_position: int = 0
) -> Batch:
    """Texts to be written from left to right: padded rows of segment 1 under a causal mask."""
    token_ids_BL, lengths = _rows(token_ids, pad_id)
    return Batch(
        token_ids_BL=token_ids_BL.to(device),
        position_BL=(_positions(token_ids_BL) + first_position).to(device),
        mask=CausalMask(),
        lengths=lengths,
        segment_BL=torch.ones_like(token_ids_BL).to(device),
    )


def pad_pairs(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int, device: torch.device | str = "cpu"
) -> Batch:
    """A source and its target a row, under UniLM's mask."""
    token_ids_BL, lengths = _rows([(*source, *target) for source, target in pairs], pad_id)
    position_BL = _positions(token_ids_BL)
    starts = torch.tensor([len(source) for source, _ in pairs])
    valid_BL = _valid(token_ids_BL, lengths)
    segment_BL = ((position_BL >= starts[:, None]) & valid_BL).long().to(device)
    return Batch(
        token_ids_BL=token_ids_BL.to(device),
        position_BL=position_BL.to(device),
        mask=UniLMMask(segment_BL, valid_BL.to(device)),
        lengths=lengths,
        segment_BL=segment_BL,
    )


def _rows(token_ids: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, tuple[int, ...]]:
    lengths = tuple(len(ids) for ids in token_ids)
    longest = max(lengths)
    rows = [[*ids, *[pad_id] * (longest - len(ids))] for ids in token_ids]
    return torch.tensor(rows, dtype=torch.long), lengths


def _positions(token_ids_BL: Tensor) -> Tensor:
    return torch.arange(token_ids_BL.shape[1]).expand(token_ids_BL.shape)


def _valid(token_ids_BL: Tensor, lengths: Sequence[int]) -> Tensor:
    positions = torch.arange(token_ids_BL.shape[1], device=token_ids_BL.device)
    return positions < torch.tensor(lengths, device=token_ids_BL.device)[:, None]
