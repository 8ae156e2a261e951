from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ner_service.errors import ConfigError, InvalidTextError
from ner_service.text.tokenizer import TextTokenizer
from ner_service.text.windows import merge, split
from ner_service.types import Encoding, Entity, Window, WindowLimits
from tests.strategies import LABELS, texts
from tests.text.sample_tokenizers import ALL, trained

LIMITS = WindowLimits(max_tokens=14, overlap_tokens=4)
Answers = Sequence[tuple[Window, Sequence[Entity]]]


def spans_of(encoding: Encoding) -> list[tuple[int, int]]:
    return [(start, end) for start, end in encoding.offsets if start < end]


def window_texts(text: str, limits: WindowLimits = LIMITS) -> list[str]:
    return [text[window.start : window.end] for window in split(text, trained(), limits)]


def uncovered_runs(text: str, tokenizer: TextTokenizer, windows: Sequence[Window], num_tokens: int) -> list[str]:
    """Runs of so many tokens that lie whole in none of the windows."""
    spans = spans_of(tokenizer.encode(text))
    runs = (spans[first : first + num_tokens] for first in range(len(spans) - num_tokens + 1))
    ranges = [(min(start for start, _ in run), max(end for _, end in run)) for run in runs if run]
    return [
        text[start:end]
        for start, end in ranges
        if not any(window.start <= start and end <= window.end for window in windows)
    ]


# ---- split


@pytest.mark.parametrize("text", ["", "   ", "Ann visited Bob.", "\u200b"])
def test_a_text_that_fits_is_one_window(text: str) -> None:
    assert split(text, trained(), LIMITS) == [Window(0, len(text), trained().encode(text))]


def test_cuts_prefer_line_ends() -> None:
    assert window_texts("一二三四五。六七\n八九十。一二三四五六", WindowLimits(max_tokens=14, overlap_tokens=0)) == [
        "一二三四五。六七",
        "八九十。一二三四五六",
    ]


def test_cuts_prefer_sentence_ends_and_keep_the_closing_quote() -> None:
    assert window_texts("一二三四五六七。”八九十一二三四五六", WindowLimits(max_tokens=13, overlap_tokens=0)) == [
        "一二三四五六七。”",
        "八九十一二三四五六",
    ]


def test_a_point_in_a_number_is_no_sentence_end() -> None:
    windows = window_texts("11111111.1111 11111111", WindowLimits(max_tokens=15, overlap_tokens=0))
    assert windows == ["11111111.1111", "11111111"]


def test_cuts_prefer_word_ends_to_pieces() -> None:
    assert window_texts("qqqqqqqq qqqqqqqq", WindowLimits(max_tokens=14, overlap_tokens=0)) == ["qqqqqqqq", "qqqqqqqq"]


def test_the_next_window_starts_at_a_sentence() -> None:
    windows = window_texts("一二三四五。七八九十一二三四五六七八", WindowLimits(max_tokens=14, overlap_tokens=3))
    assert windows[1].startswith("七八九")


@pytest.mark.parametrize("unit", ["e\u0323\u0324", "👍🏽", "नि", "👩\u200d👧"])
def test_no_cut_within_what_the_reader_sees_as_one_character(unit: str) -> None:
    text = "北" + unit * 30
    for window in split(text, trained(), LIMITS):
        assert (window.start - 1) % len(unit) == 0 or window.start == 0
        assert (window.end - 1) % len(unit) == 0


@given(
    text=texts(60),
    tokenizer=st.sampled_from(ALL),
    max_tokens=st.integers(50, 80),
    overlap=st.integers(0, 8),
)
@settings(deadline=None, max_examples=150)
def test_windows_cover_the_text(
    text: str, tokenizer: Callable[[], TextTokenizer], max_tokens: int, overlap: int
) -> None:
    limits = WindowLimits(max_tokens=max_tokens, overlap_tokens=overlap)
    windows = split(text, tokenizer(), limits)
    assert windows[0].start == 0
    assert windows[-1].end == len(text)
    for window in windows:
        assert len(window.encoding) <= max_tokens
        assert window.encoding == tokenizer().encode(text[window.start : window.end])
    for before, after in pairwise(windows):
        assert before.start < after.start
        assert before.end < after.end
    assert uncovered_runs(text, tokenizer(), windows, 1) == []
    for num_tokens in range(2, overlap + 1):
        assert uncovered_runs(text, tokenizer(), windows, num_tokens) == []


