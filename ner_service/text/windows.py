"""Long text -> overlapping windows; entities of windows -> entities of the text.

A window is a substring, encoded as if it had been sent alone: a long text's answer is its windows' answers, merged.
Knows no model: a window's entities come from outside.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from ner_service.errors import ConfigError
from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import Encoding, Entity, Window, WindowLimits

_CLOSING = "\"'”’」』）)]】》〉 \t\r\n\u3000"
_FULL_STOPS = frozenset("。！？；")
_STOPS_BEFORE_SPACE = frozenset(".!?;")
_JOINER = "\u200d"

# How good a place between two tokens is for a cut.
_GLUED, _INSIDE_WORD, _WORD, _SENTENCE, _LINE = range(5)


def split(text: str, tokenizer: TextTokenizer, limits: WindowLimits) -> list[Window]:
    """Windows of at most `limits.max_tokens` tokens that cover the text; one if the text fits.

    Both starts and ends increase; the first window starts at 0, the last ends at the text's end, and every token lies
    in a window. Any run of at most `limits.overlap_tokens` tokens of the whole text lies whole in a window. Cuts fall
    between tokens, preferably after a line, else a sentence, else a word, and not before a combining mark.

    Raises:
        ConfigError: the limits have no room to go on from one window to the next.
        InvalidTextError: a lone surrogate.
    """
    encoding = tokenizer.encode(text)
    if len(encoding) <= limits.max_tokens:
        return [Window(0, len(text), encoding)]
    starts, ends, tokens = _pieces(encoding)
    capacity = limits.max_tokens - tokenizer.num_specials
    if capacity < 1 or not starts:
        raise _no_room(limits, 0)
    return _Splitter(text, tokenizer, limits, capacity, starts, ends, tokens).windows()


def merge(answers: Sequence[tuple[Window, Sequence[Entity]]]) -> list[Entity]:
    """Entities of the text from the entities of its windows (in the order of `split`), sorted by `Entity.key`.

    The rule: an entity found in several windows stands once, with its best score. An entity that touches an inner edge
    of its window (an edge that is not the text's) counts only if no other window contains it away from that window's
    own inner edges; where one does, that window's verdict decides: the window that holds it whole wins.
    """
    windows = [window for window, _ in answers]
    starts = [window.start for window in windows]
    ends = [window.end for window in windows]
    best: dict[Entity, Entity] = {}
    for window, entities in answers:
        for local in entities:
            entity = dataclasses.replace(local, start=local.start + window.start, end=local.end + window.start)
            if not _holds(window, entity, starts[0], ends[-1]):
                around = windows[bisect_left(ends, entity.end) : bisect_right(starts, entity.start)]
                if any(_holds(other, entity, starts[0], ends[-1]) for other in around):
                    continue
            known = best.get(entity)
            if known is None or (entity.score or 0.0) > (known.score or 0.0):
                best[entity] = entity
    return sorted(best.values(), key=lambda entity: entity.key)


def _holds(window: Window, entity: Entity, text_start: int, text_end: int) -> bool:
    """Whether the entity lies in the window and touches none of its inner edges."""
    after_start = window.start < entity.start or window.start == entity.start == text_start
    before_end = entity.end < window.end or entity.end == window.end == text_end
    return after_start and before_end


def _no_room(limits: WindowLimits, position: int) -> ConfigError:
    found = f"found max_tokens {limits.max_tokens} and overlap_tokens {limits.overlap_tokens}"
    return ConfigError(f"window: {found}, expected more room between them for the text at character {position}")


def _pieces(encoding: Encoding) -> tuple[list[int], list[int], list[int]]:
    """Tokens that share characters, taken together: starts and ends in code points, and the first token of each.

    The last list has one item more, the token after the last piece.
    """
    starts: list[int] = []
    ends: list[int] = []
    tokens: list[int] = []
    last = 0
    for token, (start, end) in enumerate(encoding.offsets):
        if start == end:
            continue
        last = token
        if ends and start < ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            starts.append(start)
            ends.append(end)
            tokens.append(token)
    return starts, ends, [*tokens, last + 1]


@dataclasses.dataclass(frozen=True, slots=True)
class _Splitter:
    """Piece i covers `text[starts[i]:ends[i]]` and begins with token `tokens[i]` of the whole text's encoding."""

    text: str
    tokenizer: TextTokenizer
    limits: WindowLimits
    capacity: int
    starts: list[int]
    ends: list[int]
    tokens: list[int]

    def windows(self) -> list[Window]:
        windows: list[Window] = []
        first = last = 0
        while last < len(self.starts):
            last, window = self._window(first, last)
            windows.append(window)
            if last < len(self.starts):
                first = self._next_first(first, last)
        return windows

    def _window(self, first: int, previous_last: int) -> tuple[int, Window]:
        """The window from piece `first` and the piece it ends before, which is past `previous_last`."""
        room = self.capacity
        while True:
            last = self._choose_last(first, previous_last, room)
            start = self.starts[first] if first else 0
            end = self.ends[last - 1] if last < len(self.starts) else len(self.text)
            encoding = self.tokenizer.encode(self.text[start:end])
            excess = len(encoding) - self.limits.max_tokens
            if excess <= 0:
                return last, Window(start, end, encoding)
            # A cut inside a word may leave its rest with more tokens than it had within the word.
            room = self.tokens[last] - self.tokens[first] - excess

    def _choose_last(self, first: int, previous_last: int, room: int) -> int:
        highest = bisect_right(self.tokens, self.tokens[first] + room) - 1
        if highest == len(self.starts):
            return highest
        overlap = self.limits.overlap_tokens
        lowest = max(previous_last + 1, bisect_left(self.tokens, self.tokens[first + 1] + overlap))
        if highest < lowest:
            raise _no_room(self.limits, self.starts[first])
        half_way = bisect_left(self.tokens, self.tokens[first] + (self.capacity + overlap) // 2)
        return self._best_cut(min(max(lowest, half_way), highest), highest)

    def _next_first(self, first: int, last: int) -> int:
        """Where the next window starts: `overlap_tokens` before the end of this one, or a little earlier."""
        overlap = self.limits.overlap_tokens
        highest = bisect_right(self.tokens, self.tokens[last] - overlap) - 1
        progress = self.tokens[last] - overlap - self.tokens[first]
        lowest = max(
            self.tokens[last] - 2 * overlap,
            self.tokens[first] + (progress + 1) // 2,
            # From here the next window has room for a piece beyond the end of this one.
            self.tokens[last + 1] - self.capacity,
        )
        return self._best_cut(min(max(first + 1, bisect_left(self.tokens, lowest)), highest), highest)

    def _best_cut(self, lowest: int, highest: int) -> int:
        """The best piece of the range to cut before; of equal ones the last."""
        best = highest
        best_quality = -1
        for piece in range(highest, lowest - 1, -1):
            quality = _cut_quality(self.text, self.ends[piece - 1], self.starts[piece])
            if quality > best_quality:
                best, best_quality = piece, quality
            if quality == _LINE:
                break
        return best


def _cut_quality(text: str, end: int, start: int) -> int:
    """How good it is to cut after the token that ends at `end`, before the one that starts at `start`."""
    before, gap, after = text[max(0, end - 8) : end], text[end:start], text[start]
    if _are_glued(before[-1], gap, after):
        return _GLUED
    if "\n" in gap or before[-1] == "\n":
        return _LINE
    spaced = any(character.isspace() for character in (before[-1], *gap[:1], *gap[-1:], after))
    stop = before.rstrip(_CLOSING)[-1:]
    if after not in _CLOSING and (stop in _FULL_STOPS or (spaced and stop in _STOPS_BEFORE_SPACE)):
        return _SENTENCE
    inside_word = _is_spelled(before[-1]) and _is_spelled(after) and not spaced
    return _INSIDE_WORD if inside_word else _WORD


def _are_glued(before: str, gap: str, after: str) -> bool:
    """Whether the reader sees one character: a mark on its base, a joined or coloured emoji, a line end."""
    if unicodedata.category(after)[0] == "M" or "\U0001f3fb" <= after <= "\U0001f3ff":
        return True
    return _JOINER in (before, after, *gap[-1:]) or (before, gap, after) == ("\r", "", "\n")


def _is_spelled(character: str) -> bool:
    """Whether the character belongs to a script that writes spaces between its words."""
    ideographic = "\u2e80" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or character >= "\U00020000"
    return unicodedata.category(character)[0] in "LMN" and not ideographic
