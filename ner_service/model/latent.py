"""UniVAE's latent codes: read off the encoder layer by layer, and shown to the decoder as one more key of a layer.

The encoder is the plain encoder: a code is made from the state at position 0 that enters a layer, and nothing of it
flows back into the text's own states. The decoder is the same encoder under a causal mask; in each of the last layers
it attends, besides its own past, to a slot at position 0 that holds that layer's code. Its own tokens stand at
positions 1, 2, ..., so the length of the encoded text is not told.

Source: kexue.fm/archives/8475, with the slot beside the text instead of in it. Knows no loss.
Shapes: B texts, L tokens, D hidden, S size of a code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from ner_service.errors import ConfigError
from ner_service.model.attention import KeyValueCache
from ner_service.model.batch import Batch
from ner_service.model.config import LatentConfig
from ner_service.model.encoders import WalkedEncoder
from ner_service.model.initialisation import initialise
from ner_service.model.posteriors import Latent, build_posterior

FIRST_POSITION = 1
"""Where the decoder's tokens begin; the slot stands before them."""


class LatentCodes(nn.Module):
    """The bottleneck of the last `num_latents` layers: down to a code's posterior, and from a code up to a slot.

    Raises:
        ConfigError: as many codes as layers; what enters the first layer at position 0 is the same for every text.
    """

    def __init__(self, encoder: WalkedEncoder, config: LatentConfig) -> None:
        super().__init__()
        if config.num_latents >= encoder.num_layers:
            raise ConfigError(
                f"heads.latent.num_latents: found {config.num_latents}, expected fewer than the encoder's "
                f"{encoder.num_layers} layers"
            )
        self.first_layer = encoder.num_layers - config.num_latents
        posteriors = [build_posterior(config) for _ in range(config.num_latents)]
        self.posteriors = nn.ModuleList(posteriors)
        self.down = nn.ModuleList(nn.Linear(encoder.hidden_size, posterior.input_size) for posterior in posteriors)
        self.up = nn.ModuleList(nn.Linear(config.size, encoder.hidden_size) for _ in posteriors)
        self.down.apply(initialise)
        self.up.apply(initialise)

    def encode(self, encoder: WalkedEncoder, batch: Batch) -> list[Latent]:
        """A code [B, S] and its divergence [B] for each latent layer; a sample in training, else the centre."""
        inputs = islice(encoder.states(batch), self.first_layer, encoder.num_layers)
        return [
            posterior(down(batch.firsts(hidden_BLD)))
            for posterior, down, hidden_BLD in zip(self.posteriors, self.down, inputs, strict=True)
        ]

    def caches(self, encoder: WalkedEncoder, codes: Sequence[Tensor]) -> list[KeyValueCache]:
        """What each layer of the decoder attends to before its own tokens, given a code [B, S] a latent layer."""
        independent = [KeyValueCache() for _ in range(self.first_layer)]
        slots = [up(code_BS)[:, None] for up, code_BS in zip(self.up, codes, strict=True)]
        return independent + [
            encoder.keys_values(
                self.first_layer + index,
                slot_B1D,
                torch.zeros(slot_B1D.shape[:2], dtype=torch.long, device=slot_B1D.device),
            )
            for index, slot_B1D in enumerate(slots)
        ]

    def prior(self, num: int, generator: torch.Generator | None = None) -> list[Tensor]:
        """Codes [num, S] from the prior, one a latent layer, each drawn by itself."""
        return [posterior.prior(num, generator) for posterior in self.posteriors]  # type: ignore[operator]