@given(text=st.text(st.sampled_from("北京。a 1\n"), min_size=30, max_size=80), room=st.integers(3, 10))
@settings(deadline=None)
def test_any_limits_with_room_for_two_tokens_beyond_the_overlap_will_do(text: str, room: int) -> None:
    limits = WindowLimits(max_tokens=2 + 3 + room, overlap_tokens=3)
    windows = split(text, trained(), limits)
    assert uncovered_runs(text, trained(), windows, 3) == []


def test_windows_without_overlap_break_the_guarantee() -> None:
    """The must-fail twin: the check above finds what is missing."""
    windows = split("北京大学" * 10, trained(), WindowLimits(max_tokens=14, overlap_tokens=0))
    assert uncovered_runs("北京大学" * 10, trained(), windows, 2)
    assert uncovered_runs("北京大学" * 10, trained(), windows[:1], 1)


@pytest.mark.parametrize(
    "text", ["北" * 20_000, "q" * 20_000, "q" + " " * 50_000 + "q" * 20, "😀" * 5_000, "e\u0301" * 5_000]
)
def test_monsters_end_and_take_a_bounded_number_of_windows(text: str) -> None:
    windows = split(text, trained(), WindowLimits(max_tokens=66, overlap_tokens=16))
    num_tokens = len(trained().encode(text))
    # A window gains at least a quarter of what it has beyond the overlap.
    assert len(windows) <= num_tokens // 12 + 2
    assert windows[-1].end == len(text)


def test_a_token_longer_than_a_window_is_whole() -> None:
    """A word of unknown characters is one token of 5,000 characters."""
    text = "安 " * 10 + "q" * 5_000 + " 安" * 10
    windows = split(text, ALL[2](), WindowLimits(max_tokens=14, overlap_tokens=4))
    assert any("q" * 5_000 in text[window.start : window.end] for window in windows)


@pytest.mark.parametrize(
    "limits", [WindowLimits(max_tokens=6, overlap_tokens=4), WindowLimits(max_tokens=1, overlap_tokens=0)]
)
def test_limits_without_room_are_refused(limits: WindowLimits) -> None:
    with pytest.raises(ConfigError, match=f"max_tokens {limits.max_tokens} and overlap_tokens {limits.overlap_tokens}"):
        split("北" * 50, trained(), limits)


def test_an_empty_text_needs_room_for_the_special_tokens() -> None:
    assert len(split("", trained(), WindowLimits(max_tokens=2, overlap_tokens=0))) == 1
    with pytest.raises(ConfigError, match="max_tokens 1"):
        split("", trained(), WindowLimits(max_tokens=1, overlap_tokens=0))


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidTextError):
        split("北" * 50 + "\udc00", trained(), LIMITS)


# ---- merge

EMPTY = Encoding((), ())


def window(start: int, end: int) -> Window:
    return Window(start, end, EMPTY)


def found(start: int, end: int, score: float, label: str = "person") -> Entity:
    return Entity(start, end, label, score)


def scores(entities: Sequence[Entity]) -> dict[tuple[int, int, str], float | None]:
    return {(entity.start, entity.end, entity.label): entity.score for entity in entities}


def test_one_window_is_passed_on_in_order() -> None:
    merged = merge([(window(0, 9), [found(4, 6, 0.9), found(0, 3, 0.8), found(0, 9, 0.7)])])
    assert [(entity.start, entity.end) for entity in merged] == [(0, 9), (0, 3), (4, 6)]


def test_no_entity() -> None:
    assert merge([(window(0, 5), [])]) == []


def test_an_entity_of_two_windows_stands_once_with_its_best_score() -> None:
    merged = merge([(window(0, 10), [found(6, 8, 0.6)]), (window(4, 14), [found(2, 4, 0.9)])])
    assert scores(merged) == {(6, 8, "person"): 0.9}


def test_labels_are_told_apart() -> None:
    merged = merge([(window(0, 10), [found(6, 8, 0.6)]), (window(4, 14), [found(2, 4, 0.9, "place")])])
    assert scores(merged) == {(6, 8, "person"): 0.6, (6, 8, "place"): 0.9}


