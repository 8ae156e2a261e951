"""One paper, one file. `build_encoder` imports only the file that it needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

from torch import Tensor, nn

from ner_service.errors import ConfigError
from ner_service.model.attention import KeyValueCache
from ner_service.model.batch import Batch
from ner_service.model.config import (
    EncoderConfig,
    FNetConfig,
    GMLPConfig,
    HuggingFaceConfig,
    HyperMixerConfig,
    RoFormerConfig,
    RoFormerV2Config,
)


class Encoder(Protocol):
    """Reads a batch, gives hidden states [B, L, D] of width `hidden_size`.

    Attributes:
        walks: whether it is a `WalkedEncoder`.
    """

    hidden_size: int
    num_layers: int
    walks: bool

    @property
    def token_embedding(self) -> nn.Embedding: ...

    def __call__(self, batch: Batch) -> Tensor: ...

    def states(self, batch: Batch) -> Iterator[Tensor]:
        """Hidden states [B, L, D] that enter each layer, then those that leave the last."""
        ...


class WalkedEncoder(Encoder, Protocol):
    """An encoder whose layers are walked one by one, which attends under any mask and keeps keys and values."""

    num_token_types: int

    def __call__(self, batch: Batch, caches: Sequence[KeyValueCache] | None = None) -> Tensor: ...

    def states(self, batch: Batch, caches: Sequence[KeyValueCache] | None = None) -> Iterator[Tensor]:
        """As of `Encoder`; caches are extended."""
        ...

    def keys_values(self, layer: int, hidden_BLD: Tensor, position_BL: Tensor) -> KeyValueCache:
        """What later tokens see in a layer of inputs that stand at `position_BL`."""
        ...


def build_encoder(config: EncoderConfig) -> nn.Module:
    """The encoder of a configuration, with random weights; it fulfils `Encoder`.

    Raises:
        ConfigError: a foreign encoder where transformers is not installed.
    """
    match config:
        case RoFormerConfig():
            from ner_service.model.encoders.roformer import RoFormer

            return RoFormer(config)
        case RoFormerV2Config():
            from ner_service.model.encoders.roformer_v2 import RoFormerV2

            return RoFormerV2(config)
        case GMLPConfig():
            from ner_service.model.encoders.gmlp import GMLP

            return GMLP(config)
        case FNetConfig():
            from ner_service.model.encoders.fnet import FNet

            return FNet(config)
        case HyperMixerConfig():
            from ner_service.model.encoders.hypermixer import HyperMixer

            return HyperMixer(config)
        case HuggingFaceConfig():
            try:
                from ner_service.model.encoders.huggingface import HuggingFaceEncoder
            except ModuleNotFoundError as error:
                raise ConfigError(
                    f"found no {error.name}, expected it: pip install 'ner-service[huggingface]'"
                ) from None
            return HuggingFaceEncoder(config)


def walked(encoder: Encoder, wanted_by: str) -> WalkedEncoder:
    """The encoder as one whose layers are walked, and which tells what it writes from what it reads.

    Raises:
        ConfigError: it cannot; names what wanted it.
    """
    if not encoder.walks:
        raise ConfigError(
            f"{wanted_by}: found the encoder {type(encoder).__name__}, expected one that attends under any mask: "
            "'roformer' or 'roformer_v2'"
        )
    own = cast(WalkedEncoder, encoder)
    if own.num_token_types < 2:
        raise ConfigError(
            f"{wanted_by}: found an encoder with num_token_types = {own.num_token_types}, expected 2 or more: "
            "what is read is of type 0, what is written of type 1"
        )
    return own


def packs(config: EncoderConfig) -> bool:
    """Whether the encoder reads packed batches."""
    return not isinstance(config, HuggingFaceConfig)
