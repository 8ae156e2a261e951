"""The walk through the layers of an encoder with rotary attention. Knows no embedding and no kind of layer.

Shapes: B rows, L tokens, D hidden, K head width, P axes of a position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat

import torch
from torch import Tensor, nn

from ner_service.model.attention import KeyValueCache, RotaryAttention
from ner_service.model.batch import Batch
from ner_service.model.initialisation import initialise
from ner_service.model.rotary import rotary_table_of_axes


class RotaryEncoder(nn.Module):
    """Token ids to hidden states [B, L, D]; an encoder brings its embeddings and its layers.

    A layer takes hidden states, a table of angles, a mask and a cache or None, and has its attention as `attention`.
    With two axes it reads where a page's tokens stand; with one, a page is a text in the order of its words.
    """

    walks: bool = True
    num_axes: int
    head_size: int
    layers: nn.ModuleList
    type_embedding: nn.Embedding

    @torch.no_grad()
    def initialise(self) -> None:
        """Random weights. Maps that a layer adds to what it reads begin smaller, by the root of how many they are: each
        LayerNorm would else take half of all that came before, and a deep stack would forget its input.

        Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019), section 2.3.
        """
        self.apply(initialise)
        for layer in self.layers:
            for added in (layer.attention.output, layer.feed_out):  # type: ignore[union-attr]
                added.weight *= (2 * len(self.layers)) ** -0.5  # type: ignore[union-attr]

    def embed(self, batch: Batch) -> Tensor:
        """What the first layer reads, [B, L, D]."""
        raise NotImplementedError

    def types(self, batch: Batch) -> Tensor:
        """The embedding of each token's type; without segments every token is of type 0."""
        if batch.segment_BL is None:
            return self.type_embedding.weight[0]
        return self.type_embedding(batch.segment_BL)  # type: ignore[no-any-return]

    def states(self, batch: Batch, caches: Sequence[KeyValueCache] | None = None) -> Iterator[Tensor]:
        """Hidden states [B, L, D] that enter each layer, then those that leave the last; caches are extended."""
        hidden_BLD = self.embed(batch)
        table_BLK = self._table(batch.order_BL[..., None] if self.num_axes == 1 else batch.position_BLP)
        yield hidden_BLD
        for layer, cache in zip(self.layers, caches or repeat(None), strict=False):
            hidden_BLD = layer(hidden_BLD, table_BLK, batch.mask, cache)
            yield hidden_BLD

    def keys_values(self, layer: int, hidden_BLD: Tensor, position_BL: Tensor) -> KeyValueCache:
        """What later tokens see in a layer of inputs that stand at `position_BL`."""
        attention: RotaryAttention = self.layers[layer].attention  # type: ignore[assignment]
        return attention.keys_values(hidden_BLD, self._table(position_BL[..., None]))

    def forward(self, batch: Batch, caches: Sequence[KeyValueCache] | None = None) -> Tensor:
        for hidden_BLD in self.states(batch, caches):
            last_BLD = hidden_BLD
        return last_BLD

    def _table(self, position_BLP: Tensor) -> Tensor:
        return rotary_table_of_axes(position_BLP, self.head_size, self.type_embedding.weight.dtype)
