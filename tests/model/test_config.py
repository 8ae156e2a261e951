"""Records of a model: what cannot be is refused, and every record survives its way through JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ner_service.errors import ConfigError
from ner_service.model.config import (
    EncoderConfig,
    HeadConfig,
    Heads,
    HuggingFaceConfig,
    ModelConfig,
    RoFormerConfig,
    RoFormerV2Config,
    longest_text,
)
from ner_service.records import structure, unstructure

SIZES: dict[str, Any] = {"vocab_size": 9, "hidden_size": 12, "num_layers": 1, "num_heads": 2, "intermediate_size": 8}


@pytest.mark.parametrize(
    "encoder",
    [
        RoFormerConfig(**SIZES, embedding_size=4, activation="relu", rotary_value=True),
        RoFormerV2Config(**SIZES),
        HuggingFaceConfig(model_type="bert", config={"hidden_size": 8, "layer_types": ["full_attention"]}),
    ],
)
def test_a_model_goes_through_json_and_back(encoder: EncoderConfig) -> None:
    config = ModelConfig(encoder=encoder, heads=Heads(spans=HeadConfig(kind="global_pointer", rotary=False)))
    assert structure(ModelConfig, json.loads(json.dumps(unstructure(config)))) == config


@pytest.mark.parametrize("num_heads", [5, 4])
def test_heads_of_uneven_or_odd_width_are_refused(num_heads: int) -> None:
    for kind in (RoFormerConfig, RoFormerV2Config):
        with pytest.raises(ValueError, match=f"hidden_size 12 over num_heads {num_heads}"):
            kind(**{**SIZES, "num_heads": num_heads})


def test_an_odd_pointer_head_is_refused() -> None:
    with pytest.raises(ValueError, match="head_size is 63, expected an even number"):
        HeadConfig(head_size=63)


def test_an_encoder_without_a_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.kind: found 'lstm', expected 'roformer' or"):
        structure(ModelConfig, {"encoder": {"kind": "lstm"}, "heads": {"spans": {}}})


@pytest.mark.parametrize(
    ("model_type", "config", "expected"),
    [
        ("bert", {"max_position_embeddings": 512, "pad_token_id": 0}, 512),
        ("bert", {"max_position_embeddings": 512, "pad_token_id": 7}, 512),
        ("roberta", {"max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ("xlm-roberta", {"max_position_embeddings": 514}, 512),
        ("lilt", {"max_position_embeddings": 512, "pad_token_id": 0}, 511),
        ("bert", {}, None),
        ("xlnet", {"max_position_embeddings": -1}, None),
        ("t5", {"max_position_embeddings": None}, None),
    ],
)
def test_the_longest_text_of_a_foreign_encoder(
    model_type: str, config: dict[str, object], expected: int | None
) -> None:
    assert longest_text(HuggingFaceConfig(model_type=model_type, config=config)) == expected


def test_rotary_positions_have_no_end() -> None:
    assert longest_text(RoFormerConfig(**SIZES)) is longest_text(RoFormerV2Config(**SIZES)) is None
