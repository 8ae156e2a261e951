"""Texts by way of their latent codes: written again, drawn from the prior, between two others, with one scale anew.

A text's codes are one vector for each latent layer; layers are counted from 1. Knows no file and no terminal.

Source: kexue.fm/archives/8475. Shapes: N texts, S size of a code.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from ner_service.errors import ConfigError
from ner_service.model.batch import pad_targets
from ner_service.model.encoders import Encoder, walked
from ner_service.model.latent import FIRST_POSITION
from ner_service.recognizer import Recognizer
from training.generation import Sampling, decode_tokens

TEXTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Written:
    """A text written from codes; it is not `finished` if it came to the most tokens that a text has before its end."""

    text: str
    finished: bool


class Autoencoder:
    """A loaded model that turns texts into codes and codes into texts of at most `max_tokens` tokens.

    A token is the likeliest one, or with `top_p` above 0 drawn from the likeliest that hold this share. All that is
    drawn, codes and tokens, comes from one generator of the seed `seed`.

    Raises:
        MissingHeadError: the model has no codes, or does not write.
        ConfigError: it was trained without a latent layer, its tokenizer marks no start or end of a text, or `top_p`
            is no probability.
    """

    def __init__(self, recognizer: Recognizer, *, max_tokens: int = 64, top_p: float = 0.0, seed: int = 0) -> None:
        for head in ("latent", "language_model"):
            recognizer.require_head(head)
        assert recognizer.model.latent is not None
        assert recognizer.manifest.model.heads.latent is not None
        self.model = recognizer.model
        self.latent = recognizer.model.latent
        self.posterior = recognizer.manifest.model.heads.latent.posterior
        self.encoder = walked(cast(Encoder, self.model.encoder), "heads.latent")
        self.layers = tuple(range(self.latent.first_layer + 1, self.encoder.num_layers + 1))
        if not self.layers:
            raise ConfigError("heads.latent.num_latents: found 0, expected 1 or more to write from")
        self.tokenizer = recognizer.tokenizer
        if not self.tokenizer.start_ids:
            raise ConfigError("tokenizer: found no token before a text, expected one to begin writing from")
        self.sampling = Sampling.of_tokenizer(self.tokenizer, max_tokens=max_tokens, top_p=top_p)
        self.device = recognizer.device
        self.generator = torch.Generator().manual_seed(seed)

    def reconstruct(self, texts: Sequence[str]) -> list[Written]:
        """Each text written again from its own codes."""
        chunks = [texts[first : first + TEXTS_AT_ONCE] for first in range(0, len(texts), TEXTS_AT_ONCE)]
        return [written for chunk in chunks for written in self.write(self.encode(chunk))]

    def sample(self, num: int) -> list[Written]:
        """Texts of codes drawn from the prior."""
        return self.write(self._prior(num))

    def resample(self, text: str, layers: Collection[int], num: int) -> list[Written]:
        """Texts that keep a text's codes but for those of `layers`, which are drawn from the prior.

        Raises:
            ConfigError: one of `layers` is no latent layer.
        """
        self._check_layers(layers)
        codes = [
            drawn_NS if layer in layers else kept_NS.expand(num, -1)
            for layer, drawn_NS, kept_NS in zip(self.layers, self._prior(num), self.encode([text]), strict=True)
        ]
        return self.write(codes)

    def interpolate(self, first: str, second: str, num: int, layers: Collection[int] | None = None) -> list[Written]:
        """Texts at `num` equal steps from one text to another, both ends among them.

        The codes of `layers`, else all, move; the others stay those of the first text. They move on the sphere or, for
        a Gaussian posterior, in a straight line.

        Raises:
            ConfigError: one of `layers` is no latent layer.
        """
        moving = self.layers if layers is None else layers
        self._check_layers(moving)
        between = lerp if self.posterior == "gaussian" else slerp
        share_N = torch.linspace(0, 1, num, device=self.device)
        codes = [
            between(code_2S[0], code_2S[1], share_N) if layer in moving else code_2S[:1].expand(num, -1)
            for layer, code_2S in zip(self.layers, self.encode([first, second]), strict=True)
        ]
        return self.write(codes)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """The codes [N, S] of the texts, one a latent layer: the centres of their posteriors.

        Raises:
            InvalidTextError: a text is not Unicode.
        """
        token_ids = [encoding.token_ids for encoding in self.tokenizer.encode_batch(texts)]
        batch = self.model.batch(token_ids, self.tokenizer.pad_id, self.device)
        return [latent.z_Bd for latent in self.latent.encode(self.encoder, batch)]

    @torch.inference_mode()
    def write(self, codes: Sequence[Tensor]) -> list[Written]:
        """The texts of codes [N, S], one a latent layer."""
        start = [self.tokenizer.start_ids] * len(codes[0])
        batch = pad_targets(start, self.tokenizer.pad_id, self.device, first_position=FIRST_POSITION)
        caches = self.latent.caches(self.encoder, codes)
        rows = decode_tokens(
            self.model,
            self.encoder(batch, caches)[:, -1],
            caches,
            self.sampling,
            first_position=FIRST_POSITION + len(self.tokenizer.start_ids),
            generators=[self.generator],
        )
        return [Written(self.tokenizer.decode(row), finished=row[-1] == self.sampling.end_id) for row in rows]

    def _prior(self, num: int) -> list[Tensor]:
        return [code_NS.to(self.device) for code_NS in self.latent.prior(num, self.generator)]

    def _check_layers(self, layers: Collection[int]) -> None:
        unknown = sorted(set(layers) - set(self.layers))
        if unknown:
            expected = ", ".join(map(str, self.layers))
            raise ConfigError(f"layer: found {', '.join(map(str, unknown))}, expected a latent layer: {expected}")


def lerp(first_S: Tensor, second_S: Tensor, share_N: Tensor) -> Tensor:
    """The points [N, S] on the straight line from one to the other, at shares of the way."""
    return torch.lerp(first_S, second_S, share_N[:, None])


def slerp(first_S: Tensor, second_S: Tensor, share_N: Tensor) -> Tensor:
    """The points [N, S] on the great circle from one unit vector to another, at shares of the shorter way.

    cos(t a) first + sin(t a) tangent, for the angle a between them. Right for an angle of 0 and next to it.
    """
    cosine = first_S @ second_S
    aside_S = second_S - cosine * first_S
    angle_N1 = share_N[:, None] * torch.atan2(aside_S.norm(), cosine)
    return angle_N1.cos() * first_S + angle_N1.sin() * functional.normalize(aside_S, dim=-1)
