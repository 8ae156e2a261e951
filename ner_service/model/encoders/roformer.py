"""RoFormer, the default encoder, in a fast form: fused projections, fused attention, one table of angles a batch.

The weights are those of Hugging Face's `RoFormerModel` with queries, keys and values laid together
(`training/checkpoints/roformer.py` maps the names). There is no longest position: angles are computed, not looked up.

Source: Su et al., RoFormer (arXiv 2104.09864). Shapes: B rows, L tokens, D hidden.
"""

from __future__ import annotations

from torch import Tensor, nn

from ner_service.model.attention import KeyValueCache, RotaryAttention
from ner_service.model.batch import Batch, Mask
from ner_service.model.config import RoFormerConfig
from ner_service.model.rotary_encoder import RotaryEncoder


class RoFormerLayer(nn.Module):
    """Attention and feed-forward, each followed by residual and LayerNorm."""

    def __init__(self, config: RoFormerConfig) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.attention = RotaryAttention(
            width, config.num_heads, dropout=config.attention_dropout, rotary_value=config.rotary_value
        )
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.feed_in = nn.Linear(width, inner)
        self.activation = nn.GELU() if config.activation == "gelu" else nn.ReLU()
        self.feed_out = nn.Linear(inner, width)
        self.feed_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_BLD: Tensor, table_BLK: Tensor, mask: Mask, cache: KeyValueCache | None = None) -> Tensor:
        attended_BLD = self.dropout(self.attention(hidden_BLD, table_BLK, mask, cache))
        hidden_BLD = self.attention_norm(hidden_BLD + attended_BLD)
        fed_BLD = self.dropout(self.feed_out(self.activation(self.feed_in(hidden_BLD))))
        return self.feed_norm(hidden_BLD + fed_BLD)  # type: ignore[no-any-return]


class RoFormer(RotaryEncoder):
    """Token ids to hidden states [B, L, D]."""

    def __init__(self, config: RoFormerConfig) -> None:
        super().__init__()
        embedding_size = config.embedding_size or config.hidden_size
        self.hidden_size = config.hidden_size
        self.num_layers = config.num_layers
        self.num_token_types = config.num_token_types
        self.num_axes = config.num_axes
        self.head_size = config.hidden_size // config.num_heads
        self.token_embedding = nn.Embedding(config.vocab_size, embedding_size)
        self.type_embedding = nn.Embedding(config.num_token_types, embedding_size)
        self.embedding_norm = nn.LayerNorm(embedding_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.embedding_projection = (
            nn.Identity() if embedding_size == config.hidden_size else nn.Linear(embedding_size, config.hidden_size)
        )
        self.layers = nn.ModuleList(RoFormerLayer(config) for _ in range(config.num_layers))
        self.initialise()

    def embed(self, batch: Batch) -> Tensor:
        embedded = self.token_embedding(batch.token_ids_BL) + self.types(batch)
        return self.embedding_projection(self.dropout(self.embedding_norm(embedded)))  # type: ignore[no-any-return]
