"""Plain frozen data that every room speaks of. Standard library only; knows no tensor, no file, no web.

Offsets are code points, half-open: `text[start:end]` is the mention.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ner_service.errors import ConfigError, UnknownLabelError

OffsetUnit = Literal["codepoint", "utf16", "utf8"]
OverlapPolicy = Literal["all", "nested", "flat", "longest"]


@dataclass(frozen=True, slots=True)
class Entity:
    """A labelled span `[start, end)` of a text. Equality ignores `score` (a probability) and `source`."""

    start: int
    end: int
    label: str
    score: float | None = field(default=None, compare=False)
    source: str | None = field(default=None, compare=False)

    @property
    def key(self) -> tuple[int, int, str]:
        """The order of entities in every answer: outer before inner, then by label."""
        return (self.start, -self.end, self.label)


@dataclass(frozen=True, slots=True)
class Document:
    """A text and its entities: what a reader yields, a model is trained on and an evaluation compares with.

    `annotated` names the labels that the annotators looked for; None means every label. A label outside it is
    neither present nor absent: no negative in training, no false positive in evaluation.
    `flat` says that the annotators marked outermost mentions alone: a span inside a mention of another label is neither
    present nor absent, in training.
    `metadata` holds whatever else the file said of the text.
    """

    text: str
    entities: tuple[Entity, ...] = ()
    id: str | None = None
    annotated: frozenset[str] | None = None
    flat: bool = False
    metadata: Mapping[str, object] = field(default_factory=dict, compare=False)


class LabelSet:
    """Names of the labels in the order of the model's output channels; the only label <-> index table."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._index = {name: index for index, name in enumerate(self.names)}
        if len(self._index) != len(self.names):
            raise ValueError(f"a label stands twice in {self.names}")

    def index(self, name: str) -> int:
        """Channel of a label.

        Raises:
            UnknownLabelError: the model has no such label.
        """
        try:
            return self._index[name]
        except KeyError:
            raise UnknownLabelError(name, self.names) from None

    def __getitem__(self, index: int) -> str:
        return self.names[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelSet) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"LabelSet({list(self.names)})"


@dataclass(frozen=True, slots=True)
class Encoding:
    """A text as the model sees it, and the bridge back to its characters.

    `offsets[i]` is the half-open range of code points that token i covers. An empty range belongs to a special token:
    it covers no character, so no entity starts or ends there.
    """

    token_ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLimits:
    """How a text longer than the model's window is cut. Both counts in tokens, special tokens included in the first.

    Any entity of at most `overlap_tokens` tokens lies whole in at least one window.
    """

    max_tokens: int = 256
    overlap_tokens: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_tokens < self.max_tokens:
            raise ValueError(f"overlap_tokens is {self.overlap_tokens}, expected 0 to {self.max_tokens - 1}")


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of a text that the model reads in one go, encoded as if it had been sent alone.

    `start` and `end` are its range in the text, in code points; the offsets of `encoding` count from `start`.
    """

    start: int
    end: int
    encoding: Encoding


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognizeOptions:
    """What a caller may ask of the model. Probabilities throughout; precedence: `label_thresholds`, `threshold`, model.

    `labels` None means all; the selection happens before the overlap policy.

    Raises:
        ConfigError: a threshold that is no probability.
    """

    labels: frozenset[str] | None = None
    threshold: float | None = None
    label_thresholds: Mapping[str, float] = field(default_factory=dict)
    overlap: OverlapPolicy = "all"

    def __post_init__(self) -> None:
        given = {"threshold": self.threshold, **self.label_thresholds}
        for name, threshold in given.items():
            if threshold is not None and not 0.0 <= threshold <= 1.0:
                raise ConfigError(f"{name}: found {threshold}, expected a probability, 0 to 1")


@dataclass(frozen=True, slots=True)
class Recognition:
    """The answer to one text: entities sorted by `Entity.key`, and what it cost."""

    entities: tuple[Entity, ...]
    num_windows: int
    num_tokens: int
