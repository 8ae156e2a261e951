"""Boxes of words -> the order in which they are read: columns apart, lines downwards, words from left to right.

A page is cut in two, and its parts again, at the widest gap: one between blocks that goes from side to side and is at
least `BLOCK_GAP` high, or one between columns that goes from top to bottom and is at least `COLUMN_GAP` wide, each
measured by that. What has no such gap is read line by line; a word belongs to the line whose last word it overlaps most
in height, so a line may be slanted. Right-to-left and vertical scripts are read in the wrong order.

The same boxes give the same order of boxes, however they were given; equal boxes stay in the order given.

Sources: Nagy and Seth (1984), recursive X-Y cut; Ha, Haralick and Phillips (1995), by the bounding boxes of words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from ner_service.types import Box, Page, PageOrder

BLOCK_GAP = 0.5
COLUMN_GAP = 1.5
"""In median heights of a box: among the values where few mentions of forms and receipts are torn apart."""

MAX_BLOCKS = 500
"""What has been cut so often is no page: the rest is read line by line, so that none takes minutes."""

SHARED_HEIGHT = 0.5
"""The share of the lower of two boxes that they have in common, if they stand on one line."""

Boxes = npt.NDArray[np.float64]
Order = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class OrderedPage:
    """A page as the model reads it. Its word i is the client's word `order[i]`."""

    page: Page
    order: tuple[int, ...]


def ordered(page: Page, order: PageOrder) -> OrderedPage:
    """The page with its words in the order that their boxes tell, or as they are given."""
    indices = reading_order(page.boxes) if order == "reading" else tuple(range(len(page.words)))
    return OrderedPage(page.reordered(indices), indices)


def reading_order(boxes: Sequence[Box]) -> tuple[int, ...]:
    """For each place in the order of reading the index of the word that is read there."""
    if not boxes:
        return ()
    box_N4 = np.asarray(boxes, dtype=np.float64)
    line = median([height for height in (box_N4[:, 3] - box_N4[:, 1]).tolist() if height > 0] or [1.0])
    order: list[int] = []
    num_blocks = 1
    blocks = [np.lexsort(box_N4.T[[3, 2, 1, 0]])]  # by x0, then y0, x1, y1
    while blocks:
        block = blocks.pop()
        parts = _cut(block, box_N4, line) if num_blocks < MAX_BLOCKS else None
        if parts is None:
            order += _line_by_line(block, box_N4)
        else:
            num_blocks += 1
            blocks += reversed(parts)
    return tuple(order)


def _cut(block: Order, box_N4: Boxes, line: float) -> tuple[Order, Order] | None:
    """The block in two at its widest gap, in parts of what such a gap must be; None where there is none."""
    down, across = _widest_gap(box_N4[block][:, [1, 3]]), _widest_gap(box_N4[block][:, [0, 2]])
    block_gap, column_gap = down[0] / line / BLOCK_GAP, across[0] / line / COLUMN_GAP
    if max(block_gap, column_gap) < 1:
        return None
    side, (_, place) = (1, down) if block_gap >= column_gap else (0, across)
    before = box_N4[block, side] < place
    return block[before], block[~before]


def _widest_gap(interval_N2: Boxes) -> tuple[float, float]:
    """Width and end of the widest gap between intervals; the width is 0 where they leave none."""
    start_N, end_N = interval_N2[np.argsort(interval_N2[:, 0], kind="stable")].T
    gap = start_N[1:] - np.maximum.accumulate(end_N)[:-1]
    widest = int(gap.argmax()) if len(gap) else 0
    return (float(gap[widest]), float(start_N[widest + 1])) if len(gap) else (0.0, 0.0)


def _line_by_line(block: Order, box_N4: Boxes) -> list[int]:
    """Words, given from left to right, gathered into lines, and these from top to bottom."""
    lines: list[list[int]] = []
    last_M2 = np.empty((len(block), 2))  # top and bottom of each line's last word
    for word in block.tolist():
        top, bottom = box_N4[word, 1], box_N4[word, 3]
        open_M2 = last_M2[: len(lines)]
        shared_M = np.minimum(open_M2[:, 1], bottom) - np.maximum(open_M2[:, 0], top)
        height_M = np.minimum(open_M2[:, 1] - open_M2[:, 0], bottom - top)
        shared_M[shared_M < SHARED_HEIGHT * height_M] = -1.0
        best = int(shared_M.argmax()) if lines else 0
        if not lines or shared_M[best] < 0:
            best = len(lines)
            lines.append([])
        lines[best].append(word)
        last_M2[best] = top, bottom
    middle = box_N4[:, [1, 3]].mean(axis=1)
    lines.sort(key=lambda words: float(middle[words].mean()))
    return [word for words in lines for word in words]
