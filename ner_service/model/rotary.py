"""Rotary positions: the only place where an angle is computed.

Pair t of a vector of width K, channels (2t, 2t+1), is turned by position * base^(-2t/K). Adjacent channels form a pair
(the author's layout; Llama's half-split layout is a permutation of it and is not used here).

With two axes the pairs take turns, even ones on x, odd ones on y, by the same table of angles: a token at (n, n) is
turned as one at n is, so an encoder that was trained on texts reads them as before.

Sources: kexue.fm/archives/8265; Su et al., RoFormer (arXiv 2104.09864); two axes: kexue.fm/archives/8397 and 10040.
Shapes: L tokens, H heads, K channels of a head, P axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

BASE = 10000.0


def rotary_table(position: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Unit complex numbers [..., width / 2], one for each position [...] and pair.

    Angles are computed in double precision and outside autocast: a half-precision angle at position 1,000 is off by
    whole radians. `dtype` is the model's; the table is complex64, or complex128 for a double-precision model.
    """
    return rotary_table_of_axes(position[..., None], width, dtype)


def rotary_table_of_axes(position_P: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """`rotary_table` of positions [..., P]: pair t stands on axis t modulo P."""
    exponent = torch.arange(0, width, 2, dtype=torch.float64, device=position_P.device) / width
    axis = torch.arange(width // 2, device=position_P.device) % position_P.shape[-1]
    angle = position_P.to(torch.float64)[..., axis] * BASE**-exponent
    real = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.complex(angle.cos().to(real), angle.sin().to(real))


def rotate(vectors: Tensor, table: Tensor) -> Tensor:
    """Turn every pair of `vectors` [..., K] by its entry of `table` [..., K / 2] (broadcast), keeping the dtype."""
    pairs = vectors.to(table.real.dtype).unflatten(-1, (-1, 2)).contiguous()
    turned = torch.view_as_real(torch.view_as_complex(pairs) * table)
    return turned.flatten(-2).to(vectors.dtype)
