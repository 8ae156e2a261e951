"""A run's configuration -> its labels, documents, tokenizer and model: everything that stands before the first step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ner_service.bundle import Bundle, Manifest
from ner_service.bundle.manifest import MANIFEST
from ner_service.errors import ConfigError
from ner_service.model.config import (
    EmbeddingConfig,
    EncoderConfig,
    Heads,
    LanguageModelConfig,
    ModelConfig,
    RoFormerConfig,
    RoFormerV2Config,
)
from ner_service.model.text_model import TextModel
from ner_service.recognizer import Recognizer, check_window
from ner_service.records import structure, unstructure
from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import LabelSet
from training.checkpoints.huggingface import load_checkpoint
from training.config import RunConfig
from training.data.sources import Corpus, read_corpus
from training.data.targets import Unrepresentable, encode_documents
from training.data.tokenizer_training import train_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What a run starts from, and its heads: `kept` came along with the encoder, `anew` are of the run alone or differ
    from those there, `left` are there alone.
    """

    name: str
    kept: tuple[str, ...]
    anew: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A run that is ready to start.

    `weights` are those it starts from, by our names; empty from random, and then `started` is None. Relative paths of
    bundles count from `folder`.
    """

    run: RunConfig
    corpus: Corpus
    tokenizer: TextTokenizer
    config: ModelConfig
    weights: Mapping[str, Tensor]
    folder: Path = Path()
    started: Started | None = None

    def build_model(self) -> TextModel:
        """The model at the start of the run, with what it has in common with the one it starts from."""
        torch.manual_seed(self.run.seed)
        model = TextModel(self.config, len(self.corpus.labels))
        missing, unknown = model.load_state_dict(self.weights, strict=False)
        if unknown or any(name.startswith("encoder.") for name in missing if self.weights):
            raise ConfigError(f"model.start_from: weights do not fit: unknown {unknown}, missing {missing}")
        return model

    def manifest(self, metrics: Mapping[str, object]) -> Manifest:
        """What the run's bundle says of itself."""
        return Manifest(
            name=self.run.name,
            description=self.run.description,
            licence=self.run.licence,
            labels=self.corpus.labels.names,
            model=self.config,
            window=self.run.window,
            thresholds=dict.fromkeys(self.corpus.labels, 0.5),
            metrics=metrics,
            data_sha256=self.corpus.sha256,
            run=unstructure(self.run),
        )

    def bundle(self, weights: dict[str, Tensor], metrics: Mapping[str, object]) -> Bundle:
        return Bundle(manifest=self.manifest(metrics), tokenizer=self.tokenizer, weights=weights)

    def recognizer(self, model: nn.Module) -> Recognizer:
        """A recognizer with the model's present weights, as the service would load them."""
        device = next(model.parameters()).device
        return Recognizer(self.bundle(model.state_dict(), {}), device)

    def identity(self) -> dict[str, object]:
        """What tells runs apart that may not resume each other: the run's values, and digests of what it read."""
        # A manifest holds the digests of the teacher's other files.
        teachers = {
            f"objectives.{name}.teacher": _sha256((self.folder / teacher / MANIFEST).read_text(encoding="utf-8"))
            for name in ("similarity", "distillation")
            if (teacher := getattr(getattr(self.run.objectives, name), "teacher", None))
        }
        return {
            **unstructure(self.run),
            "encoder": unstructure(self.config.encoder),
            "sha256": {"data": self.corpus.sha256, "tokenizer": _sha256(self.tokenizer.to_json()), **teachers},
        }

    def unrepresentable(self) -> list[Unrepresentable]:
        """Gold entities, of train and dev, that the model can never predict."""
        documents = (*self.corpus.train, *self.corpus.dev)
        return encode_documents(documents, self.tokenizer, self.run.window, self.corpus.labels)[1]


def prepare(run: RunConfig, folder: Path, data_folder: Path) -> Setup:
    """Read the data, get the tokenizer, settle the model.

    Relative paths count from `folder`, that of the run's file, and those of documents from `data_folder`.

    Raises:
        ConfigError, DataError, BundleError: name what is wrong.
    """
    corpus = read_corpus(run.data, data_folder)
    heads = heads_of(run)
    if run.model.start_from is None:
        tokenizer = _tokenizer(run, corpus, folder)
        encoder = _encoder(run.model.encoder or {}, tokenizer.vocab_size)
        weights: Mapping[str, Tensor] = {}
        started = None
    else:
        tokenizer, encoder, weights, started = _start(run.model.start_from, folder, corpus.labels, heads)
    check_window(run.window, tokenizer, encoder)
    config = ModelConfig(encoder=_with_axes(encoder, run.model.num_axes), heads=heads)
    return Setup(
        run=run, corpus=corpus, tokenizer=tokenizer, config=config, weights=weights, folder=folder, started=started
    )


