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


Mask = PaddingMask | PackedMask


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What an encoder reads. Positions count from 0 within each text."""

    token_ids_BL: Tensor
    position_BL: Tensor
    mask: Mask
    lengths: tuple[int, ...]

    def texts(self, hidden_BLD: Tensor) -> list[Tensor]:
        """Hidden states [L, D] of each text, padding cut off, in the order of the encodings."""
        if isinstance(self.mask, PackedMask):
            return [hidden_BLD[0, start:end] for start, end in self.mask.bounds]
        return [hidden_BLD[row, :length] for row, length in enumerate(self.lengths)]

    def valid_BL(self) -> Tensor:
        """True at tokens of a text, False at padding."""
        if isinstance(self.mask, PaddingMask) and self.mask.valid_BL is not None:
            return self.mask.valid_BL
        return torch.ones_like(self.token_ids_BL, dtype=torch.bool)


def pad(token_ids: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """One text a row, the shorter ones filled up with `pad_id` on the right."""
    lengths = tuple(len(ids) for ids in token_ids)
    longest = max(lengths)
    rows = torch.tensor([[*ids, *[pad_id] * (longest - len(ids))] for ids in token_ids], dtype=torch.long)
    position_BL = torch.arange(longest).expand(len(lengths), longest)
    valid_BL = None if min(lengths) == longest else (position_BL < torch.tensor(lengths)[:, None]).to(device)
    return Batch(
        token_ids_BL=rows.to(device), position_BL=position_BL.to(device), mask=PaddingMask(valid_BL), lengths=lengths
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
