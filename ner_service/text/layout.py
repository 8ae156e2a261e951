"""Where the tokens of a page stand, and which of them begin and end its words. Knows no tensor and no file.

A token stands at (x, y): x in median widths of a character, y in median heights of a word's box, so that neighbouring
characters and neighbouring lines are about 1 apart, as tokens of a text are. A word's first character stands at its
left edge, the others at equal steps to the right, all at half its height. Both axes count from 1 at the leftmost and
the topmost word, so a page that is shifted or scaled as a whole is the same page. Special tokens stand at (0, 0), which
is where a text's first one stands.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median

from ner_service.text.tokenizer import TextTokenizer
from ner_service.text.windows import split
from ner_service.types import Encoding, Page, Window, WindowLimits

SPECIAL_POSITION = (0.0, 0.0)


def windows_of(content: str | Page, tokenizer: TextTokenizer, limits: WindowLimits) -> list[Window]:
    """The windows of what a document holds; those of a page are windows of its text with places on the whole page.

    Raises:
        ConfigError: the limits have no room to go on from one window to the next.
        InvalidTextError: a text with a lone surrogate.
    """
    if isinstance(content, str):
        return split(content, tokenizer, limits)
    layout = _Layout.of(content)
    windows = split(content.text, tokenizer, limits)
    return [replace(window, encoding=layout.place(window)) for window in windows]


@dataclass(frozen=True, slots=True)
class _Layout:
    """For each word of a page its code points, the place of its first character and the step to the next one."""

    starts: list[int]
    ends: list[int]
    corners: list[tuple[float, float]]
    steps: list[float]

    @classmethod
    def of(cls, page: Page) -> _Layout:
        widths = [(x1 - x0) / len(word) for word, (x0, _, x1, _) in zip(page.words, page.boxes, strict=True)]
        middles = [(y0 + y1) / 2 for _, y0, _, y1 in page.boxes]
        left, right = min((box[0] for box in page.boxes), default=0.0), max((box[2] for box in page.boxes), default=0.0)
        top, bottom = min(middles, default=0.0), max(middles, default=0.0)
        character, line = _unit(widths, right - left), _unit((y1 - y0 for _, y0, _, y1 in page.boxes), bottom - top)
        corners = [
            (1 + (box[0] - left) / character, 1 + (middle - top) / line)
            for box, middle in zip(page.boxes, middles, strict=True)
        ]
        starts, ends = ([word[side] for word in page.ranges] for side in (0, 1))
        return cls(starts, ends, corners, [width / character for width in widths])

    def place(self, window: Window) -> Encoding:
        """The window's encoding with places and words; the outer tokens of a whole word reach to its ends.

        A token across several words belongs to the first of them. One of white space alone stands where the next word
        does.
        """
        offsets = list(window.encoding.offsets)
        positions = []
        tokens: dict[int, tuple[int, int]] = {}
        for token, (start, end) in enumerate(offsets):
            if start == end:
                positions.append(SPECIAL_POSITION)
                continue
            word = bisect_right(self.ends, window.start + start)
            inside = max(0, window.start + start - self.starts[word])
            x, y = self.corners[word]
            positions.append((x + inside * self.steps[word], y))
            if self.starts[word] < window.start + end:
                tokens[word] = (tokens.get(word, (token,))[0], token)
        words = []
        for word, (first, last) in tokens.items():
            if window.start <= self.starts[word] and self.ends[word] <= window.end:
                words.append((first, last))
                offsets[first] = (self.starts[word] - window.start, offsets[first][1])
                offsets[last] = (offsets[last][0], self.ends[word] - window.start)
        encoding = window.encoding
        return replace(encoding, offsets=tuple(offsets), positions=tuple(positions), words=tuple(words))


def _unit(lengths: Iterable[float], extent: float) -> float:
    """The median of the lengths above 0; 1 where there is none, and so nothing to measure.

    A millionth of what the words take up is no length: nothing that is read is so small, and places would be endless.
    """
    return median([length for length in lengths if length > max(0.0, extent * 1e-6)] or [1.0])
