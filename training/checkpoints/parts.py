"""Parts of a foreign encoder: the layers and the rows of the vocabulary that stay, and the scale of what it gives.

Knows BERT under transformers' names and RoFormer under ours; reads no file.
Shapes: L tokens, N tokens of all texts, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from ner_service.errors import ConfigError
from ner_service.model.batch import pad
from ner_service.model.config import HuggingFaceConfig, RoFormerConfig, longest_text
from ner_service.model.encoders import Encoder, build_encoder
from ner_service.text.tokenizer import TextTokenizer
from training.checkpoints.huggingface import ForeignEncoder

_TEXTS_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """Where an architecture keeps its parts; `norm` is the LayerNorm that ends a layer."""

    words: str
    layers: str
    norm: str


_ROFORMER = _Names(words="token_embedding.weight", layers="layers.", norm="feed_norm")
_BERT = _Names(words="model.embeddings.word_embeddings.weight", layers="model.encoder.layer.", norm="output.LayerNorm")


def num_layers(foreign: ForeignEncoder) -> int:
    """How many layers it has."""
    names = _names(foreign)
    rest = (name.removeprefix(names.layers) for name in foreign.weights if name.startswith(names.layers))
    return 1 + max((int(name.split(".")[0]) for name in rest), default=-1)


def num_rows(foreign: ForeignEncoder) -> int:
    """How many tokens it has an embedding for."""
    return len(foreign.weights[_names(foreign).words])


def keep_layers(foreign: ForeignEncoder, layers: Sequence[int]) -> ForeignEncoder:
    """The encoder with these of its layers, counted from 1.

    Raises:
        ConfigError: a layer that it does not have, or layers that do not grow.
    """
    names, there = _names(foreign), num_layers(foreign)
    if not layers or list(layers) != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] <= there:
        raise ConfigError(f"layers: found {list(layers)}, expected some of 1 to {there}, in order and each once")
    places = {layer - 1: place for place, layer in enumerate(layers)}
    weights = {}
    for name, tensor in foreign.weights.items():
        if not name.startswith(names.layers):
            weights[name] = tensor
            continue
        layer, part = name.removeprefix(names.layers).split(".", 1)
        if int(layer) in places:
            weights[f"{names.layers}{places[int(layer)]}.{part}"] = tensor
    cut = _with(foreign, roformer={"num_layers": len(layers)}, bert={"num_hidden_layers": len(layers)})
    return replace(cut, weights=weights)


def keep_rows(foreign: ForeignEncoder, tokenizer: TextTokenizer, token_ids: Sequence[int]) -> ForeignEncoder:
    """The encoder with these tokens' embeddings, in this order, and the tokenizer whose ids they are."""
    words = _names(foreign).words
    size = {"vocab_size": len(token_ids)}
    kept = _with(foreign, roformer=size, bert={**size, "pad_token_id": tokenizer.pad_id})
    weights = {**foreign.weights, words: foreign.weights[words][list(token_ids)]}
    return replace(kept, weights=weights, tokenizer=tokenizer)


@torch.no_grad()
def standardise(foreign: ForeignEncoder, texts: Sequence[str], max_tokens: int) -> ForeignEncoder:
    """The encoder with its last LayerNorm such that each dimension of its hidden states has mean 0 and deviation 1.

    Measured over all tokens of the texts, each cut as in `hidden_states`. Only the LayerNorm's gain and bias change.

    Raises:
        ConfigError: a dimension that is the same everywhere.
    """
    hidden_ND = torch.cat(hidden_states(foreign, texts, max_tokens)).double()
    mean_D, deviation_D = hidden_ND.mean(dim=0), hidden_ND.std(dim=0, correction=0)
    if not (deviation_D > 0).all():
        raise ConfigError(f"found {len(texts)} texts that leave a hidden dimension as it is, expected more texts")
    names = _names(foreign)
    norm = f"{names.layers}{num_layers(foreign) - 1}.{names.norm}"
    gain_D, bias_D = foreign.weights[f"{norm}.weight"], foreign.weights[f"{norm}.bias"]
    scaled = {
        f"{norm}.weight": (gain_D / deviation_D).to(gain_D.dtype),
        f"{norm}.bias": ((bias_D - mean_D) / deviation_D).to(bias_D.dtype),
    }
    return replace(foreign, weights={**foreign.weights, **scaled})


@torch.no_grad()
def hidden_states(foreign: ForeignEncoder, texts: Sequence[str], max_tokens: int) -> list[Tensor]:
    """The last hidden states [L, D] of each text, special tokens among them.

    Texts are cut to `max_tokens`, or to what the encoder can read if that is less.
    """
    longest = longest_text(foreign.config)
    length = max_tokens if longest is None else min(max_tokens, longest)
    module = build_encoder(foreign.config)
    module.load_state_dict(foreign.weights)
    encoder = cast(Encoder, module.eval())
    token_ids = [encoding.token_ids[:length] for encoding in foreign.tokenizer.encode_batch(texts)]
    states = []
    for start in range(0, len(token_ids), _TEXTS_AT_ONCE):
        batch = pad(token_ids[start : start + _TEXTS_AT_ONCE], foreign.tokenizer.pad_id)
        states += batch.texts(encoder(batch))
    return states


def _names(foreign: ForeignEncoder) -> _Names:
    config = foreign.config
    if isinstance(config, RoFormerConfig):
        return _ROFORMER
    if isinstance(config, HuggingFaceConfig) and config.model_type == "bert":
        return _BERT
    found = config.model_type if isinstance(config, HuggingFaceConfig) else config.kind
    raise ConfigError(f"found an encoder of type {found!r}, expected 'bert' or 'roformer' to change its parts")


def _with(foreign: ForeignEncoder, *, roformer: dict[str, int], bert: dict[str, int]) -> ForeignEncoder:
    """The encoder with other values in its configuration."""
    config = foreign.config
    if isinstance(config, RoFormerConfig):
        return replace(foreign, config=replace(config, **roformer))  # type: ignore[arg-type]
    assert isinstance(config, HuggingFaceConfig), "_names knows no third kind"
    return replace(foreign, config=replace(config, config={**config.config, **bert}))