def test_the_window_that_holds_it_whole_decides_against_it() -> None:
    """[7, 10) ends at the first window's inner edge; the second holds it whole and says no."""
    assert merge([(window(0, 10), [found(7, 10, 0.9)]), (window(4, 14), [])]) == []


def test_the_window_that_holds_it_whole_gives_the_score() -> None:
    merged = merge([(window(0, 10), [found(7, 10, 0.9)]), (window(4, 14), [found(3, 6, 0.6)])])
    assert scores(merged) == {(7, 10, "person"): 0.6}


def test_at_the_edges_of_all_its_windows_it_counts() -> None:
    merged = merge([(window(0, 10), [found(4, 10, 0.9)]), (window(4, 14), [found(0, 6, 0.6)])])
    assert scores(merged) == {(4, 10, "person"): 0.9}


def test_the_edges_of_the_text_are_no_inner_edges() -> None:
    answers = [(window(0, 10), [found(0, 5, 0.9)]), (window(4, 14), [found(8, 10, 0.8)])]
    assert scores(merge(answers)) == {(0, 5, "person"): 0.9, (12, 14, "person"): 0.8}


@st.composite
def answered_windows(draw: st.DrawFn) -> Answers:
    """Windows with rising starts and ends that cover a text, each with any entities."""
    starts = sorted({0, *draw(st.lists(st.integers(1, 20), max_size=4))})
    ends: list[int] = []
    for following in [*starts[1:], starts[-1] + 1]:
        ends.append(draw(st.integers(max(following, *(end + 1 for end in ends[-1:]), 1), following + 12)))
    windows = [window(start, end) for start, end in zip(starts, ends, strict=True)]
    answers = []
    for piece in windows:
        length = piece.end - piece.start
        spans = draw(st.lists(st.tuples(st.integers(0, length - 1), st.integers(1, length)), max_size=6))
        score = st.floats(0.01, 1.0)
        entities = [Entity(a, b, draw(st.sampled_from(LABELS[:2])), draw(score)) for a, b in spans if a < b]
        answers.append((piece, entities))
    return answers


def brute_force(answers: Answers, *, edge_rule: bool = True) -> dict[tuple[int, int, str], float | None]:
    """The rule, read from its docstring, comparing everything with everything."""
    length = max(piece.end for piece, _ in answers)

    def touches(piece: Window, start: int, end: int) -> bool:
        return (start == piece.start and piece.start > 0) or (end == piece.end and piece.end < length)

    counted: dict[tuple[int, int, str], float | None] = {}
    for piece, entities in answers:
        for entity in entities:
            start, end = entity.start + piece.start, entity.end + piece.start
            holders = [
                other
                for other, _ in answers
                if other.start <= start and end <= other.end and not touches(other, start, end)
            ]
            if edge_rule and touches(piece, start, end) and holders:
                continue
            key = (start, end, entity.label)
            counted[key] = max(counted.get(key) or 0.0, entity.score or 0.0)
    return counted


@given(answers=answered_windows())
def test_merge_equals_brute_force(answers: Answers) -> None:
    merged = merge(answers)
    assert scores(merged) == brute_force(answers)
    assert [entity.key for entity in merged] == sorted({entity.key for entity in merged})


def test_merge_without_the_edge_rule_differs() -> None:
    """The must-fail twin: answers on which the rule matters."""
    answers = [(window(0, 10), [found(7, 10, 0.9)]), (window(4, 14), [])]
    assert scores(merge(answers)) != brute_force(answers, edge_rule=False)


@given(text=texts(60))
@settings(deadline=None, max_examples=50)
def test_entities_at_every_token_come_back_once(text: str) -> None:
    """A model that marks every token finds each of the text's tokens, wherever the cuts fall."""
    assume(text.strip())
    windows = split(text, trained(), WindowLimits(max_tokens=40, overlap_tokens=6))
    answers = [(w, [Entity(start, end, "token", 0.5) for start, end in spans_of(w.encoding)]) for w in windows]
    merged = merge(answers)
    assert len(merged) == len(set(merged))
    covered = {position for entity in merged for position in range(entity.start, entity.end)}
    assert {position for start, end in spans_of(trained().encode(text)) for position in range(start, end)} <= covered
