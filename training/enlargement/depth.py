"""More layers, the same function: new layers that add nothing to what they read, spread among the old ones.

A new layer's two output maps are 0, so it only normalises again what is normalised already. A norm without gain does
that for nothing (RoFormerV2). A LayerNorm with gain and bias would not, so these move up: the new layer ends with the
gain and bias of the layer below, which from now on has none, and all norms between have none either (RoFormer). What is
off is of the size of epsilon. Output maps that are 0 get a gradient at once, all else of the layer one step later.

Latent codes are read before, and shown to, the last `num_latents` layers: those stay the last, and no layer grows among
them. Knows no width. `docs/enlargement.md` says why.
"""

from __future__ import annotations

import torch

from ner_service.model.config import RoFormerConfig, RoFormerV2Config
from ner_service.model.encoders.roformer import RoFormerLayer
from ner_service.model.encoders.roformer_v2 import RoFormerV2Layer
from ner_service.model.initialisation import initialise
from training.enlargement.symmetry import Weights

LAYERS = "encoder.layers."
NORM = "feed_norm"
"""What ends a layer of RoFormer."""


def deepen(
    weights: Weights,
    encoder: RoFormerConfig | RoFormerV2Config,
    num_layers: int,
    num_latents: int,
    generator: torch.Generator,
) -> Weights:
    """The weights of a model with `num_layers` layers, at least as many as `encoder` has."""
    num_free = encoder.num_layers - num_latents
    grown: list[Weights] = []
    for index in range(encoder.num_layers):
        grown.append(_below(weights, f"{LAYERS}{index}."))
        for _ in range(num_above(index, num_layers - encoder.num_layers, num_free)):
            grown.append(pass_on(grown[-1], new_layer(encoder, generator)))
    others = {name: tensor for name, tensor in weights.items() if not name.startswith(LAYERS)}
    layers = {f"{LAYERS}{index}.{name}": tensor for index, layer in enumerate(grown) for name, tensor in layer.items()}
    return {**others, **layers}


def num_above(index: int, num_new: int, num_free: int) -> int:
    """How many of the new layers stand right above an old one, when these are spread evenly over the first ones."""
    if index >= num_free:
        return 0
    return num_new * (index + 1) // num_free - num_new * index // num_free


def new_layer(encoder: RoFormerConfig | RoFormerV2Config, generator: torch.Generator) -> Weights:
    """A layer with random weights whose two output maps are 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        layer = RoFormerLayer(encoder) if isinstance(encoder, RoFormerConfig) else RoFormerV2Layer(encoder)
        weights = layer.apply(initialise).double().state_dict()
    for name in ("attention.output.weight", "feed_out.weight"):
        weights[name] = torch.zeros_like(weights[name])
    return weights


def pass_on(below: Weights, above: Weights) -> Weights:
    """The upper of two layers with the last norm of the lower one, which gets the upper one's in exchange."""
    for name in (f"{NORM}.weight", f"{NORM}.bias"):
        if name in below:
            below[name], above[name] = above[name], below[name]
    return above


def _below(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
