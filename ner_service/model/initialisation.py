"""Random weights of our own modules; foreign encoders bring their own rule."""

from __future__ import annotations

from torch import nn


def initialise(module: nn.Module) -> None:
    """Linear maps from N(0, 1 / fan-in), which keeps the scale of their input; embeddings from N(0, 0.02); biases 0.

    BERT's N(0, 0.02) for linear maps is made for a width of 768: at 256 it starts several times too small, and a run
    spends its first epochs growing. For `Module.apply`.
    """
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
