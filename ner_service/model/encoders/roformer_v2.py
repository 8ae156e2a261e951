"""RoFormerV2: RoFormer without any bias, with RMSNorm without gain and ReLU.

Not the architecture of transformers' `RoFormerModel`: its LayerNorms would subtract means and keep untrained gains.

Source: kexue.fm/archives/8998. Shapes: B rows, L tokens, D hidden.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ner_service.model.attention import KeyValueCache, RotaryAttention
from ner_service.model.batch import Batch, Mask
from ner_service.model.config import RoFormerV2Config
from ner_service.model.rotary_encoder import RotaryEncoder


class RoFormerV2Layer(nn.Module):
    """Attention and feed-forward, each followed by residual and RMSNorm."""

    def __init__(self, config: RoFormerV2Config) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.attention = RotaryAttention(width, config.num_heads, bias=False, dropout=config.attention_dropout)
        self.feed_in = nn.Linear(width, inner, bias=False)
        self.feed_out = nn.Linear(inner, width, bias=False)
        self.norm = nn.RMSNorm(width, eps=eps, elementwise_affine=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_BLD: Tensor, table_BLK: Tensor, mask: Mask, cache: KeyValueCache | None = None) -> Tensor:
        hidden_BLD = self.norm(hidden_BLD + self.dropout(self.attention(hidden_BLD, table_BLK, mask, cache)))
        fed_BLD = self.feed_out(functional.relu(self.feed_in(hidden_BLD)))
        return self.norm(hidden_BLD + self.dropout(fed_BLD))  # type: ignore[no-any-return]


class RoFormerV2(RotaryEncoder):
    """Token ids to hidden states [B, L, D]."""

    def __init__(self, config: RoFormerV2Config) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.num_layers = config.num_layers
        self.num_token_types = config.num_token_types
        self.num_axes = config.num_axes
        self.head_size = config.hidden_size // config.num_heads
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.type_embedding = nn.Embedding(config.num_token_types, config.hidden_size)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps, elementwise_affine=False)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(RoFormerV2Layer(config) for _ in range(config.num_layers))
        self.initialise()

    def embed(self, batch: Batch) -> Tensor:
        return self.norm(self.dropout(self.token_embedding(batch.token_ids_BL) + self.types(batch)))  # type: ignore[no-any-return]
