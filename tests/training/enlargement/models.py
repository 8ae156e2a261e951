"""Small models of every kind that can grow, with every head, all their weights random and in double precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ner_service.bundle import Bundle, Manifest
from ner_service.model.batch import Batch, pad
from ner_service.model.config import (
    EmbeddingConfig,
    HeadConfig,
    Heads,
    LanguageModelConfig,
    LatentConfig,
    ModelConfig,
    RoFormerConfig,
    RoFormerV2Config,
)
from ner_service.model.rotary_encoder import RotaryEncoder
from ner_service.model.text_model import TextModel
from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import WindowLimits
from training.data.tokenizer_training import train_tokenizer
from training.enlargement.width import hidden_scale, known_encoder

LABELS = ("PER", "LOC")
TEXTS = (
    "Ada Lovelace wrote to Charles Babbage in London.",
    "李雷和韩梅梅在北京大学读书。",
    "The mayor met Bo.",
    "上海市的王医生去了广州。",
)
TOKENIZER: TextTokenizer = train_tokenizer(TEXTS, vocab_size=300, min_frequency=1)

ROFORMER = RoFormerConfig(
    vocab_size=TOKENIZER.vocab_size, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=12
)
ENCODERS: dict[str, RoFormerConfig | RoFormerV2Config] = {
    "roformer": ROFORMER,
    "factorised": replace(ROFORMER, embedding_size=6),
    "relu": replace(ROFORMER, activation="relu"),
    "rotary_value": replace(ROFORMER, rotary_value=True),
    "one_type": replace(ROFORMER, num_token_types=1),
    "two_axes": replace(ROFORMER, num_axes=2),
    "roformer_v2": RoFormerV2Config(
        vocab_size=TOKENIZER.vocab_size, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=12
    ),
}
SPANS = Heads(spans=HeadConfig(head_size=4))
EVERY_HEAD = Heads(
    spans=HeadConfig(head_size=4),
    embedding=EmbeddingConfig(size=6),
    language_model=LanguageModelConfig(),
    latent=LatentConfig(num_latents=1, size=4, posterior="gaussian"),
)


def heads_for(encoder: RoFormerConfig | RoFormerV2Config) -> Heads:
    """Every head that goes with an encoder: codes are written with a second token type."""
    return EVERY_HEAD if encoder.num_token_types > 1 else replace(EVERY_HEAD, latent=None)


def bundle_of(encoder: RoFormerConfig | RoFormerV2Config, heads: Heads, seed: int = 0) -> Bundle:
    """A bundle in which no weight has a value that hides a fault: gains are not 1, biases not 0."""
    config = ModelConfig(encoder=encoder, heads=heads)
    labels = LABELS if heads.spans else ()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = TextModel(config, len(labels)).double().state_dict()
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                tensor.normal_(std=0.4)
            if tensor.dim() == 1 and ("norm.weight" in name or "running_var" in name):
                tensor.abs_().add_(0.5)
    manifest = Manifest(
        name="small",
        labels=labels,
        model=config,
        window=WindowLimits(max_tokens=24, overlap_tokens=8),
        thresholds=dict.fromkeys(labels, 0.6),
    )
    return Bundle(manifest=manifest, tokenizer=TOKENIZER, weights=weights)


def model_of(bundle: Bundle) -> TextModel:
    """The bundle's model in evaluation, in the precision of its weights."""
    model = TextModel(bundle.manifest.model, len(bundle.manifest.labels)).to(precision_of(bundle))
    model.load_state_dict(bundle.weights)
    return model.eval()


def precision_of(bundle: Bundle) -> torch.dtype:
    return bundle.weights["encoder.token_embedding.weight"].dtype


def in_precision(bundle: Bundle, dtype: torch.dtype) -> Bundle:
    weights = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in bundle.weights.items()
    }
    return replace(bundle, weights=weights)


def with_encoder(bundle: Bundle, **changes: object) -> Bundle:
    """The same weights under another configuration of the encoder."""
    encoder = replace(known_encoder(bundle.manifest.model.encoder), **changes)  # type: ignore[arg-type]
    model = replace(bundle.manifest.model, encoder=encoder)
    return replace(bundle, manifest=replace(bundle.manifest, model=model))


def with_weights(bundle: Bundle, word: str, factor: float) -> Bundle:
    """The bundle with all weights whose name contains a word times a factor."""
    names = [name for name in bundle.weights if word in name]
    assert names
    return replace(bundle, weights={**bundle.weights, **{name: bundle.weights[name] * factor for name in names}})


def random_batches(bundle: Bundle, longest: int = 9) -> Iterator[Batch]:
    """Random ids of every length from 1 to `longest`, padded, without segments and with both."""
    generator = torch.Generator().manual_seed(1)
    vocab_size = bundle.tokenizer.vocab_size
    texts = [torch.randint(vocab_size, (length,), generator=generator).tolist() for length in range(1, longest + 1)]
    plain = pad(texts, bundle.tokenizer.pad_id)
    yield plain
    if known_encoder(bundle.manifest.model.encoder).num_token_types > 1:
        yield replace(plain, segment_BL=torch.randint(2, plain.token_ids_BL.shape, generator=generator))


def hidden_of(bundle: Bundle, batch: Batch) -> Tensor:
    """Hidden states [N, D] of all tokens that are no padding."""
    with torch.no_grad():
        hidden_BLD: Tensor = model_of(bundle).encoder(batch)
    return hidden_BLD[batch.valid_BL()]


def hidden_error(small: Bundle, large: Bundle) -> float:
    """How far the wide hidden states are from the narrow ones, k times over, in the scale of the narrow ones (B-1)."""
    errors = []
    for batch in random_batches(small):
        narrow_ND, wide_NW = hidden_of(small, batch), hidden_of(large, batch)
        factor = wide_NW.shape[1] // narrow_ND.shape[1]
        scale = hidden_scale(known_encoder(small.manifest.model.encoder), factor)
        errors.append(float((wide_NW / scale - narrow_ND.repeat(1, factor)).abs().max()))
    return max(errors)


def layers_of(model: TextModel) -> list[torch.nn.Module]:
    return list(cast(RotaryEncoder, model.encoder).layers)
