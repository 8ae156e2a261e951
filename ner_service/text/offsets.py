"""Offsets in code points, UTF-16 code units and UTF-8 bytes of the same text. Knows nothing but the text."""

from __future__ import annotations

import numpy as np

from ner_service.errors import CallerError
from ner_service.types import OffsetUnit


class OffsetConverter:
    """Converts code point offsets of one text into another unit; built once a text, in linear time."""

    def __init__(self, text: str, unit: OffsetUnit) -> None:
        self._num_codepoints = len(text)
        self._before = _units_before(text, unit)

    def from_codepoint(self, offset: int) -> int:
        """The offset in the unit; `offset` runs from 0 to the length of the text.

        Raises:
            CallerError: outside the text.
        """
        if not 0 <= offset <= self._num_codepoints:
            raise CallerError(f"offset: found {offset}, expected 0 to {self._num_codepoints}")
        return offset if self._before is None else int(self._before[offset])


def _units_before(text: str, unit: OffsetUnit) -> np.ndarray | None:
    """For every code point offset the offset in the unit; None where they are the same."""
    if unit == "codepoint" or text.isascii():
        return None
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    widths = 1 + (codes >= 0x10000).astype(np.int64)
    if unit == "utf8":
        widths += (codes >= 0x80).astype(np.int64) + (codes >= 0x800)
    elif len(widths) == int(widths.sum()):
        return None
    return np.concatenate(([0], np.cumsum(widths)))
