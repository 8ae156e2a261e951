"""Text files -> lines in rounds, and a text -> its sentences.

A corpus is any number of plain or gzipped files, one paragraph a line; it is read as it is needed and never held whole.
Knows no tokenizer and no objective.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ner_service.errors import ConfigError, DataError
from ner_service.formats.lines import read_lines

# What still belongs to a sentence that has ended. A straight quotation mark does before white space alone: elsewhere it
# may open the next sentence.
_REST = r"""(?:[。！？!?；;”’」』）】》)\]]|["'](?=\s|$))*"""
_END = re.compile(rf"[。！？!?；;]{_REST}|\.{_REST}(?=\s)")


class TextStream:
    """The lines of a corpus as one endless stream, in rounds of `round_lines`.

    The files take turns, a line each, until all are exhausted; then they begin anew, so a round may hold the end of
    the corpus and its beginning. Lines of white space alone are not counted, white space around a line is dropped.
    A round depends on its index alone, whatever was read before.

    Raises:
        ConfigError: no path is given.
    """

    def __init__(self, paths: Sequence[Path], round_lines: int) -> None:
        if not paths:
            raise ConfigError("found no text file, expected at least one")
        self._paths = tuple(paths)
        self._round_lines = round_lines
        self._last: tuple[int, list[str]] | None = None  # several readers ask for one round
        self._open: dict[int, Iterator[str]] = {}  # the stream where the last round left it, by number of lines before

    def round(self, index: int) -> list[str]:
        """The lines from `index * round_lines` on, `round_lines` of them.

        The round after the last one asked for is read on from there. Any other is found by reading the corpus once at
        most, and then the part of it that comes before the round.

        Raises:
            DataError: a file cannot be read or holds a byte that is not UTF-8, or no file has any text.
        """
        if self._last is not None and self._last[0] == index:
            return self._last[1]
        start = index * self._round_lines
        stream = self._open.pop(start, None) or self._stream(start)
        self._open.clear()
        lines = list(islice(stream, self._round_lines))
        self._open[start + self._round_lines] = stream
        self._last = (index, lines)
        return lines

    def _stream(self, start: int) -> Iterator[str]:
        """The endless stream without its first `start` lines."""
        while True:
            num_lines = 0
            for num_lines, line in enumerate(_take_turns(self._paths), start=1):
                if num_lines > start:
                    yield line
            if not num_lines:
                found = f"no text in any of the {len(self._paths)} files from this one on"
                raise DataError(self._paths[0], None, f"found {found}, expected a paragraph a line")
            start = start % num_lines if start >= num_lines else 0


def sentences(text: str) -> list[str]:
    """The sentences of a text; all its characters in order, but for white space around them.

    A sentence ends at a line end, after 。！？!?；; and after a full stop before white space, in each case with the
    closing quotation marks, brackets and further such ends that follow. No abbreviation is known: "Mr. Lee" is cut.
    """
    lines = _END.sub(r"\g<0>\n", text).splitlines()
    return [sentence for line in lines if (sentence := line.strip())]


def _take_turns(paths: Sequence[Path]) -> Iterator[str]:
    """A line of each file in turn, as long as it has one."""
    files = deque(map(_paragraphs, paths))
    while files:
        file = files.popleft()
        if (line := next(file, None)) is not None:
            yield line
            files.append(file)


def _paragraphs(path: Path) -> Iterator[str]:
    return (text for line in read_lines(path) if (text := line.text.strip()))
