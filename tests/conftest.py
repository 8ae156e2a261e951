"""A tiny model with random weights, for tests that need a bundle but not a good one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from hypothesis import HealthCheck, settings

from ner_service.bundle import Bundle, Manifest
from ner_service.model.config import EmbeddingConfig, HeadConfig, Heads, ModelConfig, RoFormerConfig
from ner_service.model.text_model import TextModel
from ner_service.types import WindowLimits
from training.data.tokenizer_training import train_tokenizer

SENTENCES = (
    "Ada Lovelace wrote to Charles Babbage in London.",
    "The University of Manchester opened a new laboratory in May.",
    "李雷和韩梅梅在北京大学读书。",
    "上海市第一人民医院的王医生去了广州。",
)
LABELS = ("PER", "ORG", "LOC")

# A loaded machine is no failure: nothing here is timed.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Sums are taken in one order, and tests that run side by side do not fight for cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps its settings for the life of a process; a test must not inherit those of another."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def tiny_bundle() -> Bundle:
    """2 layers of 32, labels PER, ORG and LOC, windows of 32 tokens; about one span in twenty is an entity."""
    tokenizer = train_tokenizer(SENTENCES, vocab_size=300, min_frequency=1)
    config = ModelConfig(
        encoder=RoFormerConfig(
            vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64
        ),
        heads=Heads(spans=HeadConfig(head_size=16)),
    )
    manifest = Manifest(
        name="tiny",
        labels=LABELS,
        model=config,
        window=WindowLimits(max_tokens=32, overlap_tokens=8),
        thresholds=dict.fromkeys(LABELS, 0.5),
    )
    return Bundle(manifest=manifest, tokenizer=tokenizer, weights=_random_weights(config))


@pytest.fixture(scope="session")
def tiny_embedding_bundle(tiny_bundle: Bundle) -> Bundle:
    """`tiny_bundle` with an embedding head of 24 in place of its labels."""
    config = replace(tiny_bundle.manifest.model, heads=Heads(embedding=EmbeddingConfig(size=24)))
    manifest = replace(tiny_bundle.manifest, name="vectors", labels=(), thresholds={}, model=config)
    return Bundle(manifest=manifest, tokenizer=tiny_bundle.tokenizer, weights=_random_weights(config, num_labels=0))


@pytest.fixture(scope="session")
def tiny_two_headed_bundle(tiny_bundle: Bundle) -> Bundle:
    """`tiny_bundle` with an embedding head of 24 beside its spans."""
    heads = replace(tiny_bundle.manifest.model.heads, embedding=EmbeddingConfig(size=24))
    config = replace(tiny_bundle.manifest.model, heads=heads)
    manifest = replace(tiny_bundle.manifest, name="both", model=config)
    return Bundle(manifest=manifest, tokenizer=tiny_bundle.tokenizer, weights=_random_weights(config))


@pytest.fixture(scope="session")
def tiny_bundle_folder(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_bundle` saved; not to be altered."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    tiny_bundle.save(folder)
    return folder


def _random_weights(config: ModelConfig, num_labels: int = len(LABELS)) -> dict[str, torch.Tensor]:
    """Weights wide enough that scores differ by whole logits, and terms low enough that most spans are none."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = TextModel(config, num_labels).state_dict()
        for tensor in weights.values():
            if tensor.dim() == 2:
                tensor.normal_(std=0.3)
        if config.heads.spans:
            weights["spans.terms.bias"].fill_(-2.0)
    return weights
