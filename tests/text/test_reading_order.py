"""Boxes into the order of reading: lines, slants, columns, ties."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from ner_service.text import reading_order as module
from ner_service.text.reading_order import reading_order
from ner_service.types import Box
from tests.strategies import boxes


def word(x: float, y: float, width: float = 40, height: float = 10) -> Box:
    return (x, y, x + width, y + height)


def grid(xs: list[float], ys: list[float]) -> list[Box]:
    """Words row by row."""
    return [word(x, y) for y in ys for x in xs]


def test_no_word_and_one_word() -> None:
    assert reading_order([]) == ()
    assert reading_order([word(3, 4)]) == (0,)
    assert reading_order([(1, 1, 1, 1)]) == (0,)


def test_boxes_next_to_nothing_have_an_order() -> None:
    """Half of the least height is none: nothing is divided by it."""
    speck = 5e-324
    assert speck / 2 == 0
    assert reading_order([(0, 0, 1, speck)]) == (0,)
    assert reading_order([(0, 0.5, 1, 0.5 + speck), (0, 0, 1, speck)]) == (1, 0)


def test_one_line_is_read_from_left_to_right() -> None:
    assert reading_order([word(100, 0), word(0, 2), word(50, 1)]) == (1, 2, 0)


def test_lines_are_read_from_top_to_bottom() -> None:
    """Spaces of 5 between words, and between lines: no gap is wide enough for a cut."""
    rows = grid([0, 45, 90], [0, 13, 26])
    assert reading_order(rows[::-1]) == tuple(range(9))[::-1]


def test_columns_are_read_one_after_another() -> None:
    left, right = grid([0, 45], [0, 13, 26]), grid([120, 165], [0, 13, 26])
    rows = [box for line in range(3) for box in (*left[2 * line : 2 * line + 2], *right[2 * line : 2 * line + 2])]
    assert [rows[index] for index in reading_order(rows)] == left + right


def test_words_that_are_near_are_no_columns() -> None:
    """The twin of the columns: the same words with a gap of one height instead of three and a half."""
    left, right = grid([0, 45], [0, 13, 26]), grid([95, 140], [0, 13, 26])
    rows = [box for line in range(3) for box in (*left[2 * line : 2 * line + 2], *right[2 * line : 2 * line + 2])]
    assert [rows[index] for index in reading_order(rows)] == rows


def test_a_title_over_columns_comes_first() -> None:
    title = [word(60, 0, 80)]
    left, right = grid([0, 45], [30, 43]), grid([120, 165], [30, 43])
    mixed = [*right, *title, *left]
    assert [mixed[index] for index in reading_order(mixed)] == title + left + right


def test_slanted_lines_hold_together() -> None:
    """A rise of 0.1 over 400 makes the end of a line stand higher than the beginning of the one before."""
    lines = [[word(x, 100 + 13 * line - x / 10) for x in range(0, 400, 45)] for line in range(3)]
    flat = [box for line in lines for box in line]
    assert lines[1][-1][1] < lines[0][0][1]
    shuffled = random.Random(0).sample(flat, len(flat))
    assert [shuffled[index] for index in reading_order(shuffled)] == flat
    by_top = sorted(flat, key=lambda box: (box[1], box[0]))
    assert by_top != flat, "the twin: sorting by the upper edge tears these lines apart"


def test_a_tall_word_does_not_draw_two_lines_together() -> None:
    tall = word(0, 0, height=24)
    lines = [[word(45, 0), word(90, 0)], [word(45, 13), word(90, 13)]]
    order = [[tall, *lines[0], *lines[1]][index] for index in reading_order([tall, *lines[0], *lines[1]])]
    assert order.index(lines[0][0]) + 1 == order.index(lines[0][1])
    assert order.index(lines[1][0]) + 1 == order.index(lines[1][1])


def test_equal_boxes_stay_in_the_order_given() -> None:
    assert reading_order([word(50, 0), word(0, 0), word(0, 0), word(0, 0)]) == (1, 2, 3, 0)


def test_what_can_be_cut_for_ever_is_read_line_by_line() -> None:
    """Each cut takes one word off: no tower of calls, and no end to it but the most blocks of a page."""
    stairs = [word(100.0 * n, 100.0 * n) for n in range(3 * module.MAX_BLOCKS)]
    assert reading_order(stairs) == tuple(range(len(stairs)))
    columns = [word(100.0 * n, 13.0 * line) for line in range(2) for n in range(3 * module.MAX_BLOCKS)]
    order = reading_order(columns)
    assert order[:2] == (0, 3 * module.MAX_BLOCKS), "the first column is read to its end"
    assert order[-2:] == (len(columns) - 2, len(columns) - 1), "the last ones are read line by line"


@given(boxes(), st.randoms())
def test_every_word_is_read_once_in_an_order_that_boxes_alone_decide(
    found: list[Box], generator: random.Random
) -> None:
    order = reading_order(found)
    assert sorted(order) == list(range(len(found)))
    shuffled = generator.sample(found, len(found))
    assert [shuffled[index] for index in reading_order(shuffled)] == [found[index] for index in order]


@given(boxes(), st.integers(0, 100), st.integers(0, 100), st.sampled_from((0.5, 1, 2, 4)))
def test_shift_and_scale_do_not_change_the_order(found: list[Box], right: int, down: int, scale: float) -> None:
    moved = [
        (scale * (x0 + right), scale * (y0 + down), scale * (x1 + right), scale * (y1 + down))
        for x0, y0, x1, y1 in found
    ]
    assert reading_order(moved) == reading_order(found)


def test_gaps_are_measured_in_heights() -> None:
    """The same gap of 20 parts columns of words 10 high, but not of words 20 high."""
    for height, columns in ((10.0, True), (20.0, False)):
        rows = [word(x, y, height=height) for y in (0.0, 1.2 * height) for x in (0, 60)]
        assert (reading_order(rows) == (0, 2, 1, 3)) is columns
    assert module.COLUMN_GAP == 1.5
