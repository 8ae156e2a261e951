"""Multi-head self-attention with rotary positions, shared by the encoders that attend.

Knows masks and tables of angles; knows no encoder. Shapes: B rows, L tokens, D hidden, H heads, K head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ner_service.model.batch import Mask, PackedMask
from ner_service.model.rotary import rotate


class RotaryAttention(nn.Module):
    """softmax(R_i q_i . R_j k_j / sqrt(K)) v_j with one fused projection for queries, keys and values.

    `rotary_value` also turns the values, as some published checkpoints do; the output then depends on absolute
    positions.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, *, bias: bool = True, dropout: float = 0.0, rotary_value: bool = False
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.rotary_value = rotary_value
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size, bias=bias)
        self.output = nn.Linear(hidden_size, hidden_size, bias=bias)

    def forward(self, hidden_BLD: Tensor, table_BLK: Tensor, mask: Mask) -> Tensor:
        """Attended values [B, L, D] after the output projection. `table_BLK` comes from `rotary_table`."""
        projected_BLHK = self.query_key_value(hidden_BLD).unflatten(-1, (3 * self.num_heads, -1))
        num_turned = 3 if self.rotary_value else 2
        turned, plain = projected_BLHK.split([num_turned * self.num_heads, (3 - num_turned) * self.num_heads], dim=2)
        turned = rotate(turned, table_BLK[:, :, None])
        query, key, value = torch.cat([turned, plain], dim=2).transpose(1, 2).chunk(3, dim=1)
        attended_BHLK = attend(query, key, value, mask, self.dropout if self.training else 0.0)
        return self.output(attended_BHLK.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def attend(query_BHLK: Tensor, key_BHLK: Tensor, value_BHLK: Tensor, mask: Mask, dropout: float) -> Tensor:
    """Scaled dot-product attention under a mask: texts of a packed row never see each other."""
    if isinstance(mask, PackedMask):
        lengths = [end - start for start, end in mask.bounds]
        texts = zip(*(tensor.split(lengths, dim=2) for tensor in (query_BHLK, key_BHLK, value_BHLK)), strict=True)
        return torch.cat(
            [functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout) for q, k, v in texts], dim=2
        )
    keys = None if mask.valid_BL is None else mask.valid_BL[:, None, None, :]
    return functional.scaled_dot_product_attention(query_BHLK, key_BHLK, value_BHLK, attn_mask=keys, dropout_p=dropout)