def heads_of(run: RunConfig) -> Heads:
    """The heads that a run trains, and so those of its bundle."""
    univae, similarity, masked = (
        run.objectives.univae,
        run.objectives.similarity,
        run.objectives.masked_language_model,
    )
    writes = univae or masked or (similarity and similarity.writes)
    return Heads(
        spans=run.model.head if run.data.train else None,
        embedding=EmbeddingConfig(size=similarity.size) if similarity else None,
        language_model=LanguageModelConfig() if writes else None,
        latent=univae.latent if univae else None,
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _tokenizer(run: RunConfig, corpus: Corpus, folder: Path) -> TextTokenizer:
    config = run.tokenizer
    if config.file is not None:
        return _read_tokenizer(folder / config.file)
    texts = [*(document.text for document in corpus.train), *corpus.raw.tokenizer_texts()]
    return train_tokenizer(texts, vocab_size=config.vocab_size, min_frequency=config.min_frequency)


def _read_tokenizer(path: Path) -> TextTokenizer:
    try:
        return TextTokenizer.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"tokenizer.file: {path}: not found; expected a tokenizer.json") from None
    except (UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"tokenizer.file: {path}: {error}") from error


def _encoder(table: Mapping[str, object], vocab_size: int) -> EncoderConfig:
    if "kind" not in table:
        kinds = [repr(kind.__dataclass_fields__["kind"].default) for kind in get_args(EncoderConfig)]
        raise ConfigError(f"model.encoder.kind: missing; expected one of {', '.join(kinds)}")
    if table["kind"] == "huggingface":
        table = {**table, "config": {**dict(table.get("config", {})), "vocab_size": vocab_size}}  # type: ignore[call-overload]
    else:
        table = {**table, "vocab_size": vocab_size}
    return structure(EncoderConfig, table, "model.encoder")  # type: ignore[arg-type]


def _with_axes(encoder: EncoderConfig, num_axes: Literal[1, 2] | None) -> EncoderConfig:
    """The encoder with so many axes, its own where none is asked for; its weights fit either number."""
    if num_axes is None:
        return encoder
    if not isinstance(encoder, RoFormerConfig | RoFormerV2Config):
        expected = "expected an encoder with rotary positions: 'roformer' or 'roformer_v2'"
        raise ConfigError(f"model.num_axes: found {num_axes} for an encoder {encoder.kind!r}, {expected}")
    try:
        return replace(encoder, num_axes=num_axes)
    except ValueError as error:
        raise ConfigError(f"model.num_axes: {error}") from error


def _start(
    name: str, folder: Path, labels: LabelSet, heads: Heads
) -> tuple[TextTokenizer, EncoderConfig, dict[str, Tensor], Started]:
    """A bundle's encoder, and its heads that are the run's too; or a foreign encoder."""
    if (folder / name / MANIFEST).is_file():
        bundle = Bundle.load(folder / name)
        started = _compare(name, bundle.manifest, labels, heads)
        kept = {"encoder", *started.kept}
        weights = {key: value for key, value in bundle.weights.items() if key.split(".")[0] in kept}
        return bundle.tokenizer, bundle.manifest.model.encoder, weights, started
    if _is_path(name, folder) and not (folder / name).exists():
        counted, here = (folder / name).absolute(), Path(name).absolute()
        hint = "" if counted == here else f"; a relative path counts from the run's folder, not from here: {here}"
        raise ConfigError(f"model.start_from: found nothing at {counted}, expected a bundle or a checkpoint{hint}")
    foreign = load_checkpoint(str(folder / name) if (folder / name).is_dir() else name)
    weights = {f"encoder.{key}": value for key, value in foreign.weights.items()}
    started = Started(name=name, kept=(), anew=_present(heads), left=())
    return foreign.tokenizer, foreign.config, weights, started


def _compare(name: str, manifest: Manifest, labels: LabelSet, heads: Heads) -> Started:
    """Heads come along where they are configured alike; those of spans, where the labels are the same too."""
    ours, theirs = _present(heads), _present(manifest.model.heads)
    alike = {head for head in ours if getattr(manifest.model.heads, head) == getattr(heads, head)}
    if manifest.labels != labels.names:
        alike.discard("spans")
    return Started(
        name=name,
        kept=tuple(head for head in ours if head in alike),
        anew=tuple(head for head in ours if head not in alike),
        left=tuple(head for head in theirs if head not in ours),
    )


def _present(heads: Heads) -> tuple[str, ...]:
    return tuple(head.name for head in fields(Heads) if getattr(heads, head.name) is not None)


def _is_path(name: str, folder: Path) -> bool:
    """Whether a name can be no hub's (`model` or `owner/model`), or begins with a folder, or is something, at hand."""
    if name.startswith((".", "~")) or name.count("/") > 1 or Path(name).is_absolute() or Path(name).exists():
        return True
    return "/" in name and any((root / name).parent.is_dir() for root in (folder, Path()))
