"""Rotary positions: the only place where an angle is computed.

Pair t of a vector of width K, channels (2t, 2t+1), is turned by position * base^(-2t/K). Adjacent channels form a pair
(the author's layout; Llama's half-split layout is a permutation of it and is not used here).

Source: kexue.fm/archives/8265; Su et al., RoFormer (arXiv 2104.09864).
Shapes: L tokens, H heads, K channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

BASE = 10000.0


def rotary_table(position: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Unit complex numbers [..., width / 2], one for each position and pair.

    Angles are computed in double precision and outside autocast: a half-precision angle at position 1,000 is off by
    whole radians. `dtype` is the model's; the table is complex64, or complex128 for a double-precision model.
    """
    exponent = torch.arange(0, width, 2, dtype=torch.float64, device=position.device) / width
    angle = position.to(torch.float64)[..., None] * BASE**-exponent
    real = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.complex(angle.cos().to(real), angle.sin().to(real))


def rotate(vectors: Tensor, table: Tensor) -> Tensor:
    """Turn every pair of `vectors` [..., K] by its entry of `table` [..., K / 2] (broadcast), keeping the dtype."""
    pairs = vectors.to(table.real.dtype).unflatten(-1, (-1, 2)).contiguous()
    turned = torch.view_as_real(torch.view_as_complex(pairs) * table)
    return turned.flatten(-2).to(vectors.dtype)
