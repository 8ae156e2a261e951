"""Text files -> lines in rounds, and a text -> its sentences.

A corpus is any number of plain or gzipped files, one paragraph a line; it is read as it is needed and never held whole.
Knows no tokenizer and no objective.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ner_service.errors import ConfigError, DataError
from ner_service.formats.lines import read_lines

# What still belongs to a sentence that has ended. A straight quotation mark does before white space alone: elsewhere it
# may open the next sentence.
_REST = r"""(?:[。！？!?；;”’」』）】》)\]]|["'](?=\s|$))*"""
_END = re.compile(rf"[。！？!?；;]{_REST}|\.{_REST}(?=\s)")


@dataclass(frozen=True, slots=True)
class _Open:
    """A round with its number, and those after it; before the first one, no round of number -1."""

    number: int
    lines: list[str]
    rest: Iterator[tuple[int, list[str]]]


class TextStream:
    """The lines of a corpus in rounds of `round_lines`, over and over.

    The files take turns, a line each, until all are exhausted. There a round ends, however short it is, and the next
    one begins anew, so a round never holds a line twice that stands there once. Lines of white space alone are not
    counted, white space around a line is dropped. A round depends on its index alone, whatever was read before.

    Raises:
        ConfigError: no path is given.
    """

    def __init__(self, paths: Sequence[Path], round_lines: int) -> None:
        if not paths:
            raise ConfigError("found no text file, expected at least one")
        self._paths = tuple(paths)
        self._round_lines = round_lines
        self._num_rounds: int | None = None  # of the whole corpus, once it was read to its end
        self._open: _Open | None = None

    def round(self, index: int) -> list[str]:
        """The lines of a round, at least one and at most `round_lines`.

        The last round is kept, for several readers ask for it; one after it is read on from there. Any other is found
        by reading the corpus once at most, and then the part of it that comes before the round.

        Raises:
            DataError: a file cannot be read or holds a byte that is not UTF-8, or no file has any text.
        """
        if self._num_rounds is not None:
            index %= self._num_rounds
        place, self._open = self._open, None  # a fault leaves nothing open
        if place is None or index < place.number:
            place = _Open(-1, [], enumerate(self._once()))
        while place.number < index:
            following = next(place.rest, None)
            if following is None:
                return self._begin_anew(place.number, index)
            place = _Open(*following, place.rest)
        self._open = place
        return place.lines

    def _begin_anew(self, last: int, index: int) -> list[str]:
        """A round beyond the corpus, which ends with round `last`."""
        if last < 0:
            found = f"no text in any of the {len(self._paths)} files from this one on"
            raise DataError(self._paths[0], None, f"found {found}, expected a paragraph a line")
        self._num_rounds = last + 1
        return self.round(index)

    def _once(self) -> Iterator[list[str]]:
        """The rounds of one pass over the corpus."""
        lines = _take_turns(self._paths)
        while found := list(islice(lines, self._round_lines)):
            yield found


def paragraphs(path: Path) -> Iterator[str]:
    """The lines of a file that have any text, as they are needed, without white space around them.

    Raises:
        DataError: the file cannot be read or holds a byte that is not UTF-8.
    """
    return (text for line in read_lines(path) if (text := line.text.strip()))


def sentences(text: str) -> list[str]:
    """The sentences of a text; all its characters in order, but for white space around them.

    A sentence ends at a line end, after 。！？!?；; and after a full stop before white space, in each case with the
    closing quotation marks, brackets and further such ends that follow. No abbreviation is known: "Mr. Lee" is cut.
    """
    lines = _END.sub(r"\g<0>\n", text).splitlines()
    return [sentence for line in lines if (sentence := line.strip())]


def _take_turns(paths: Sequence[Path]) -> Iterator[str]:
    """A line of each file in turn, as long as it has one."""
    files = deque(map(paragraphs, paths))
    while files:
        file = files.popleft()
        if (line := next(file, None)) is not None:
            yield line
            files.append(file)
