"""A model that has learnt a few pairs of sentences by heart, under UniLM's mask."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch.nn import functional

from ner_service.bundle import Bundle, Manifest
from ner_service.model.batch import UniLMMask, pad_pairs
from ner_service.model.config import (
    EmbeddingConfig,
    EncoderConfig,
    Heads,
    LanguageModelConfig,
    ModelConfig,
    RoFormerConfig,
)
from ner_service.model.text_model import TextModel
from ner_service.recognizer import Recognizer
from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import WindowLimits
from training.data.tokenizer_training import train_tokenizer

PAIRS = (
    ("Ada Park lives in Leeds.", "Leeds is where Ada Park has her home."),
    ("李雷住在西安。", "西安是李雷的家。"),
    ("南京大学请王芳讲课。", "王芳到南京大学去讲课。"),
    ("Tom works for the Bank of Oslo.", "The Bank of Oslo pays Tom."),
)
HEADS = Heads(embedding=EmbeddingConfig(size=16), language_model=LanguageModelConfig())


def small_encoder(vocab_size: int) -> RoFormerConfig:
    """Two layers of 32, no dropout."""
    return RoFormerConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        intermediate_size=64,
        dropout=0.0,
        attention_dropout=0.0,
    )


@cache
def small_tokenizer() -> TextTokenizer:
    """It knows every character of `PAIRS`."""
    return train_tokenizer([text for pair in PAIRS for text in pair], vocab_size=300, min_frequency=1)


def random_model(encoder: EncoderConfig, heads: Heads = HEADS, std: float = 0.3) -> TextModel:
    """Weights wide enough that what is drawn depends on what was read."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TextModel(ModelConfig(encoder=encoder, heads=heads), 0)
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=std)
    return model.eval()


def writer(model: TextModel, tokenizer: TextTokenizer | None = None) -> Recognizer:
    """A model without labels, as it is loaded from a bundle."""
    window = WindowLimits(max_tokens=32, overlap_tokens=8)
    manifest = Manifest(name="writer", labels=(), model=model.config, thresholds={}, window=window)
    bundle = Bundle(manifest=manifest, tokenizer=tokenizer or small_tokenizer(), weights=model.state_dict())
    return Recognizer(bundle, torch.device("cpu"))


@cache
def bundle_of_pairs() -> Bundle:
    """What has learnt `PAIRS`."""
    tokenizer = small_tokenizer()
    model = random_model(small_encoder(tokenizer.vocab_size), std=0.02).train()
    _learn(model, tokenizer, PAIRS)
    window = WindowLimits(max_tokens=32, overlap_tokens=8)
    manifest = Manifest(name="writer", labels=(), model=model.config, thresholds={}, window=window)
    return Bundle(manifest=manifest, tokenizer=tokenizer, weights=model.state_dict())


def paraphraser() -> Recognizer:
    """A recognizer that has learnt `PAIRS`."""
    return Recognizer(bundle_of_pairs(), torch.device("cpu"))


def _learn(model: TextModel, tokenizer: TextTokenizer, pairs: Sequence[tuple[str, str]], num_steps: int = 90) -> None:
    """Each sentence of a pair is written for the other: next-token cross-entropy over the target."""
    assert model.language_model is not None
    rows = [
        (tokenizer.encode(source).token_ids, (*tokenizer.encode(target).token_ids[1:],))
        for pair in pairs
        for source, target in (pair, pair[::-1])
    ]
    batch = pad_pairs(rows, tokenizer.pad_id)
    assert isinstance(batch.mask, UniLMMask)
    wanted_BL = batch.mask.segment_BL[:, 1:].bool()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(num_steps):
        optimizer.zero_grad()
        hidden_ND = model.encoder(batch)[:, :-1][wanted_BL]
        logits_NV = model.language_model(hidden_ND, model.encoder.token_embedding.weight)  # type: ignore[union-attr]
        functional.cross_entropy(logits_NV, batch.token_ids_BL[:, 1:][wanted_BL]).backward()
        optimizer.step()
