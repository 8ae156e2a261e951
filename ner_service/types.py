"""Plain frozen data that every room speaks of. Standard library only; knows no tensor, no file, no web.

Offsets are code points, half-open: `text[start:end]` is the mention. A page is read as the text of its words, so inside
there are only code points; word indices exist where pages come in and answers go out.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Literal

from ner_service.errors import ConfigError, InvalidPageError, UnknownLabelError

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 of a word: left, top, right, bottom, counted from the page's upper left corner."""

MAX_LENGTH = 1e9
"""Of a page's side: more than any has in any unit, and few enough that nothing computed of it is endless."""

CORNERS = ("x0", "y0", "x1", "y1")
SIDES = ("width", "height")

OffsetUnit = Literal["codepoint", "utf16", "utf8"]
OverlapPolicy = Literal["all", "nested", "flat", "longest"]
PageOrder = Literal["reading", "given"]


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
class Page:
    """Words of a page in the order in which they are read, a box each, and the page's width and height.

    Lengths are in any one unit (pixels, points): the model counts in widths of characters and heights of lines. A word
    is whatever has one box; it may hold white space, but not at its ends.

    Raises:
        InvalidPageError: names the word, what was found and what was expected.
    """

    words: tuple[str, ...]
    boxes: tuple[Box, ...]
    size: tuple[float, float]
    ranges: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)
    """The code points of each word in `text`, half-open."""

    def __post_init__(self) -> None:
        ends = list(accumulate((len(word) + 1 for word in self.words), initial=0))
        object.__setattr__(self, "ranges", tuple((start, end - 1) for start, end in pairwise(ends)))
        for axis, length in enumerate(self.size):
            if not 0 < length <= MAX_LENGTH:
                raise InvalidPageError(
                    f"page/{axis}", f"found {length}, expected a length above 0, at most {MAX_LENGTH:g}"
                )
        if len(self.boxes) != len(self.words):
            raise InvalidPageError(
                "boxes", f"found {len(self.boxes)} boxes, expected {len(self.words)}, one for each word"
            )
        for index, word in enumerate(self.words):
            _check_word(index, word)
        for index, box in enumerate(self.boxes):
            _check_box(index, box, self.size)

    @property
    def text(self) -> str:
        """The words, a space between each two."""
        return " ".join(self.words)

    def reordered(self, order: Sequence[int]) -> Page:
        """The page with its words in another order: `order[i]` is the index, here, of the word that comes i-th."""
        words = tuple(self.words[index] for index in order)
        return Page(words, tuple(self.boxes[index] for index in order), self.size)


def words_to_codepoints(page: Page, first: int, end: int) -> tuple[int, int]:
    """The code points of the words `[first, end)` of a page; there must be at least one."""
    return page.ranges[first][0], page.ranges[end - 1][1]


def codepoints_to_words(page: Page, start: int, end: int) -> tuple[int, int]:
    """The words of a page that have a code point in `[start, end)`, as a half-open range of indices."""
    first = bisect_right(page.ranges, start, key=lambda word: word[1])
    return first, max(first, bisect_left(page.ranges, end, key=lambda word: word[0]))


@dataclass(frozen=True, slots=True)
class Document:
    """A text and its entities: what a reader yields, a model is trained on and an evaluation compares with.

    A document may be a `page`, and then `text` is the page's: entities are code points of it there as well.

    `annotated` names the labels that the annotators looked for; None means every label. A label outside it is
    neither present nor absent: no negative in training, no false positive in evaluation.
    `flat` says that the annotators marked outermost mentions alone: a span inside a mention of another label is neither
    present nor absent, in training.
    `metadata` holds whatever else the file said of the text.
    `scattered` are mentions of a page whose words do not follow each other in the order of its words, from the first to
    the last: no span is such a mention, so none is learnt, but each counts as one that was not found.
    """

    text: str
    entities: tuple[Entity, ...] = ()
    id: str | None = None
    annotated: frozenset[str] | None = None
    flat: bool = False
    metadata: Mapping[str, object] = field(default_factory=dict, compare=False)
    page: Page | None = None
    scattered: tuple[Entity, ...] = ()

    def __post_init__(self) -> None:
        if self.page is not None and self.page.text != self.text:
            raise ValueError("found a text other than the page's, expected the words of the page")

    @property
    def content(self) -> str | Page:
        """What a model reads of it."""
        return self.text if self.page is None else self.page


def lone_surrogate(text: str) -> str | None:
    """The first character of a text that is no Unicode, described; JSON's escapes can say such."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}"
    return None


LABEL = "a name on one line, without white space at its ends"


def is_label(name: str) -> bool:
    """Whether a name is what a label's must be, `LABEL`, to stand in tables, tags and queries."""
    return name.splitlines() == [name] == [name.strip()]


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

    On a page a token has a place, `positions[i]`, x in widths of characters and y in heights of lines; in a plain text
    token i stands at (i, i). `words` holds the first and the last token of each word that lies whole in the encoding:
    on a page an entity starts with the first token of a word and ends with the last of one. In a plain text any token
    will do.
    """

    token_ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    positions: tuple[tuple[float, float], ...] | None = None
    words: tuple[tuple[int, int], ...] | None = None

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


def _check_word(index: int, word: str) -> None:
    pointer = f"words/{index}"
    if not word:
        raise InvalidPageError(pointer, f"word {index}: found an empty word, expected at least one character")
    if word != word.strip():
        raise InvalidPageError(pointer, f"word {index}: found white space at its ends, expected none")
    if found := lone_surrogate(word):
        raise InvalidPageError(pointer, f"word {index}: found {found}, expected Unicode text")


def _check_box(index: int, box: Box, size: tuple[float, float]) -> None:
    for corner, value in enumerate(box):
        pointer, where = f"boxes/{index}/{corner}", f"box of word {index}: found {CORNERS[corner]} = {value}"
        if not math.isfinite(value):
            raise InvalidPageError(pointer, f"{where}, expected a finite number")
        if value < 0:
            raise InvalidPageError(pointer, f"{where}, expected 0 or more")
        if value > size[corner % 2]:
            raise InvalidPageError(
                pointer, f"{where}, expected at most {size[corner % 2]}, the page's {SIDES[corner % 2]}"
            )
    for low, high in ((0, 2), (1, 3)):
        if box[high] < box[low]:
            found = f"{CORNERS[low]} = {box[low]} and {CORNERS[high]} = {box[high]}"
            expected = f"expected {CORNERS[low]} <= {CORNERS[high]}"
            raise InvalidPageError(f"boxes/{index}/{high}", f"box of word {index}: found {found}, {expected}")
