"""Which encoders can be walked: they say so themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from ner_service.errors import ConfigError
from ner_service.model.config import (
    EncoderConfig,
    FNetConfig,
    GMLPConfig,
    Heads,
    HuggingFaceConfig,
    HyperMixerConfig,
    LatentConfig,
    ModelConfig,
    RoFormerConfig,
    RoFormerV2Config,
)
from ner_service.model.encoders import Encoder, build_encoder, walked
from ner_service.model.text_model import TextModel

ROFORMER = RoFormerConfig(vocab_size=20, hidden_size=8, num_layers=2, num_heads=2, intermediate_size=8)
ROFORMER_V2 = RoFormerV2Config(vocab_size=20, hidden_size=8, num_layers=2, num_heads=2, intermediate_size=8)
MIXING_SIZES: dict[str, Any] = {"vocab_size": 20, "hidden_size": 8, "num_layers": 2, "intermediate_size": 8}
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}


def built(config: EncoderConfig) -> Encoder:
    return cast(Encoder, build_encoder(config))


@pytest.mark.parametrize("config", [ROFORMER, ROFORMER_V2, replace(ROFORMER, num_token_types=3)])
def test_our_own_are_walked(config: EncoderConfig) -> None:
    encoder = built(config)
    assert walked(encoder, "writing") is encoder


def test_a_foreign_encoder_is_not() -> None:
    encoder = built(HuggingFaceConfig(model_type="bert", config=SIZES))
    with pytest.raises(ConfigError, match="writing: found the encoder HuggingFaceEncoder, expected one that attends"):
        walked(encoder, "writing")


@pytest.mark.parametrize(
    "config",
    [
        GMLPConfig(**MIXING_SIZES),
        GMLPConfig(**MIXING_SIZES, attention_size=4),
        FNetConfig(**MIXING_SIZES),
        HyperMixerConfig(**MIXING_SIZES, num_heads=2, mixing_size=8),
    ],
)
def test_an_encoder_that_reads_whole_texts_alone_is_not(config: EncoderConfig) -> None:
    encoder = built(config)
    with pytest.raises(ConfigError, match=f"writing: found the encoder {type(encoder).__name__}, expected one that"):
        walked(encoder, "writing")
    heads = Heads(latent=LatentConfig(num_latents=1, size=4))
    with pytest.raises(ConfigError, match=rf"heads\.latent: found the encoder {type(encoder).__name__}"):
        TextModel(ModelConfig(encoder=config, heads=heads), 0)


@pytest.mark.parametrize("config", [ROFORMER, ROFORMER_V2])
def test_one_token_type_cannot_tell_what_is_written(config: RoFormerConfig | RoFormerV2Config) -> None:
    single = replace(config, num_token_types=1)
    with pytest.raises(ConfigError, match="writing: found an encoder with num_token_types = 1, expected 2 or more"):
        walked(built(single), "writing")
    heads = Heads(latent=LatentConfig(num_latents=1, size=4))
    with pytest.raises(ConfigError, match=r"heads\.latent: found an encoder with num_token_types = 1"):
        TextModel(ModelConfig(encoder=single, heads=heads), 0)
    assert TextModel(ModelConfig(encoder=single, heads=Heads()), 0).latent is None
