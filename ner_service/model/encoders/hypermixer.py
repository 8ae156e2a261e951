"""HyperMixer: tokens are mixed by a small network whose weights a text's own tokens make, so its size is any text's.

Source: Mai et al., HyperMixer (arXiv 2203.03691); several heads: HyperConformer (arXiv 2305.18281).
Shapes: B rows, L tokens, D hidden, H heads, K head width, N mixing width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ner_service.model.batch import Batch
from ner_service.model.config import HyperMixerConfig
from ner_service.model.mixing_encoder import MixingEncoder, over_texts, sinusoids


class Hypernetwork(nn.Module):
    """A row [N] of a head's weights for every token, by a network of one hidden layer without biases for each head."""

    def __init__(self, num_heads: int, head_size: int, mixing_size: int) -> None:
        super().__init__()
        deviation = head_size**-0.5
        self.first_HKJ = nn.Parameter(torch.randn(num_heads, head_size, head_size) * deviation)
        self.second_HJN = nn.Parameter(torch.randn(num_heads, head_size, mixing_size) * deviation)

    def forward(self, told_BLHK: Tensor) -> Tensor:
        inner_BLHJ = functional.gelu(torch.einsum("blhk,hkj->blhj", told_BLHK, self.first_HKJ))
        return torch.einsum("blhj,hjn->blhn", inner_BLHJ, self.second_HJN)


class HyperMixing(nn.Module):
    """LN(W2 GELU(W1^T x)) in every head, where W1 and W2 [L, N] are made of x + p, for positions p."""

    def __init__(self, config: HyperMixerConfig) -> None:
        super().__init__()
        head_size, mixing_size = config.hidden_size // config.num_heads, config.mixing_size // config.num_heads
        self.num_heads = config.num_heads
        self.gather = Hypernetwork(config.num_heads, head_size, mixing_size)
        self.spread = Hypernetwork(config.num_heads, head_size, mixing_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_BLD: Tensor, batch: Batch, position_BLD: Tensor) -> Tensor:
        hidden_BLHK, told_BLHK = (
            tensor.unflatten(-1, (self.num_heads, -1)) for tensor in (hidden_BLD, hidden_BLD + position_BLD)
        )
        mixed_BLHK = over_texts(_mix, batch, hidden_BLHK, self.gather(told_BLHK), self.spread(told_BLHK))
        return self.norm(mixed_BLHK.flatten(2))  # type: ignore[no-any-return]


def _mix(hidden_BLHK: Tensor, gather_BLHN: Tensor, spread_BLHN: Tensor) -> Tensor:
    gathered_BHNK = functional.gelu(torch.einsum("blhn,blhk->bhnk", gather_BLHN, hidden_BLHK))
    return torch.einsum("blhn,bhnk->blhk", spread_BLHN, gathered_BHNK)


class HyperMixerLayer(nn.Module):
    """Mixing of tokens, then feed-forward, each of a LayerNorm and added to what it came from."""

    def __init__(self, config: HyperMixerConfig) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.mixing_norm = nn.LayerNorm(width, eps=eps)
        self.mixing = HyperMixing(config)
        self.feed_norm = nn.LayerNorm(width, eps=eps)
        self.feed_in = nn.Linear(width, inner)
        self.feed_out = nn.Linear(inner, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_BLD: Tensor, batch: Batch, position_BLD: Tensor) -> Tensor:
        hidden_BLD = hidden_BLD + self.dropout(self.mixing(self.mixing_norm(hidden_BLD), batch, position_BLD))
        fed_BLD = self.feed_out(functional.gelu(self.feed_in(self.feed_norm(hidden_BLD))))
        return hidden_BLD + self.dropout(fed_BLD)  # type: ignore[no-any-return]


class HyperMixer(MixingEncoder):
    """Token ids to hidden states [B, L, D]. Positions are sinusoids, which have no end."""

    def __init__(self, config: HyperMixerConfig) -> None:
        super().__init__(config, HyperMixerLayer)

    def context(self, batch: Batch) -> tuple[Tensor, ...]:
        return (sinusoids(batch, self.hidden_size, self.token_embedding.weight.dtype),)
