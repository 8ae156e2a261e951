"""Random weights of our own modules; foreign encoders bring their own rule."""

from __future__ import annotations

from torch import nn


def initialise(module: nn.Module) -> None:
    """Weights of linear maps and embeddings from N(0, 0.02), biases 0, as in BERT. For `Module.apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
