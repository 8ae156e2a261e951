"""Runs small enough to be trained in a test: the sample of `ner-train init`, shrunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ner_service.bundle import Bundle
from ner_service.formats import write_documents
from ner_service.model.config import HeadConfig, Heads, ModelConfig, RoFormerConfig
from ner_service.types import Document, Entity, LabelSet, WindowLimits
from training.cells import is_unknown
from training.config import BatchConfig, DataConfig, ModelSection, RunConfig, SourceConfig, load_run
from training.data.sources import Corpus
from training.data.targets import Example
from training.data.tokenizer_training import train_tokenizer
from training.preparation import Setup, prepare
from training.sample import sample_documents, write_sample

SMALL = (
    "device=cpu",
    "epochs=2",
    "data.join=0.0",
    "tokenizer.vocab_size=400",
    "model.encoder.hidden_size=32",
    "model.encoder.num_layers=1",
    "model.encoder.num_heads=2",
    "model.encoder.intermediate_size=64",
    "model.head.head_size=16",
    "batch.tokens=256",
    "objectives={}",
    "regularisation={}",
)
NO_DROPOUT = ("model.encoder.dropout=0.0", "model.encoder.attention_dropout=0.0")


def write_run(folder: Path, num_train: int = 48, num_dev: int = 12) -> Path:
    """What `ner-train init` writes, with fewer documents; the path of the run."""
    run = write_sample(folder)
    documents = sample_documents(num_train + num_dev)
    write_documents(documents[:num_train], folder / "train.jsonl")
    write_documents(documents[num_train:], folder / "dev.jsonl")
    return run


def set_options(*settings: str) -> list[str]:
    """`--set` options of a small run, with more settings after them."""
    return [part for setting in (*SMALL, *settings) for part in ("--set", setting)]


def small_setup(folder: Path, *settings: str) -> Setup:
    """A small run, prepared. `folder` holds what `write_run` wrote."""
    return prepare(load_run(folder / "run.toml", [*SMALL, *settings]), folder, folder)


def setup_of(
    documents: Sequence[Document],
    labels: Sequence[str],
    head: HeadConfig | None = None,
    window: WindowLimits | None = None,
    batch_tokens: int = 256,
) -> Setup:
    """A setup around documents in memory: one layer of 16 without dropout."""
    head = head or HeadConfig(head_size=8)
    tokenizer = train_tokenizer([document.text for document in documents], vocab_size=400, min_frequency=1)
    encoder = RoFormerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        intermediate_size=32,
        dropout=0.0,
        attention_dropout=0.0,
    )
    run = RunConfig(
        name="small",
        data=DataConfig(train=(SourceConfig(path="in memory"),)),
        model=ModelSection(encoder={"kind": "roformer"}, head=head),
        window=window or WindowLimits(),
        batch=BatchConfig(tokens=batch_tokens),
    )
    corpus = Corpus(labels=LabelSet(labels), train=tuple(documents), dev=tuple(documents), sha256="")
    config = ModelConfig(encoder=encoder, heads=Heads(spans=head))
    return Setup(run=run, corpus=corpus, tokenizer=tokenizer, config=config, weights={})


def is_left_out(document: Document, example: Example, label: str, first: int, last: int) -> bool:
    """Whether a cell of a document's one window is neither present nor absent, by the rule over the document."""
    (start, first_end), (last_start, end) = example.encoding.offsets[first], example.encoding.offsets[last]
    is_special = start == first_end or last_start == end
    return not is_special and is_unknown(Entity(start, end, label), document)


def encoder_bundle(setup: Setup) -> Bundle:
    """The encoder of a run at its start, without heads."""
    whole = setup.bundle(setup.build_model().state_dict(), {})
    model = replace(whole.manifest.model, heads=Heads())
    manifest = replace(whole.manifest, labels=(), thresholds={}, model=model)
    weights = {name: tensor for name, tensor in whole.weights.items() if name.startswith("encoder.")}
    return replace(whole, manifest=manifest, weights=weights)
