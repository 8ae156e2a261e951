"""The head that names tokens, tied to the encoder's token embeddings. Knows no mask and no loss.

Shapes: N places, D hidden, W embedding width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ner_service.model.encoders import Encoder
from ner_service.model.initialisation import initialise


class LanguageModel(nn.Module):
    """logits = LayerNorm(GELU(dense(h))) E^T + bias, where E are the token embeddings of the encoder.

    Source: BERT's masked-language-model head; bert4keras uses the same one for UniLM.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        vocab_size, embedding_size = encoder.token_embedding.weight.shape
        self.dense = nn.Linear(encoder.hidden_size, embedding_size)
        self.norm = nn.LayerNorm(embedding_size)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.apply(initialise)

    def forward(self, hidden_ND: Tensor, embedding_VW: Tensor) -> Tensor:
        """Logits [N, V] of what stands, or comes next, at each place."""
        return functional.linear(self.norm(functional.gelu(self.dense(hidden_ND))), embedding_VW, self.bias)
