"""Multi-head self-attention with rotary positions, shared by the encoders that attend.

Knows masks and tables of angles; knows no encoder. Shapes: B rows, L tokens, D hidden, H heads, K head width,
Q queries and M keys where their numbers differ.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from ner_service.model.batch import CausalMask, Mask, PackedMask, UniLMMask
from ner_service.model.rotary import rotate

SHORT_TOKENS = 128
"""Up to so many a CPU learns faster in bf16 by plain matrix products than by PyTorch's fused attention
(`python -m benchmarks.attention`)."""


@dataclass(slots=True)
class KeyValueCache:
    """Keys and values of one layer that later tokens attend to as well; they stand before those of the batch."""

    key_BHMK: Tensor | None = None
    value_BHMK: Tensor | None = None

    def extend(self, key_BHLK: Tensor, value_BHLK: Tensor) -> tuple[Tensor, Tensor]:
        """Append a batch's keys and values; all of them so far."""
        if self.key_BHMK is None or self.value_BHMK is None:
            self.key_BHMK, self.value_BHMK = key_BHLK, value_BHLK
        else:
            self.key_BHMK = torch.cat([self.key_BHMK, key_BHLK], dim=2)
            self.value_BHMK = torch.cat([self.value_BHMK, value_BHLK], dim=2)
        return self.key_BHMK, self.value_BHMK

    def repeat(self, num: int) -> KeyValueCache:
        """The cache of one row for `num` rows; what is appended to it is not seen by this one."""
        if self.key_BHMK is None or self.value_BHMK is None:
            return KeyValueCache()
        return KeyValueCache(self.key_BHMK.expand(num, -1, -1, -1), self.value_BHMK.expand(num, -1, -1, -1))


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

    def forward(self, hidden_BLD: Tensor, table_BLK: Tensor, mask: Mask, cache: KeyValueCache | None = None) -> Tensor:
        """Attended values [B, L, D] after the output projection. `table_BLK` comes from `rotary_table`."""
        query, key, value = self._project(hidden_BLD, table_BLK)
        if cache is not None:
            key, value = cache.extend(key, value)
        attended_BHLK = attend(query, key, value, mask, self.dropout if self.training else 0.0)
        return self.output(attended_BHLK.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def keys_values(self, hidden_BLD: Tensor, table_BLK: Tensor) -> KeyValueCache:
        """What later tokens see of these inputs."""
        _, key, value = self._project(hidden_BLD, table_BLK)
        return KeyValueCache(key, value)

    def _project(self, hidden_BLD: Tensor, table_BLK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        projected_BLHK = self.query_key_value(hidden_BLD).unflatten(-1, (3 * self.num_heads, -1))
        num_turned = 3 if self.rotary_value else 2
        turned, plain = projected_BLHK.split([num_turned * self.num_heads, (3 - num_turned) * self.num_heads], dim=2)
        turned = rotate(turned, table_BLK[:, :, None])
        query, key, value = torch.cat([turned, plain], dim=2).transpose(1, 2).chunk(3, dim=1)
        return query, key, value


def attend(query_BHQK: Tensor, key_BHMK: Tensor, value_BHMK: Tensor, mask: Mask, dropout: float) -> Tensor:
    """Scaled dot-product attention under a mask: texts of a packed row never see each other."""
    if isinstance(mask, PackedMask):
        lengths = [end - start for start, end in mask.bounds]
        texts = zip(*(tensor.split(lengths, dim=2) for tensor in (query_BHQK, key_BHMK, value_BHMK)), strict=True)
        with _kernel(query_BHQK, max(lengths)):
            attended = [functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout) for q, k, v in texts]
        return torch.cat(attended, dim=2)
    allowed = _allowed(mask, query_BHQK.shape[2], key_BHMK.shape[2], query_BHQK.device)
    with _kernel(query_BHQK, key_BHMK.shape[2]):
        return functional.scaled_dot_product_attention(
            query_BHQK, key_BHMK, value_BHMK, attn_mask=allowed, dropout_p=dropout
        )


def _kernel(query_BHQK: Tensor, num_keys: int) -> AbstractContextManager[None]:
    """Within, attention is computed by what is fastest there and back; without gradients, by what PyTorch chooses."""
    learns = query_BHQK.requires_grad and torch.is_grad_enabled()
    slow = learns and query_BHQK.dtype == torch.bfloat16 and query_BHQK.device.type == "cpu"
    return sdpa_kernel(SDPBackend.MATH) if slow and num_keys <= SHORT_TOKENS else nullcontext()


def _allowed(mask: Mask, num_queries: int, num_keys: int, device: torch.device) -> Tensor | None:
    """True where a query may attend to a key, broadcast over [B, H, Q, M]; None where every one may to every one."""
    match mask:
        case CausalMask():
            every = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
            return every.tril(num_keys - num_queries)
        case UniLMMask():
            return mask.allowed_BLL()[:, None]
        case PackedMask():
            raise TypeError("texts of a packed row are attended to one by one")
        case _:
            return None if mask.valid_BL is None else mask.valid_BL[:, None, None, :]
