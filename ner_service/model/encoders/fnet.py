"""FNet: tokens are mixed by a discrete Fourier transform, which has no weights.

A text is transformed over its own length. Filled up with zeros it would have other frequencies, and the published code,
which transforms the padding too, gives a text another answer in other company.

Source: Lee-Thorp et al., FNet (arXiv 2105.03824). The layers are those of transformers' `FNetModel`.
Shapes: B rows, L tokens, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from ner_service.model.batch import Batch, PackedMask
from ner_service.model.config import FNetConfig
from ner_service.model.initialisation import initialise
from ner_service.model.mixing_encoder import MixingEncoder, sinusoids

POSITION_SCALE = 0.02 * 2**0.5
"""Of positions at first: as large as token embeddings, whose deviation is 0.02."""


def fourier(hidden_LD: Tensor) -> Tensor:
    """Re(F_L h F_D), with F_n[j, k] = exp(-2 pi i j k / n), in fp32 or wider: the first row holds sums over the text.

    Equal to C_L h C_D - S_L h S_D for the matrices C of cosines and S of sines, at the cost of L log L.
    """
    wide_LD = hidden_LD.to(torch.promote_types(hidden_LD.dtype, torch.float32))
    return torch.real(torch.fft.fft2(wide_LD))


def mix(hidden_BLD: Tensor, batch: Batch) -> Tensor:
    """`fourier` of every text by itself; 0 at padding."""
    texts = [fourier(hidden_LD) for hidden_LD in batch.texts(hidden_BLD)]
    return torch.cat(texts)[None] if isinstance(batch.mask, PackedMask) else pad_sequence(texts, batch_first=True)


class WideLayerNorm(nn.LayerNorm):
    """LayerNorm in its input's precision, whatever that of its weights: sums over a long text are beyond fp16."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        return functional.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class FNetLayer(nn.Module):
    """Fourier transform and feed-forward, each followed by residual and LayerNorm."""

    def __init__(self, config: FNetConfig) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.mixing_norm = WideLayerNorm(width, eps=eps)
        self.feed_in = nn.Linear(width, inner)
        self.feed_out = nn.Linear(inner, width)
        self.feed_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_BLD: Tensor, batch: Batch) -> Tensor:
        hidden_BLD = self.mixing_norm(hidden_BLD + mix(hidden_BLD, batch)).to(hidden_BLD.dtype)
        fed_BLD = self.dropout(self.feed_out(functional.gelu(self.feed_in(hidden_BLD))))
        return self.feed_norm(hidden_BLD + fed_BLD)  # type: ignore[no-any-return]


class FNet(MixingEncoder):
    """Token ids to hidden states [B, L, D].

    A transform tells a token's place only by how it mixes, so positions are added to the token embeddings: sinusoids
    with a learnt scale for each channel, in place of the published table, which has a last position.
    """

    def __init__(self, config: FNetConfig) -> None:
        super().__init__(config, FNetLayer)
        width = config.hidden_size
        self.position_scale = nn.Parameter(torch.full((width,), POSITION_SCALE))
        self.embedding_projection = nn.Linear(width, width)
        self.norm = nn.Identity()
        initialise(self.embedding_projection)

    def embed(self, batch: Batch) -> Tensor:
        position_BLD = sinusoids(batch, self.hidden_size, self.position_scale.dtype)
        embedded_BLD = self.token_embedding(batch.token_ids_BL) + self.position_scale * position_BLD
        return self.dropout(self.embedding_projection(self.embedding_norm(embedded_BLD)))  # type: ignore[no-any-return]
