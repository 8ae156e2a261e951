"""k times as wide, the same function: hidden states, embeddings, feed-forward and attention, and what heads read.

The wide hidden state is the narrow one k times over, times a scale c. Where layer norms have a gain (RoFormer) c is
1 / sqrt(k), which keeps the length of every vector, and epsilon becomes epsilon c^2; where they have none (RoFormerV2)
c is 1. Within attention and feed-forward c is 1: their activations see what they saw.

    scheme        heads       what a wide head holds                      factor of queries and keys
    more_heads    k * H       a narrow head, all heads k times over       1
    wider_heads   H           pair t of a narrow head as its pair k * t   k^(1/4), for the divisor sqrt(K) grows

Pair t of a narrow head turns as fast as pair k * t of a wide one, so both are exact under rotary positions. Of the new
channels of a wider head, queries are 0 and keys random, and values are random and not read: they add nothing, and what
is 0 gets a gradient at once.

Source: kexue.fm/archives/8444; HyperCloning (arXiv 2409.12903). Knows no depth. Shapes: D hidden, W embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ner_service.errors import ConfigError
from ner_service.model.config import EncoderConfig, RoFormerConfig, RoFormerV2Config
from training.enlargement.symmetry import Layout, Symmetry, Weights, same, tiled, wide_map, wide_vector

Scheme: TypeAlias = Literal["more_heads", "wider_heads"]


class Grown:
    """An encoder's configuration k times as wide, and how the channels of each of its parts hold the narrow ones.

    Attributes:
        encoder: the wide configuration, as deep as before.
        scale: c, the wide hidden state's factor.

    Raises:
        ConfigError: wider heads by an even factor on two axes, where pair k * t stands on another axis than pair t.
    """

    def __init__(self, small: RoFormerConfig | RoFormerV2Config, factor: int, scheme: Scheme) -> None:
        if scheme == "wider_heads" and small.num_axes > 1 and factor % 2 == 0:
            raise ConfigError(
                f"scheme: found 'wider_heads' by {factor} for an encoder with num_axes = {small.num_axes}, "
                "expected an odd factor or 'more_heads': pairs of channels would change their axis"
            )
        self.scale = hidden_scale(small, factor)
        self.encoder = _configuration(small, factor, scheme)
        embedding_size = small.hidden_size
        if isinstance(small, RoFormerConfig) and small.embedding_size:
            embedding_size = small.embedding_size
        self.hidden = tiled(small.hidden_size, factor, self.scale)
        self.embedding = tiled(embedding_size, factor, self.scale)
        self.inner = tiled(small.intermediate_size, factor, 1.0)
        self.named = tiled(embedding_size, factor, 1.0)
        # Over k times as many channels, each c times what it was, the product with the embeddings is to stay the same.
        self.named_norm = tiled(embedding_size, factor, 1.0 / (factor * self.scale))
        if scheme == "more_heads":
            query_key = tiled(small.hidden_size, factor, 1.0)
            self.value = tiled(small.hidden_size, factor, self.scale)
        else:
            query_key = stuffed(small.num_heads, small.hidden_size // small.num_heads, factor, factor**0.25)
            self.value = stuffed(small.num_heads, small.hidden_size // small.num_heads, factor, 1.0)
        self.query_key_value = fused((query_key, query_key, self.value), small.hidden_size)


def known_encoder(encoder: EncoderConfig) -> RoFormerConfig | RoFormerV2Config:
    """The encoder, if it is one that can grow.

    Raises:
        ConfigError: it is not; names its kind.
    """
    match encoder:
        case RoFormerConfig() | RoFormerV2Config():
            return encoder
        case _:
            raise ConfigError(
                f"enlarge: found an encoder of kind {encoder.kind!r}, expected 'roformer' or 'roformer_v2'"
            )


def hidden_scale(small: RoFormerConfig | RoFormerV2Config, factor: int) -> float:
    """c: the wide hidden state is the narrow one `factor` times over, times this."""
    return factor**-0.5 if isinstance(small, RoFormerConfig) else 1.0


def stuffed(num_heads: int, head_size: int, factor: int, scale: float) -> Layout:
    """Heads `factor` times as wide in which pair t stands as pair `factor` * t; all between is new."""
    channel = torch.arange(num_heads * head_size * factor)
    head, place = channel // (head_size * factor), channel % (head_size * factor)
    pair, side = place // 2, place % 2
    held = pair % factor == 0
    source = torch.where(held, head * head_size + pair // factor * 2 + side, 0)
    return Layout(source, held.double() * scale)


def fused(layouts: Sequence[Layout], size: int) -> Layout:
    """Outputs of one map for several parts, each of which has `size` narrow channels."""
    return Layout(
        torch.cat([layout.source + part * size for part, layout in enumerate(layouts)]),
        torch.cat([layout.scale for layout in layouts]),
    )


def widen(weights: Weights, grown: Grown, symmetry: Symmetry, generator: torch.Generator) -> Weights:
    """The wide model's weights, by the same names.

    Raises:
        ConfigError: a weight that is not known.
    """
    writer = _Writer(weights, symmetry, generator)
    _widen_encoder(writer, grown)
    _widen_heads(writer, grown)
    unknown = weights.keys() - writer.written.keys()
    if unknown:
        raise ConfigError(f"enlarge: found the weights {sorted(unknown)}, expected none but those it knows")
    return writer.written


class _Writer:
    """Wide weights from narrow ones, name by name."""

    def __init__(self, weights: Weights, symmetry: Symmetry, generator: torch.Generator) -> None:
        self.weights = weights
        self.symmetry = symmetry
        self.generator = generator
        self.written: Weights = {}

    def parts(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """The narrow weights of a part, none where the model has no such part."""
        return ((name, self.weights[name]) for name in sorted(self.weights) if f"{name}.".startswith(f"{prefix}."))

    def linear(self, prefix: str, *, reads: Layout | None = None, gives: Layout | None = None) -> None:
        """Linear maps with their biases; what is not given stays as wide as it is."""
        for name, narrow in self.parts(prefix):
            outputs = gives or same(len(narrow))
            if name.endswith(".bias"):
                self.written[name] = wide_vector(narrow, outputs)
            else:
                inputs = reads or same(narrow.shape[1])
                self.written[name] = wide_map(narrow, inputs, outputs, self.symmetry, self.generator)

    def channels(self, prefix: str, layout: Layout) -> None:
        """A table of vectors, or gain and bias of a norm."""
        for name, narrow in self.parts(prefix):
            self.written[name] = wide_vector(narrow, layout)

    def keep(self, prefix: str) -> None:
        """What is as wide as before."""
        self.written.update(self.parts(prefix))

    def fill(self, name: str, new_O: Tensor, held_O: Tensor) -> None:
        """Random weights in the rows of new outputs, as large as those of the rows that hold old ones."""
        weight_OI = self.written[name]
        drawn_OI = torch.randn(weight_OI.shape, generator=self.generator, dtype=weight_OI.dtype)
        self.written[name] = torch.where(new_O[:, None], drawn_OI * weight_OI[held_O].std(), weight_OI)


def _widen_encoder(writer: _Writer, grown: Grown) -> None:
    for name in ("token_embedding", "type_embedding", "embedding_norm"):
        writer.channels(f"encoder.{name}", grown.embedding)
    writer.linear("encoder.embedding_projection", reads=grown.embedding, gives=grown.hidden)
    for layer in range(grown.encoder.num_layers):
        _widen_layer(writer, f"encoder.layers.{layer}", grown)


def _widen_layer(writer: _Writer, layer: str, grown: Grown) -> None:
    attention = f"{layer}.attention"
    writer.linear(f"{attention}.query_key_value", reads=grown.hidden, gives=grown.query_key_value)
    held_O = grown.query_key_value.scale > 0
    new_O = ~held_O
    new_O[: len(new_O) // 3] = False  # those of queries stay 0
    if new_O.any():
        writer.fill(f"{attention}.query_key_value.weight", new_O, held_O)
    writer.linear(f"{attention}.output", reads=grown.value, gives=grown.hidden)
    writer.linear(f"{layer}.feed_in", reads=grown.hidden, gives=grown.inner)
    writer.linear(f"{layer}.feed_out", reads=grown.inner, gives=grown.hidden)
    for name in ("attention_norm", "feed_norm"):
        writer.channels(f"{layer}.{name}", grown.hidden)


def _widen_heads(writer: _Writer, grown: Grown) -> None:
    writer.linear("spans.dense", reads=grown.hidden)
    writer.keep("spans.terms")
    writer.linear("embedding", reads=grown.hidden)
    writer.linear("language_model.dense", reads=grown.hidden, gives=grown.named)
    writer.channels("language_model.norm", grown.named_norm)
    writer.keep("language_model.bias")
    writer.linear("latent.down", reads=grown.hidden)
    writer.linear("latent.up", gives=grown.hidden)
    writer.keep("latent.posteriors")


def _configuration(
    small: RoFormerConfig | RoFormerV2Config, factor: int, scheme: Scheme
) -> RoFormerConfig | RoFormerV2Config:
    wide = replace(
        small,
        hidden_size=factor * small.hidden_size,
        num_heads=small.num_heads * (factor if scheme == "more_heads" else 1),
        intermediate_size=factor * small.intermediate_size,
    )
    if isinstance(wide, RoFormerV2Config):
        return wide
    embedding_size = factor * wide.embedding_size if wide.embedding_size else None
    # Variances are 1 / factor of what they were: c^2, without the rounding of a square root.
    return replace(wide, embedding_size=embedding_size, layer_norm_eps=small.layer_norm_eps / factor)
