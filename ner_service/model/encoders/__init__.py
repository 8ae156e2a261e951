"""One paper, one file. `build_encoder` imports only the file that it needs."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from ner_service.errors import ConfigError
from ner_service.model.batch import Batch
from ner_service.model.config import EncoderConfig, HuggingFaceConfig, RoFormerConfig, RoFormerV2Config


class Encoder(Protocol):
    """Reads a batch, gives hidden states [B, L, D] of width `hidden_size`."""

    hidden_size: int

    def __call__(self, batch: Batch) -> Tensor: ...


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
        case HuggingFaceConfig():
            try:
                from ner_service.model.encoders.huggingface import HuggingFaceEncoder
            except ModuleNotFoundError as error:
                raise ConfigError(
                    f"found no {error.name}, expected it: pip install 'ner-service[huggingface]'"
                ) from None
            return HuggingFaceEncoder(config)


def packs(config: EncoderConfig) -> bool:
    """Whether the encoder reads packed batches."""
    return not isinstance(config, HuggingFaceConfig)
