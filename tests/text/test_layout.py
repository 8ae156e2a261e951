"""Where the tokens of a page stand, and which of them bound its words."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ner_service.text.layout import SPECIAL_POSITION, windows_of
from ner_service.text.windows import split
from ner_service.types import Box, Page, Window, WindowLimits
from tests.strategies import pages
from tests.text.sample_tokenizers import trained

WIDE = WindowLimits(max_tokens=4096, overlap_tokens=64)
NARROW = WindowLimits(max_tokens=24, overlap_tokens=8)

# Characters 10 wide, lines 20 high.
PAGE = Page(
    ("Ada", "Lovelace", "London"),
    ((100, 50, 130, 70), (140, 50, 220, 70), (100, 90, 160, 110)),
    (400, 300),
)


def places(page: Page) -> dict[int, tuple[float, float]]:
    """The place of each token that starts a word, by the code point of the page's text."""
    (window,) = windows_of(page, trained(), WIDE)
    positions = window.encoding.positions
    assert positions is not None
    return {start: place for (start, end), place in zip(window.encoding.offsets, positions, strict=True) if start < end}


def spelt(window: Window, page: Page) -> list[str]:
    """The words that entities of a window can begin and end with."""
    text = page.text[window.start : window.end]
    assert window.encoding.words is not None
    offsets = window.encoding.offsets
    return [text[offsets[first][0] : offsets[last][1]] for first, last in window.encoding.words]


def moved(page: Page, right: float, down: float, scale: float = 1.0) -> Page:
    shifted: list[Box] = [
        (scale * (x0 + right), scale * (y0 + down), scale * (x1 + right), scale * (y1 + down))
        for x0, y0, x1, y1 in page.boxes
    ]
    return Page(page.words, tuple(shifted), (10000.0, 10000.0))


def test_units_are_characters_and_lines_and_count_from_one() -> None:
    found = places(PAGE)
    assert found[0] == (1, 1)
    assert found[4] == (5, 1)
    assert found[13] == (1, 3)


def test_characters_of_a_word_share_its_width() -> None:
    """'Lovelace' is 80 wide: a token that begins with its third character stands 20 on."""
    wide = Page(("Lovelace",) * 3, tuple((0.0, 30.0 * n, 80.0, 30.0 * n + 10) for n in range(3)), (100, 100))
    for start, (x, y) in places(wide).items():
        line, inside = divmod(start, len("Lovelace "))
        assert (x, y) == pytest.approx((1 + inside, 1 + 3 * line))
    assert len(places(wide)) > 3, "the twin: some token begins inside a word"


def test_special_tokens_stand_at_one_fixed_point() -> None:
    (window,) = windows_of(PAGE, trained(), WIDE)
    specials = [place for (start, end), place in _tokens(window) if start == end]
    assert len(specials) == trained().num_specials > 0
    assert set(specials) == {SPECIAL_POSITION} == {(0.0, 0.0)}


def _tokens(window: Window) -> list[tuple[tuple[int, int], tuple[float, float]]]:
    assert window.encoding.positions is not None
    return list(zip(window.encoding.offsets, window.encoding.positions, strict=True))


def test_a_text_has_no_places() -> None:
    assert windows_of(PAGE.text, trained(), NARROW) == split(PAGE.text, trained(), NARROW)
    assert all(window.encoding.positions is None for window in windows_of(PAGE.text, trained(), NARROW))


def test_windows_of_a_page_are_those_of_its_text_and_keep_their_places() -> None:
    page = Page(
        PAGE.words * 12,
        tuple((x0, y0 + 80.0 * n, x1, y1 + 80.0 * n) for n in range(12) for x0, y0, x1, y1 in PAGE.boxes),
        (400, 2000),
    )
    windows = windows_of(page, trained(), NARROW)
    assert len(windows) > 3
    plain = split(page.text, trained(), NARROW)
    assert [w.encoding.token_ids for w in windows] == [w.encoding.token_ids for w in plain]
    whole = places(page)
    for window in windows:
        for (start, end), place in _tokens(window):
            assert place == (whole[start + window.start] if start < end else SPECIAL_POSITION)
    assert max(y for window in windows[-1:] for _, (_, y) in _tokens(window)) > 40, "not counted from the window"


def test_words_are_bounded_by_their_tokens() -> None:
    (window,) = windows_of(PAGE, trained(), WIDE)
    assert spelt(window, PAGE) == ["Ada", "Lovelace", "London"]


def test_a_word_that_a_window_cuts_has_no_bounds_in_it() -> None:
    page = Page(("Lovelace" * 12,), ((0, 0, 300, 10),), (400, 20))
    windows = windows_of(page, trained(), NARROW)
    assert len(windows) > 1
    assert all(window.encoding.words == () for window in windows)


@given(pages())
def test_words_that_a_tokenizer_reads_are_whole(page: Page) -> None:
    (window,) = windows_of(page, trained(), WIDE)
    found = spelt(window, page)
    rest = iter(page.words)
    assert all(word in rest for word in found), "each is a word of the page, in their order"
    firsts, lasts = ([word[side] for word in window.encoding.words or ()] for side in (0, 1))
    assert firsts == sorted(set(firsts))
    assert lasts == sorted(set(lasts))
    ranges = set(page.ranges)
    assert all(
        (window.encoding.offsets[first][0], window.encoding.offsets[last][1]) in ranges
        for first, last in window.encoding.words or ()
    )


@given(pages(), st.integers(0, 1000), st.integers(0, 1000), st.sampled_from((0.25, 1.0, 4.0)))
def test_t2_a_page_shifted_and_scaled_is_the_same_page(page: Page, right: int, down: int, scale: float) -> None:
    """Powers of two and whole numbers: what is computed is exact."""
    if all(x0 == x1 for x0, _, x1, _ in page.boxes) or all(y0 == y1 for _, y0, _, y1 in page.boxes):
        scale = 1.0  # nothing to measure by
    again = windows_of(moved(page, right, down, scale), trained(), WIDE)
    for one, other in zip(again, windows_of(page, trained(), WIDE), strict=True):
        assert one.encoding.words == other.encoding.words
        for place, expected in zip(one.encoding.positions or (), other.encoding.positions or (), strict=True):
            assert place == pytest.approx(expected, rel=1e-12)


def test_t2_a_word_that_moves_alone_stands_elsewhere() -> None:
    """The twin of the shift."""
    boxes = (PAGE.boxes[0], (150, 50, 230, 70), PAGE.boxes[2])
    assert places(dataclasses.replace(PAGE, boxes=boxes))[4] == (6, 1)


def test_boxes_next_to_nothing_are_no_unit() -> None:
    """Places in units of a box 1e-320 wide would be endless; a page of nothing but such boxes has unit 1."""
    words: tuple[str, str] = ("Ada", "London")
    speck: Box = (0, 0, 1e-320, 1e-320)
    assert places(Page(words, (speck, (0.5, 0.5, 1, 1)), (1, 1)))[4] == (7, 2.5)
    assert places(Page(words, (speck, (0.5, 0.5, 0.5, 0.5)), (1, 1)))[4] == (1.5, 1.5)


def test_the_size_that_a_page_declares_is_no_measure() -> None:
    for size in ((400, 300), (1e9, 1e9)):
        assert places(Page(PAGE.words, PAGE.boxes, size)) == places(PAGE)


def test_an_empty_page_has_an_empty_window() -> None:
    (window,) = windows_of(Page((), (), (10, 10)), trained(), WIDE)
    assert window.encoding.words == ()
    assert len(window.encoding.positions or ()) == trained().num_specials
