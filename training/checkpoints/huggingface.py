"""Checkpoints of transformers, from a folder or the hub: RoFormer into our own fast form, any other encoder as it is.

RoFormer's names are mapped and its queries, keys and values laid together; its table of angles is dropped, since ours
is computed. Knows no label and no head.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig

from ner_service.errors import ConfigError
from ner_service.model.config import EncoderConfig, HuggingFaceConfig, RoFormerConfig
from ner_service.text.tokenizer import TextTokenizer

LAYER_NAMES = {
    "attention.output.dense": "attention.output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "feed_in",
    "output.dense": "feed_out",
    "output.LayerNorm": "feed_norm",
}
EMBEDDING_NAMES = {
    "embeddings.word_embeddings.weight": "token_embedding.weight",
    "embeddings.token_type_embeddings.weight": "type_embedding.weight",
    "embeddings.LayerNorm.weight": "embedding_norm.weight",
    "embeddings.LayerNorm.bias": "embedding_norm.bias",
    "embeddings_project.weight": "embedding_projection.weight",
    "embeddings_project.bias": "embedding_projection.bias",
}
QUERY_KEY_VALUE = tuple(f"attention.self.{part}" for part in ("query", "key", "value"))
NOT_WEIGHTS = ("embed_positions.weight", "position_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignEncoder:
    """An encoder from elsewhere: its configuration, weights under our names, and its tokenizer."""

    config: EncoderConfig
    weights: dict[str, Tensor]
    tokenizer: TextTokenizer


def load_checkpoint(name: str, wanted_by: str = "model.start_from") -> ForeignEncoder:
    """Read a Hugging Face folder, or fetch a hub name; errors name what wanted it.

    Raises:
        ConfigError: it cannot be had, or its tokenizer has no fast form and so no offsets.
    """
    try:
        foreign = AutoConfig.from_pretrained(name)
        model, loading = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        fast = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # on damaged files the libraries below transformers raise what they like
        raise ConfigError(f"{wanted_by}: {name!r} is neither a bundle nor a checkpoint at hand: {error}") from error
    _check_kind(foreign, f"{wanted_by}: {name!r}")
    _check_weights(model.state_dict(), loading["missing_keys"], loading["unexpected_keys"], f"{wanted_by}: {name!r}")
    if not fast.is_fast:
        raise ConfigError(f"{wanted_by}: the tokenizer of {name!r} has no fast form; expected a tokenizer.json")
    if type(fast).__name__.startswith("RoFormerTokenizer"):
        raise ConfigError(
            f"{wanted_by}: {name!r} cuts texts into words by a program of its own, which no tokenizer.json holds; "
            "expected a character model, such as junnyu/roformer_chinese_char_base"
        )
    if len(fast) <= len(fast.all_special_tokens):
        # Where a folder has no tokenizer at all, transformers makes one that knows nothing.
        raise ConfigError(f"{wanted_by}: {name!r} has no tokenizer; expected a tokenizer.json or a vocabulary")
    tokenizer = TextTokenizer.from_json(fast.backend_tokenizer.to_str())
    if tokenizer.vocab_size > foreign.vocab_size:
        raise ConfigError(
            f"{wanted_by}: the tokenizer of {name!r} has {tokenizer.vocab_size} tokens, "
            f"expected at most the {foreign.vocab_size} that its encoder knows"
        )
    if foreign.model_type == "roformer":
        config = roformer_config(foreign)
        weights = roformer_weights(model.state_dict())
        return ForeignEncoder(config=config, weights=weights, tokenizer=tokenizer)
    values = {key: value for key, value in foreign.to_diff_dict().items() if key not in ("model_type", "dtype")}
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    return ForeignEncoder(
        config=HuggingFaceConfig(model_type=foreign.model_type, config=values), weights=weights, tokenizer=tokenizer
    )


def _check_kind(foreign: PretrainedConfig, where: str) -> None:
    """Refuse what transformers passes over or does for a decoder alone.

    Raises:
        ConfigError: names the key of config.json.
    """
    positions = getattr(foreign, "position_embedding_type", None) or "absolute"
    if positions.startswith("relative_key"):
        raise ConfigError(f"{where}: position_embedding_type: found {positions!r}, expected 'absolute'")
    if getattr(foreign, "is_decoder", False):
        raise ConfigError(f"{where}: is_decoder: found true, expected an encoder, which reads both ways")


def _check_weights(own: Iterable[str], missing: Iterable[str], unexpected: Iterable[str], where: str) -> None:
    """Refuse what transformers would fill with random numbers, or leave out of embeddings and layers.

    Heads of other tasks are left out as they should be, and a pooler is used by none of ours.

    Raises:
        ConfigError: names a weight.
    """
    lacking = sorted(key for key in missing if not key.startswith("pooler.") and not key.endswith(NOT_WEIGHTS))
    if lacking:
        raise ConfigError(f"{where} lacks {len(lacking)} weights, {lacking[0]!r} first, expected all of its encoder's")
    kinds = {re.sub(r"\d+", "*", key) for key in own}
    rooms = tuple({f"{key.split('.')[0]}." for key in own})
    superfluous = sorted(
        key
        for key in unexpected
        if re.sub(r"\d+", "*", key) in kinds or (key.startswith(rooms) and not key.endswith(NOT_WEIGHTS))
    )
    if superfluous:
        raise ConfigError(
            f"{where} has {len(superfluous)} weights, {superfluous[0]!r} first, that its config.json leaves no place "
            "for, expected none"
        )


def roformer_config(foreign: PretrainedConfig) -> RoFormerConfig:
    """Our record of a transformers `RoFormerConfig`.

    Raises:
        ConfigError: an activation that we do not have.
    """
    if foreign.hidden_act not in ("gelu", "relu"):
        raise ConfigError(f"hidden_act: found {foreign.hidden_act!r}, expected 'gelu' or 'relu'")
    return RoFormerConfig(
        vocab_size=foreign.vocab_size,
        embedding_size=foreign.embedding_size,
        hidden_size=foreign.hidden_size,
        num_layers=foreign.num_hidden_layers,
        num_heads=foreign.num_attention_heads,
        intermediate_size=foreign.intermediate_size,
        activation=foreign.hidden_act,
        dropout=foreign.hidden_dropout_prob,
        attention_dropout=foreign.attention_probs_dropout_prob,
        num_token_types=foreign.type_vocab_size,
        layer_norm_eps=foreign.layer_norm_eps,
        rotary_value=foreign.rotary_value,
    )


def roformer_weights(foreign: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a transformers `RoFormerModel` under the names of our `RoFormer`.

    Raises:
        ConfigError: a weight that neither has a place with us nor is known to be none.
    """
    weights: dict[str, Tensor] = {}
    for name, tensor in foreign.items():
        if name in EMBEDDING_NAMES:
            weights[EMBEDDING_NAMES[name]] = tensor
        elif name.startswith("encoder.layer."):
            index, part = name.removeprefix("encoder.layer.").split(".", 1)
            stem, kind = part.rsplit(".", 1)
            if stem in LAYER_NAMES:
                weights[f"layers.{index}.{LAYER_NAMES[stem]}.{kind}"] = tensor
            elif stem not in QUERY_KEY_VALUE:
                raise ConfigError(f"found weight {name!r}, expected those of RoFormerModel")
        elif not name.endswith(NOT_WEIGHTS):
            raise ConfigError(f"found weight {name!r}, expected those of RoFormerModel")
    num_layers = 1 + max((int(name.split(".")[2]) for name in foreign if name.startswith("encoder.layer.")), default=-1)
    for layer in range(num_layers):
        for kind in ("weight", "bias"):
            parts = [foreign[f"encoder.layer.{layer}.{part}.{kind}"] for part in QUERY_KEY_VALUE]
            weights[f"layers.{layer}.attention.query_key_value.{kind}"] = torch.cat(parts)
    return weights
