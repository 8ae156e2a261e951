"""The walk through an encoder whose layers mix tokens without attending under a mask, and what such layers share.

A text is mixed as a whole, so padding and neighbours are kept out immediately before every mixing: a LayerNorm's bias
would revive a zero. Knows no kind of layer. Shapes: B rows, L tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from ner_service.model.batch import Batch, PackedMask, PaddingMask
from ner_service.model.config import FNetConfig, GMLPConfig, HyperMixerConfig
from ner_service.model.initialisation import initialise
from ner_service.model.rotary import rotary_table

Config = TypeVar("Config", GMLPConfig, FNetConfig, HyperMixerConfig)


class MixingEncoder(nn.Module):
    """Token ids to hidden states [B, L, D]: embeddings, the layers of an encoder, and a LayerNorm of what leaves them.

    A layer takes hidden states, the batch, and what `context` makes of the batch once for all layers.
    """

    walks: bool = False

    def __init__(self, config: Config, layer: Callable[[Config], nn.Module]) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.num_layers = config.num_layers
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embedding_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(layer(config) for _ in range(config.num_layers))
        self.norm: nn.Module = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.apply(initialise)

    def embed(self, batch: Batch) -> Tensor:
        """What the first layer reads, [B, L, D]."""
        return self.dropout(self.embedding_norm(self.token_embedding(batch.token_ids_BL)))  # type: ignore[no-any-return]

    def context(self, batch: Batch) -> tuple[Tensor, ...]:
        """What every layer reads beside hidden states and batch."""
        return ()

    def states(self, batch: Batch) -> Iterator[Tensor]:
        """Hidden states [B, L, D] that enter each layer, then those that leave the last.

        Raises:
            TypeError: the batch has a mask under which texts are not read as a whole.
        """
        if not isinstance(batch.mask, PaddingMask | PackedMask):
            found = type(batch.mask).__name__
            raise TypeError(f"{type(self).__name__} reads whole texts, padded or packed; found a {found}")
        hidden_BLD, context = self.embed(batch), self.context(batch)
        for layer in self.layers:
            yield hidden_BLD
            hidden_BLD = layer(hidden_BLD, batch, *context)
        yield self.norm(hidden_BLD)

    def forward(self, batch: Batch) -> Tensor:
        for hidden_BLD in self.states(batch):
            last_BLD = hidden_BLD
        return last_BLD


def over_texts(mix: Callable[..., Tensor], batch: Batch, *tensors: Tensor) -> Tensor:
    """`mix` of tensors [B, L, ...], without padding and neighbours.

    Of a padded batch `mix` sees all rows at once, zeros in place of their padding; of a packed one a text at a time, as
    one row. So it must be a mixing to which zeros behind a text add nothing.
    """
    if isinstance(batch.mask, PackedMask):
        texts = zip(*(tensor.split(batch.lengths, dim=1) for tensor in tensors), strict=True)
        return torch.cat([mix(*text) for text in texts], dim=1)
    assert isinstance(batch.mask, PaddingMask)
    valid_BL = batch.mask.valid_BL
    return mix(*tensors) if valid_BL is None else mix(*(_zero_padding(tensor, valid_BL) for tensor in tensors))


def sinusoids(batch: Batch, width: int, dtype: torch.dtype) -> Tensor:
    """Places in the order of a text as cosines and sines of the angles of rotary positions, [B, L, width].

    There is no last one. Source: Vaswani et al. (arXiv 1706.03762), in another order of channels.
    """
    table = rotary_table(batch.order_BL, width, dtype)
    return torch.view_as_real(table).flatten(-2).to(dtype)


def _zero_padding(tensor: Tensor, valid_BL: Tensor) -> Tensor:
    """Filled, not multiplied: what is not a number stays none under a product with 0."""
    return tensor.masked_fill(~valid_BL.view(*valid_BL.shape, *[1] * (tensor.dim() - 2)), 0.0)
