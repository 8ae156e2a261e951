"""gMLP with a convolutional gate, and aMLP: each token's channels are gated by what stands around it.

The published gate is a matrix over the positions of texts of one length; here it is a depthwise convolution over
tokens, as in cgMLP: a text may be of any length, and what is learnt at one place holds at every other. So no positions
are needed.

Source: Liu et al., Pay Attention to MLPs (arXiv 2105.08050); the convolution: Sakuma et al., cgMLP (arXiv 2202.08456).
Shapes: B rows, L tokens, D hidden, E half of the inner width, A attention width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ner_service.model.attention import attend
from ner_service.model.batch import Batch, Mask
from ner_service.model.config import GMLPConfig
from ner_service.model.mixing_encoder import MixingEncoder, over_texts

EPSILON = 1e-3
"""How far the gate starts from 1, at most: a block begins as a feed-forward of each token alone."""


class TinyAttention(nn.Module):
    """One small head, without positions, for what stands further off than a gate reaches."""

    def __init__(self, hidden_size: int, attention_size: int, output_size: int) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(hidden_size, 3 * attention_size, bias=False)
        self.output = nn.Linear(attention_size, output_size)

    def forward(self, hidden_BLD: Tensor, mask: Mask) -> Tensor:
        query, key, value = self.query_key_value(hidden_BLD)[:, None].chunk(3, dim=-1)
        return self.output(attend(query, key, value, mask, dropout=0.0)[:, 0])  # type: ignore[no-any-return]


class ConvolutionalGate(nn.Module):
    """b + W * h: for every channel a filter of its own over the tokens around, zeros beyond the ends of the text."""

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        bound = EPSILON / kernel_size
        self.weight = nn.Parameter(torch.empty(width, 1, 1, kernel_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.ones(width))

    def forward(self, hidden_BLE: Tensor, batch: Batch) -> Tensor:
        return over_texts(self._convolve, batch, hidden_BLE)

    def _convolve(self, hidden_BLE: Tensor) -> Tensor:
        # As an image of height 1 whose channels lie together: on a CPU ten times faster than conv1d.
        image_BE1L = hidden_BLE[:, None].permute(0, 3, 1, 2)
        width, reach = len(self.bias), self.weight.shape[-1] // 2
        gate_BE1L = functional.conv2d(image_BE1L, self.weight, self.bias, padding=(0, reach), groups=width)
        return gate_BE1L.permute(0, 2, 3, 1)[:, 0]


class GMLPLayer(nn.Module):
    """x + V(Z1 . gate), where [Z1, Z2] = GELU(U LN(x)) and gate = b + W * LN(Z2) (+ tiny attention of LN(x))."""

    def __init__(self, config: GMLPConfig) -> None:
        super().__init__()
        width, half, eps = config.hidden_size, config.intermediate_size // 2, config.layer_norm_eps
        self.norm = nn.LayerNorm(width, eps=eps)
        self.feed_in = nn.Linear(width, 2 * half)
        self.gate_norm = nn.LayerNorm(half, eps=eps)
        self.gate = ConvolutionalGate(half, config.kernel_size)
        self.attention = TinyAttention(width, config.attention_size, half) if config.attention_size else None
        self.feed_out = nn.Linear(half, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_BLD: Tensor, batch: Batch) -> Tensor:
        normed_BLD = self.norm(hidden_BLD)
        plain_BLE, gating_BLE = functional.gelu(self.feed_in(normed_BLD)).chunk(2, dim=-1)
        gate_BLE = self.gate(self.gate_norm(gating_BLE), batch)
        if self.attention is not None:
            gate_BLE = gate_BLE + self.attention(normed_BLD, batch.mask)
        return hidden_BLD + self.dropout(self.feed_out(plain_BLE * gate_BLE))  # type: ignore[no-any-return]


class GMLP(MixingEncoder):
    """Token ids to hidden states [B, L, D]."""

    def __init__(self, config: GMLPConfig) -> None:
        super().__init__(config, GMLPLayer)
