"""Records of a model: what cannot be is refused, and every record survives its way through JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ner_service.errors import ConfigError
from ner_service.model.config import (
    EncoderConfig,
    FNetConfig,
    GMLPConfig,
    HeadConfig,
    Heads,
    HuggingFaceConfig,
    HyperMixerConfig,
    ModelConfig,
    RoFormerConfig,
    RoFormerV2Config,
    longest_text,
)
from ner_service.records import structure, unstructure

SIZES: dict[str, Any] = {"vocab_size": 9, "hidden_size": 12, "num_layers": 1, "num_heads": 2, "intermediate_size": 8}

MIXING_SIZES = {name: size for name, size in SIZES.items() if name != "num_heads"}


@pytest.mark.parametrize(
    "encoder",
    [
        RoFormerConfig(**SIZES, embedding_size=4, activation="relu", rotary_value=True),
        RoFormerV2Config(**SIZES),
        GMLPConfig(**MIXING_SIZES, kernel_size=7, attention_size=4),
        FNetConfig(**MIXING_SIZES),
        HyperMixerConfig(**SIZES, mixing_size=6),
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


@pytest.mark.parametrize(
    "encoder",
    [
        RoFormerConfig(**SIZES),
        RoFormerV2Config(**SIZES),
        GMLPConfig(**MIXING_SIZES),
        FNetConfig(**MIXING_SIZES),
        HyperMixerConfig(**SIZES, mixing_size=6),
    ],
)
def test_sizes_rates_and_epsilons_that_cannot_be_are_refused(encoder: EncoderConfig) -> None:
    for name, value in unstructure(encoder).items():
        if name == "kind" or not isinstance(value, int | float) or isinstance(value, bool):
            continue
        lowest = {"attention_size": -1, "num_layers": -1, "dropout": -0.1, "attention_dropout": -0.1}.get(name, 0)
        for wrong in (lowest, *((1.0,) if name.endswith("dropout") else ())):
            with pytest.raises(ValueError, match=f"^{name}: found {wrong}, expected "):
                replace(encoder, **{name: wrong})


@pytest.mark.parametrize("head_size", [7, 0, -2])
def test_heads_that_are_no_pairs_are_refused(head_size: int) -> None:
    with pytest.raises(ValueError, match=f"head_size is {head_size}, expected an even number above 0"):
        HeadConfig(head_size=head_size)


@pytest.mark.parametrize("change", [{"intermediate_size": 9}, {"kernel_size": 6}])
def test_a_gate_without_halves_or_middle_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected an even number and an odd one"):
        GMLPConfig(**{**MIXING_SIZES, **change})


def test_mixing_heads_of_uneven_width_are_refused() -> None:
    for heads, mixing_size in ((5, 10), (4, 6)):
        with pytest.raises(ValueError, match=f"hidden_size 12 and mixing_size {mixing_size} over num_heads {heads}"):
            HyperMixerConfig(**{**SIZES, "num_heads": heads, "mixing_size": mixing_size})


def test_sinusoids_need_pairs_of_channels() -> None:
    odd = {**SIZES, "hidden_size": 9, "num_heads": 3}
    with pytest.raises(ValueError, match="hidden_size is 9, expected an even number"):
        HyperMixerConfig(**odd, mixing_size=6)
    with pytest.raises(ValueError, match="hidden_size is 9, expected an even number"):
        FNetConfig(**{**MIXING_SIZES, "hidden_size": 9})
    assert GMLPConfig(**{**MIXING_SIZES, "hidden_size": 9}).hidden_size == 9


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


def test_positions_that_are_computed_have_no_end() -> None:
    attending = (RoFormerConfig(**SIZES), RoFormerV2Config(**SIZES))
    mixing = (GMLPConfig(**MIXING_SIZES), FNetConfig(**MIXING_SIZES), HyperMixerConfig(**SIZES, mixing_size=6))
    assert [longest_text(config) for config in (*attending, *mixing)] == [None] * 5
