from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from ner_service.errors import DataError
from ner_service.formats.lines import read_lines, write_lines
from tests.commands import files_end_at


def rows(path: Path) -> list[tuple[int | None, str]]:
    return [(line.number, line.text) for line in read_lines(path)]


def test_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo\n\nfo\u2028ur\rx".encode())
    assert rows(path) == [(1, "one"), (2, "two"), (3, ""), (4, "fo\u2028ur\rx")]


def test_gzip_is_told_by_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(gzip.compress("北\n".encode()))
    assert rows(path) == [(1, "北")]


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\nab\xff\n")
    with pytest.raises(DataError, match=r"a\.txt:2: found byte 0xFF at position 2 of the line, expected UTF-8"):
        rows(path)


@pytest.mark.parametrize("damage", [slice(0, -9), slice(0, 15)])
def test_damaged_gzip_is_refused(tmp_path: Path, damage: slice) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"some text\n" * 50)[damage])
    with pytest.raises(DataError, match="damaged gzip"):
        rows(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        rows(tmp_path / "absent")


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_written_lines_are_read_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new" / name
    write_lines(path, ["北", "", "x"])
    assert rows(path) == [(1, "北"), (2, ""), (3, "x")]
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")


def test_equal_lines_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        write_lines(tmp_path / name, ["x"])
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def failing() -> Iterator[str]:
        yield "new"
        raise RuntimeError("no more")

    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        write_lines(path, failing())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_full_disk_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with files_end_at(16), pytest.raises(OSError, match="File too large") as caught:
        write_lines(path, ["some text", "of more than", "16 bytes"])
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
