"""Rounds of lines are the same however they are come by; sentences lose nothing but white space."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ner_service.errors import ConfigError, DataError
from ner_service.formats.lines import Line, read_lines
from tests.strategies import texts
from training.data import texts as module
from training.data.texts import TextStream, paragraphs, sentences


def write(folder: Path, *contents: Sequence[str]) -> list[Path]:
    """A file for each list of lines, every second one gzipped."""
    paths = []
    for number, lines in enumerate(contents):
        content = "".join(f"{line}\n" for line in lines).encode()
        paths.append(folder / (f"{number}.txt.gz" if number % 2 else f"{number}.txt"))
        paths[-1].write_bytes(gzip.compress(content) if number % 2 else content)
    return paths


def numbered(*lengths: int) -> list[list[str]]:
    """Files of so many lines: "a1", "a2", ... in the first, "b1", ... in the second."""
    return [[f"{name}{line}" for line in range(1, n + 1)] for name, n in zip("abcdefgh", lengths, strict=False)]


def test_files_take_turns_then_begin_anew(tmp_path: Path) -> None:
    stream = TextStream(write(tmp_path, *numbered(2, 4, 1)), 4)
    rounds = [stream.round(index) for index in range(4)]
    assert rounds == [["a1", "b1", "c1", "a2"], ["b2", "b3", "b4"]] * 2


def test_empty_lines_and_white_space_around_do_not_count(tmp_path: Path) -> None:
    paths = write(tmp_path, ["", "  one way ", "\u3000", "\u3000\u3000第二段\r"], [])
    assert TextStream(paths, 2).round(0) == ["one way", "第二段"]


@pytest.mark.parametrize("size", [50, 51, 20_000])
def test_a_round_longer_than_the_corpus_holds_it_once(tmp_path: Path, size: int) -> None:
    stream = TextStream(write(tmp_path, *numbered(50)), size)
    assert stream.round(0) == stream.round(1) == stream.round(7) == [f"a{n}" for n in range(1, 51)]


LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any)


@given(LENGTHS, st.integers(1, 9), st.lists(st.integers(0, 20), min_size=1, max_size=6))
def test_a_round_is_a_piece_of_one_pass(lengths: list[int], size: int, indices: list[int]) -> None:
    """In whatever order rounds are asked for: a resumed run sees what an uninterrupted one sees."""
    contents = numbered(*lengths)
    once = [line for line in chain.from_iterable(zip_longest(*contents)) if line is not None]
    with TemporaryDirectory() as folder:
        stream = TextStream(write(Path(folder), *contents), size)
        for index in indices:
            first = index * size % (-(-len(once) // size) * size)
            assert stream.round(index) == once[first : first + size]


@pytest.fixture
def lines_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of every line read from a file."""
    numbers: list[int] = []

    def counted(path: Path) -> Iterator[Line]:
        for line in read_lines(path):
            numbers.append(line.number)
            yield line

    monkeypatch.setattr(module, "read_lines", counted)
    return numbers


def test_rounds_in_a_row_read_every_line_once(tmp_path: Path, lines_read: list[int]) -> None:
    stream = TextStream(write(tmp_path, *numbered(50)), 10)
    for index in range(4):
        stream.round(index)
        assert lines_read == list(range(1, 10 * index + 11))


def test_going_back_reads_anew(tmp_path: Path, lines_read: list[int]) -> None:
    """Must fail: the counter above tells a stream that reads a line twice."""
    stream = TextStream(write(tmp_path, *numbered(50)), 10)
    stream.round(1)
    stream.round(0)
    assert lines_read == [*range(1, 21), *range(1, 11)]


def test_the_last_round_is_kept_and_later_ones_are_read_on_from_it(tmp_path: Path, lines_read: list[int]) -> None:
    stream = TextStream(write(tmp_path, *numbered(50)), 10)
    assert stream.round(1) is stream.round(1)
    assert stream.round(4) == [f"a{n}" for n in range(41, 51)]
    assert lines_read == list(range(1, 51))


def test_a_far_round_reads_the_corpus_at_most_twice(tmp_path: Path, lines_read: list[int]) -> None:
    assert TextStream(write(tmp_path, *numbered(50)), 10).round(1_000_003) == [f"a{n}" for n in range(31, 41)]
    assert lines_read == [*range(1, 51), *range(1, 41)]


def test_faults_name_file_and_line(tmp_path: Path) -> None:
    good, bad = write(tmp_path, ["fine"] * 5, ["fine"])
    bad.write_bytes(gzip.compress(b"fine\n\nab\xff\n"))
    stream = TextStream([good, bad], 3)
    assert stream.round(0) == ["fine"] * 3
    for _ in range(2):  # a fault stays one when asked again
        with pytest.raises(DataError, match=r"1\.txt\.gz:3: found byte 0xFF at position 2"):
            stream.round(1)
    with pytest.raises(DataError, match=r"absent\.txt: cannot be read: No such file"):
        TextStream([good, tmp_path / "absent.txt"], 2).round(0)


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"0\.txt: found no text in any of the 2 files from this one on, expected a para"
    ):
        TextStream(write(tmp_path, ["", "  "], []), 1).round(3)


def test_no_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="found no text file, expected at least one"):
        TextStream([], 1)


def test_paragraphs_are_lines_with_any_text(tmp_path: Path) -> None:
    plain, zipped = write(tmp_path, ["", "  one way ", "\u3000", "第二段\r"], ["in a bed", " "])
    assert list(paragraphs(plain)) == ["one way", "第二段"]
    assert list(paragraphs(zipped)) == ["in a bed"]
    with pytest.raises(DataError, match=r"absent\.txt: cannot be read"):
        next(paragraphs(tmp_path / "absent.txt"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("雨停了。路还湿！你走吗？", ["雨停了。", "路还湿！", "你走吗？"]),
        ("先洗手；再吃饭", ["先洗手；", "再吃饭"]),
        ("什么？！真的！！！", ["什么？！", "真的！！！"]),
        ("她说：“好。”他走了（真的吗？）。完", ["她说：“好。”", "他走了（真的吗？）。", "完"]),
        ("It cost 3.14 today. Ask b.c for more.", ["It cost 3.14 today.", "Ask b.c for more."]),
        ('"Wait!" she said. "No."  Then: why?"Because"', ['"Wait!"', "she said.", '"No."', "Then: why?", '"Because"']),
        ("one\r\n\n two \u2028three", ["one", "two", "three"]),
        (" \u3000\n", []),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(texts())
def test_sentences_are_the_text_but_for_white_space_between_them(text: str) -> None:
    position = 0
    for sentence in sentences(text):
        assert sentence == sentence.strip() != ""
        start = text.index(sentence, position)
        assert not text[position:start].strip()
        position = start + len(sentence)
    assert not text[position:].strip()


@given(texts())
def test_a_sentence_has_no_end_inside(text: str) -> None:
    for sentence in sentences(text):
        assert len(sentence.splitlines()) == 1
        assert not re.search(r"[。！？；;?!]\w|\.\s", sentence)
