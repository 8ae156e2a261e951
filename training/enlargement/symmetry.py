"""Linear maps between channels that stand several times: the same function, with copies that part or stay equal.

A wide map reads every channel of the narrow one as several copies of equal value. What counts is the sum of its weights
over the copies, so they may differ in anything that sums to zero. Equal ones get equal gradients and stay equal, unless
dropout tells them apart. Shares that are one number a copy are little better: gradients then differ by a factor, which
Adam divides away, so that the copies take the same first step. What parts them at once is chance, weight by weight.

Knows no layer. Shapes: O outputs, I inputs of a map, both wide; N inputs of the narrow map, k copies of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Symmetry: TypeAlias = Literal["shares", "noise", "equal"]

Weights: TypeAlias = dict[str, Tensor]

SPREAD = 0.5
"""Standard deviation of what sums to zero, as a share of the weight (`shares`) or of all weights (`noise`)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How wide channels hold narrow ones: channel j is `scale_j` times the narrow channel `source_j`.

    Every narrow channel stands `copies` times, one run of all after the other. At scale 0 a channel is new.
    """

    source: Tensor
    scale: Tensor
    copies: int = 1


def same(size: int) -> Layout:
    """Channels that stay as they are."""
    return tiled(size, 1, 1.0)


def tiled(size: int, copies: int, scale: float) -> Layout:
    """All channels, and all again, times `scale`."""
    source = torch.arange(size).repeat(copies)
    return Layout(source, torch.full((size * copies,), scale, dtype=torch.float64), copies)


def wide_vector(vector: Tensor, layout: Layout) -> Tensor:
    """A vector, or every row of a table, [..., wide]."""
    return vector[..., layout.source] * layout.scale


def wide_map(weight: Tensor, reads: Layout, gives: Layout, symmetry: Symmetry, generator: torch.Generator) -> Tensor:
    """weight_OI that makes of wide inputs `reads` what `weight` makes of narrow ones, as wide outputs `gives`.

    Inputs that are new are not read; outputs that are new are 0.
    """
    equal_OI = weight[gives.source][:, reads.source] * gives.scale[:, None]
    equal_OI = torch.where(reads.scale > 0, equal_OI / reads.scale / reads.copies, 0.0)
    match symmetry:
        case "shares":
            return equal_OI * (1.0 + SPREAD * zero_sum(equal_OI, reads.copies, generator))
        case "noise":
            return equal_OI + SPREAD * equal_OI.std() * zero_sum(equal_OI, reads.copies, generator)
        case "equal":
            return equal_OI


def zero_sum(like_OI: Tensor, copies: int, generator: torch.Generator) -> Tensor:
    """Normal numbers of deviation 1 that sum to 0 over the copies of each input; zeros where there is one copy."""
    if copies == 1:
        return torch.zeros_like(like_OI)
    drawn_OkN = torch.randn(like_OI.shape, generator=generator, dtype=like_OI.dtype).unflatten(1, (copies, -1))
    centred_OkN: Tensor = drawn_OkN - drawn_OkN.mean(1, keepdim=True)
    return centred_OkN.flatten(1) * math.sqrt(copies / (copies - 1))
