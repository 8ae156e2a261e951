"""One run as frozen records: TOML in, unknown keys refused, the resolved run saved into the bundle. Knows no tensor."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ner_service.errors import ConfigError
from ner_service.model.config import HeadConfig, LatentConfig
from ner_service.records import structure
from ner_service.types import LABEL, PageOrder, WindowLimits, is_label

NUM_SEEDS = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """A file of annotated documents.

    `labels` renames the file's labels; where it is given, labels that it does not name are dropped. `annotated` names
    the labels (after renaming) that the annotators looked for; left out, those that `labels` maps to, or else all.
    `flat` says that only outermost mentions are annotated: what lies inside a mention of another label is no negative.
    `where` keeps the documents whose metadata has one of the listed values. `part` keeps those whose text a hash puts
    between two shares: [0.0, 0.9] and [0.9, 1.0] make two files of one. `inner` adds silver entities to training
    documents: inside mentions of each label that it names, names that the file knows for the labels listed there.
    `order` is that of a page's words: by their boxes, as the service reads them, or as given. The order of annotation
    often follows the mentions, and so tells where they are.
    """

    path: str
    format: str = "auto"
    labels: Mapping[str, str] | None = None
    annotated: tuple[str, ...] | None = None
    flat: bool = False
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    part: tuple[float, float] = (0.0, 1.0)
    inner: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    order: PageOrder = "reading"

    def __post_init__(self) -> None:
        first, end = self.part
        _check("part", list(self.part), 0.0 <= first < end <= 1.0, "two rising shares from 0 to 1")
        named = {"labels": (self.labels or {}).values(), "annotated": self.annotated or ()}
        for key, label in ((key, label) for key, labels in named.items() for label in labels):
            _check(key, repr(label), is_label(label), LABEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Training documents and, for early stopping and the report, dev documents.

    Without `dev`, `dev_fraction` of the training texts, chosen by a hash of the text, are kept for it. `labels` fixes
    the order of labels; left out, they are those of the training documents, sorted. `join` is the share of training
    documents that each epoch lays together into longer ones.

    `texts` are files of raw text, a paragraph a line, and `pairs` JSONL files of similar sentences, for the objectives
    that need no label; both may be gzipped. Of the texts an epoch reads the next `round_lines` lines. Without `texts`
    the texts are those of the training documents, without these the sentences of the pairs.
    """

    train: tuple[SourceConfig, ...] = ()
    dev: tuple[SourceConfig, ...] = ()
    dev_fraction: float = 0.1
    labels: tuple[str, ...] | None = None
    join: float = 0.0
    texts: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    round_lines: int = 20000

    def __post_init__(self) -> None:
        _check("dev_fraction", self.dev_fraction, 0.0 <= self.dev_fraction < 1.0, "0 to below 1")
        _check("join", self.join, 0.0 <= self.join <= 1.0, "0 to 1")
        _check("round_lines", self.round_lines, self.round_lines >= 1, "1 or more")
        if not (self.train or self.texts or self.pairs):
            raise ValueError("found none of `train`, `texts` and `pairs`, expected something to learn from")
        for name in ("dev", "labels", "join"):
            value = getattr(self, name)
            _check(name, value, bool(self.train or not value), "none without `train`")
        for number, source in enumerate(self.dev):
            _check(f"dev[{number}].inner", dict(source.inner), not source.inner, "none: gold alone is measured by")
        labels = self.labels or ()
        _check("labels", labels, len(set(labels)) == len(labels), "every label once")
        for label in labels:
            _check("labels", repr(label), is_label(label), LABEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """A tokenizer to train on the training texts, or `file`, a `tokenizer.json`."""

    vocab_size: int = 8000
    min_frequency: int = 2
    file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSection:
    """The encoder as `ner_service.model.config` names it, less `vocab_size`; or `start_from`: a bundle, a folder or a
    hub name of a Hugging Face checkpoint, which brings encoder, weights and tokenizer along. `--set model.start_from`
    takes the place of the run's own encoder and tokenizer, so any run can be started from a bundle.

    `num_axes` = 2 makes an encoder with rotary positions read where the words of pages stand, and texts as before; left
    out, the encoder has as many axes as it says, or as it had.
    """

    encoder: Mapping[str, object] | None = None
    start_from: str | None = None
    num_axes: Literal[1, 2] | None = None
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        if (self.encoder is None) == (self.start_from is None):
            found = "neither" if self.encoder is None else "both"
            raise ValueError(f"found {found} of `encoder` and `start_from`, expected one: a start brings its encoder")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW. Learning rates rise for `warmup_fraction` of all steps and then fall to 0, both linearly.

    The head has a learning rate of its own; biases, norms and embeddings do not decay.
    """

    lr: float = 5e-4
    head_lr: float = 1e-3
    weight_decay: float = 0.01
    warmup_fraction: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "head_lr", "weight_decay"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        _check("warmup_fraction", self.warmup_fraction, 0.0 <= self.warmup_fraction < 1.0, "0 to below 1")
        _check("clip_norm", self.clip_norm, self.clip_norm > 0, "above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """Tokens of a batch with its padding, and how many batches make one step (over all processes)."""

    tokens: int = 2048
    accumulate: int = 1

    def __post_init__(self) -> None:
        _check("tokens", self.tokens, self.tokens >= 1, "1 or more")
        _check("accumulate", self.accumulate, self.accumulate >= 1, "1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightConfig:
    """The weight of an objective beside the others: constant, or moving in a straight line to `final_weight`."""

    weight: float = 0.1
    final_weight: float | None = None

    def __post_init__(self) -> None:
        final = self.weight if self.final_weight is None else self.final_weight
        _check("weight", (self.weight, final), self.weight >= 0 and final >= 0, "0 or more")

    def at(self, progress: float) -> float:
        """The weight at `progress` of the run, 0 to 1."""
        final = self.weight if self.final_weight is None else self.final_weight
        return self.weight + (final - self.weight) * progress


@dataclass(frozen=True, slots=True, kw_only=True)
class UniVAEConfig(WeightConfig):
    """Sentences written again from their latent codes. `batch_tokens` bounds the tokens that are encoded at a time."""

    latent: LatentConfig = field(default_factory=lambda: LatentConfig(num_latents=2))
    batch_tokens: int = 512
    max_tokens: int = 64

    def __post_init__(self) -> None:
        WeightConfig.__post_init__(self)
        _check("batch_tokens", self.batch_tokens, self.batch_tokens >= 1, "1 or more")
        _check("max_tokens", self.max_tokens, self.max_tokens >= 1, "1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarityConfig(WeightConfig):
    """RoFormer-Sim: vectors of similar sentences drawn together, and each written from the other.

    Pairs are those of `data.pairs`; without them, with `mine` set, sentences of one paragraph that are at least so
    alike (`training.data.pairs.mine_pairs`); else two views of every sentence. `stage` is what the vectors learn:
    `contrast`, `distillation` of a `teacher` (a bundle with an embedding head), or `supervised` labels of the pairs.
    `generation` is the weight of writing one sentence of a pair from the other; at `noise`, the share of sources with
    words masked or replaced. Contrast is over `batch_pairs` pairs, of which `chunk_pairs` are in memory at a time; its
    softmax has the scale `scale`. A pair has at most twice `max_tokens` tokens. Supervised pairs are read clean and
    nothing is written from them.
    """

    stage: Literal["contrast", "distillation", "supervised"] = "contrast"
    teacher: str | None = None
    mine: float | None = None
    size: int = 128
    scale: float = 20.0
    generation: float = 1.0
    noise: float = 0.5
    batch_pairs: int = 32
    chunk_pairs: int = 32
    max_tokens: int = 64

    def __post_init__(self) -> None:
        WeightConfig.__post_init__(self)
        _check("mine", self.mine, self.mine is None or 0.0 < self.mine <= 1.0, "above 0 and up to 1")
        _check("size", self.size, self.size >= 1, "1 or more")
        _check("scale", self.scale, self.scale > 0, "above 0")
        _check("generation", self.generation, self.generation >= 0, "0 or more")
        _check("noise", self.noise, 0.0 <= self.noise <= 1.0, "0 to 1")
        _check("batch_pairs", self.batch_pairs, self.batch_pairs >= 2, "2 or more")
        _check("chunk_pairs", self.chunk_pairs, self.chunk_pairs >= 1, "1 or more")
        _check("max_tokens", self.max_tokens, self.max_tokens >= 1, "1 or more")
        if (self.stage == "distillation") != (self.teacher is not None):
            raise ValueError(f"stage {self.stage!r}, teacher {self.teacher!r}: expected a teacher to distil from")

    @property
    def writes(self) -> bool:
        """Whether sentences are written, so that the model can write similar ones."""
        return self.generation > 0 and self.stage != "supervised"


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedLanguageModelConfig(WeightConfig):
    """Words hidden and named again; `share` of the tokens are hidden, by whole words."""

    share: float = 0.15
    batch_tokens: int = 1024
    max_tokens: int = 128

    def __post_init__(self) -> None:
        WeightConfig.__post_init__(self)
        _check("share", self.share, 0.0 < self.share < 1.0, "above 0 and below 1")
        _check("batch_tokens", self.batch_tokens, self.batch_tokens >= 1, "1 or more")
        _check("max_tokens", self.max_tokens, self.max_tokens >= 1, "1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationConfig(WeightConfig):
    """The hidden states of a `teacher`, a bundle of the same width, layer by layer; its tokenizer may be another.

    Token embeddings stay as they are where they are the teacher's, token by token; under a vocabulary of its own, such
    as a pruned one, the run learns them. `layers` names the teacher's layer, counted
    from 1, for each of the run's own; left out, they are evenly spread and end with the teacher's last.
    """

    weight: float = 1.0
    teacher: str
    layers: tuple[int, ...] | None = None
    batch_tokens: int = 1024
    max_tokens: int = 128

    def __post_init__(self) -> None:
        WeightConfig.__post_init__(self)
        layers = self.layers
        rising = layers is None or (layers == tuple(sorted(set(layers))) and layers[:1] > (0,))
        _check("layers", layers, rising, "rising numbers from 1 on")
        _check("batch_tokens", self.batch_tokens, self.batch_tokens >= 1, "1 or more")
        _check("max_tokens", self.max_tokens, self.max_tokens >= 1, "1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectivesConfig:
    """What is learnt besides the spans of the training documents; with labels, at a weight of 1, those come first."""

    univae: UniVAEConfig | None = None
    similarity: SimilarityConfig | None = None
    masked_language_model: MaskedLanguageModelConfig | None = None
    distillation: DistillationConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularisationConfig:
    """What is done to each step; 0 is off.

    `r_drop` is R-Drop's alpha: two passes with different dropout should agree. `fgm` is the length of the step that
    moves the token embeddings against the model before a second backward pass. Both touch the spans alone. `ema` is the
    share of the averaged weights that stays from one step to the next; the averaged weights are evaluated and kept.
    """

    r_drop: float = 0.0
    fgm: float = 0.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        _check("r_drop", self.r_drop, self.r_drop >= 0, "0 or more")
        _check("fgm", self.fgm, self.fgm >= 0, "0 or more")
        _check("ema", self.ema, 0.0 <= self.ema < 1.0, "0 to below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """A complete run.

    Dev is measured after every `evaluate_every` epochs and after the last one. `patience` is the number of measures in
    a row without a better dev score after which the run stops early. `bf16` multiplies matrices in bf16 where the
    device has such arithmetic, else in fp32. A value that cannot act is refused.
    """

    name: str
    description: str = ""
    licence: str | None = None
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    epochs: int = 10
    patience: int | None = None
    evaluate_every: int = 1
    data: DataConfig
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelSection
    window: WindowLimits = field(default_factory=WindowLimits)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    regularisation: RegularisationConfig = field(default_factory=RegularisationConfig)

    def __post_init__(self) -> None:
        _check("seed", self.seed, 0 <= self.seed < NUM_SEEDS, f"0 to below {NUM_SEEDS}")
        _check("epochs", self.epochs, self.epochs >= 1, "1 or more")
        _check("patience", self.patience, self.patience is None or self.patience >= 1, "1 or more")
        _check("evaluate_every", self.evaluate_every, self.evaluate_every >= 1, "1 or more")
        if self.model.start_from is not None:
            _check("tokenizer", self.tokenizer, self.tokenizer == TokenizerConfig(), "none beside model.start_from")
        for name in ("r_drop", "fgm"):
            value = getattr(self.regularisation, name)
            idle = value and not self.data.train
            _check(f"regularisation.{name}", value, not idle, "0 without data.train: it touches the spans alone")
        fits = not (self.regularisation.fgm and self.objectives.distillation)
        expected = "0 beside distillation, which may freeze what it moves"
        _check("regularisation.fgm", self.regularisation.fgm, fits, expected)
        mine = self.objectives.similarity.mine if self.objectives.similarity else None
        fits = mine is None or not self.data.pairs
        _check("objectives.similarity.mine", mine, fits, "none beside data.pairs: the pairs are those of the files")


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
    if dotted.strip() == "model.start_from":
        table.pop("encoder", None)
        value.pop("tokenizer", None)


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
