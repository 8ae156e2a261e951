"""One run as frozen records: TOML in, unknown keys refused, the resolved run saved into the bundle. Knows no tensor."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ner_service.errors import ConfigError
from ner_service.model.config import HeadConfig
from ner_service.records import structure
from ner_service.types import WindowLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """A file of annotated documents.

    `labels` renames the file's labels; where it is given, labels that it does not name are dropped. `annotated` names
    the labels (after renaming) that the annotators looked for; left out, those that `labels` maps to, or else all.
    `flat` says that only outermost mentions are annotated: what lies inside a mention of another label is no negative.
    `where` keeps the documents whose metadata has one of the listed values.
    """

    path: str
    format: str = "auto"
    labels: Mapping[str, str] | None = None
    annotated: tuple[str, ...] | None = None
    flat: bool = False
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Training documents and, for early stopping and the report, dev documents.

    Without `dev`, `dev_fraction` of the training texts, chosen by a hash of the text, are kept for it. `labels` fixes
    the order of labels; left out, they are those of the training documents, sorted. `join` is the share of training
    documents that each epoch lays together into longer ones.
    """

    train: tuple[SourceConfig, ...]
    dev: tuple[SourceConfig, ...] = ()
    dev_fraction: float = 0.1
    labels: tuple[str, ...] | None = None
    join: float = 0.0

    def __post_init__(self) -> None:
        _check("dev_fraction", self.dev_fraction, 0.0 <= self.dev_fraction < 1.0, "0 to below 1")
        _check("join", self.join, 0.0 <= self.join <= 1.0, "0 to 1")
        labels = self.labels or ()
        _check("labels", labels, len(set(labels)) == len(labels), "every label once")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """A tokenizer to train on the training texts, or `file`, a `tokenizer.json`."""

    vocab_size: int = 8000
    min_frequency: int = 2
    file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSection:
    """The encoder as `ner_service.model.config` names it, less `vocab_size`; or `start_from`: a bundle, a folder or a
    hub name of a Hugging Face checkpoint, which brings encoder, weights and tokenizer along.
    """

    encoder: Mapping[str, object] | None = None
    start_from: str | None = None
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        if (self.encoder is None) == (self.start_from is None):
            raise ValueError("expected either `encoder` or `start_from`")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule. The head has a learning rate of its own; biases, norms and embeddings do not decay."""

    lr: float = 5e-4
    head_lr: float = 1e-3
    weight_decay: float = 0.01
    schedule: Literal["linear", "cosine"] = "linear"
    warmup_fraction: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        _check("warmup_fraction", self.warmup_fraction, 0.0 <= self.warmup_fraction < 1.0, "0 to below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """Tokens of a batch with its padding, and how many batches make one step (over all processes)."""

    tokens: int = 2048
    accumulate: int = 1

    def __post_init__(self) -> None:
        _check("tokens", self.tokens, self.tokens >= 1, "1 or more")
        _check("accumulate", self.accumulate, self.accumulate >= 1, "1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """A complete run. `patience` is the number of epochs without a better dev F1 after which it stops early."""

    name: str
    description: str = ""
    licence: str | None = None
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    epochs: int = 10
    patience: int | None = None
    data: DataConfig
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelSection
    window: WindowLimits = field(default_factory=WindowLimits)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        _check("epochs", self.epochs, self.epochs >= 1, "1 or more")


def load_run(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run; `overrides` are like `optimizer.lr=2e-5`, with TOML values.

    Raises:
        ConfigError: names file and key, what was found and what was expected.
    """
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: not found; expected a run in TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    for override in overrides:
        _override(value, override)
    try:
        return structure(RunConfig, value)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _check(name: str, found: object, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"{name}: found {found}, expected {expected}")


def _override(value: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: expected KEY=VALUE")
    try:
        new = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        new = text
    *parents, last = dotted.strip().split(".")
    table: Any = value
    for key in parents:
        table = _step(table, key, override)
    table[_index(table, last, override)] = new


def _step(table: Any, key: str, override: str) -> Any:
    """The table or list at `key`; a table that is not there yet is made."""
    child = table[_index(table, key, override)] if isinstance(table, list) else table.setdefault(key, {})
    if not isinstance(child, dict | list):
        raise ConfigError(f"--set {override}: found {child!r} at {key}, expected a table")
    return child


def _index(table: Any, key: str, override: str) -> Any:
    """The key of a table, or the number of a list's item."""
    if not isinstance(table, list):
        return key
    if not key.isdecimal() or int(key) >= len(table):
        raise ConfigError(f"--set {override}: found item {key!r}, expected a number from 0 to {len(table) - 1}")
    return int(key)
