"""Pages as JSON Lines, and what every format of pages is held to."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ner_service.errors import ConfigError, DataError
from ner_service.formats import READ_ONLY, read_documents, write_documents
from ner_service.formats.pages import spread
from ner_service.types import Document, Entity, Page
from tests.strategies import documents, page_documents

RECORD = {
    "id": "form",
    "words": ["Total", "9.50", "EUR"],
    "boxes": [[0, 0, 50, 10], [60, 0, 100, 10.5], [110, 0, 140, 10]],
    "page": [200, 20],
    "entities": [{"start": 1, "end": 3, "label": "sum", "text": "9.50 EUR"}],
    "genre": "receipt",
}


def read(folder: Path, **changes: Any) -> Document:
    record = {key: value for key, value in {**RECORD, **changes}.items() if value is not None}
    (folder / "a.jsonl").write_text(json.dumps(record), encoding="utf-8")
    [document] = read_documents(folder / "a.jsonl")
    return document


def test_a_line_with_words_is_a_page(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found.text == "Total 9.50 EUR"
    assert found.entities == (Entity(6, 14, "sum"),)
    assert found.page == Page(
        ("Total", "9.50", "EUR"), ((0, 0, 50, 10), (60, 0, 100, 10.5), (110, 0, 140, 10)), (200, 20)
    )
    assert (found.id, found.metadata) == ("form", {"genre": "receipt"})


@pytest.mark.parametrize(
    "extra", [{"page": 3, "boxes": "x"}, {"words": ["Total", "9.50"]}, {"words": ["a"], "boxes": [], "page": None}]
)
def test_beside_a_text_words_boxes_and_page_are_metadata(tmp_path: Path, extra: dict[str, Any]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "Total 9.50", "entities": [], **extra}), encoding="utf-8")
    [document] = read_documents(path)
    assert (document.text, document.page, document.metadata) == ("Total 9.50", None, extra)
    write_documents([document], path)
    [again] = read_documents(path)
    assert (again, again.metadata) == (document, extra)


@given(st.lists(page_documents() | documents(), min_size=1, max_size=3))
def test_round_trip_of_pages_and_texts(batch: list[Document]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        write_documents(batch, path)
        assert list(read_documents(path)) == batch


BOX = [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"words": None}, "text: missing; found the keys 'id', 'boxes', .*, expected 'text', or 'words' of a page"),
        ({"words": "Total"}, 'words: found "Total", expected a list'),
        ({"words": ["a", 2, "c"]}, r"words\[1\]: found 2, expected a string"),
        ({"words": ["a", "", "c"]}, "words/1: word 1: found an empty word"),
        ({"boxes": None}, "boxes: missing"),
        ({"boxes": [BOX]}, "boxes: found 1 boxes, expected 3, one for each word"),
        ({"boxes": [BOX, [0, 0, 1], BOX]}, r"boxes\[1\]: found 3 numbers, expected 4"),
        ({"boxes": [BOX, [0, "0", 1, 1], BOX]}, r"boxes\[1\]\[1\]: found \"0\", expected a number"),
        ({"boxes": [BOX, [0, 0, True, 1], BOX]}, r"boxes\[1\]\[2\]: found True, expected a number"),
        ({"boxes": [BOX, BOX, [0, 0, 10**400, 1]]}, "boxes/2/2: box of word 2: found x1 = inf"),
        ({"boxes": [BOX, [0, 0, float("nan"), 1], BOX]}, "boxes/1/2: box of word 1: found x1 = nan"),
        ({"boxes": [BOX, BOX, [0, -1, 1, 1]]}, "boxes/2/1: box of word 2: found y0 = -1.0, expected 0 or more"),
        ({"boxes": [BOX, BOX, [0, 0, 201, 1]]}, "boxes/2/2: .* expected at most 200.0, the page's width"),
        ({"page": [200]}, "page: found 1 numbers, expected 2"),
        ({"page": None}, "page: found None, expected a list"),
        ({"page": [0, 20]}, "page/0: found 0.0, expected a length above 0"),
        (
            {"entities": [{"start": 2, "end": 4, "label": "x"}]},
            r"span \[2, 4\), expected 0 <= start < end <= 3, the number",
        ),
        ({"entities": [{"start": 1, "end": 1, "label": "x"}]}, r"span \[1, 1\), expected 0 <= start < end <= 3"),
        ({"entities": [{"start": 1, "end": 2, "label": ""}]}, 'found the label ""'),
        (
            {"entities": [{"start": 1, "end": 2, "label": "x", "text": "EUR"}]},
            'found the mention "EUR", expected "9.50"',
        ),
    ],
)
def test_faults_name_the_line_and_the_word(tmp_path: Path, changes: dict[str, Any], detail: str) -> None:
    with pytest.raises(DataError, match=rf"a\.jsonl:1: .*{detail}"):
        read(tmp_path, **changes)


def test_what_a_page_cannot_say_is_not_written(tmp_path: Path) -> None:
    page = Page(("Ada", "Love"), ((0, 0, 1, 1), (1, 0, 2, 1)), (2, 1))
    torn = Document(page.text, (Entity(1, 8, "PER"),), page=page)
    with pytest.raises(
        DataError, match=r"document 1: found Entity\(start=1, .* expected the code points of whole words"
    ):
        write_documents([torn], tmp_path / "a.jsonl")
    with pytest.raises(
        DataError, match=r"document 1: found metadata 'text', expected other keys than id, text, .* page"
    ):
        write_documents([Document(page.text, page=page, metadata={"text": "Ada"})], tmp_path / "a.jsonl")
    scattered = Document(page.text, page=page, scattered=(Entity(0, 8, "PER"),))
    with pytest.raises(DataError, match="document 1: found mentions scattered over a page"):
        write_documents([scattered], tmp_path / "a.jsonl")


@pytest.mark.parametrize("format", READ_ONLY)
def test_what_is_only_read_is_not_written(tmp_path: Path, format: str) -> None:
    with pytest.raises(ConfigError, match=f"format: found '{format}', which is only read; write pages as 'jsonl'"):
        write_documents([], tmp_path / "a", format)


@pytest.mark.parametrize("format", ["funsd", "hocr", "alto"])
def test_a_folder_without_a_page_is_refused(tmp_path: Path, format: str) -> None:
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match=r"found no file in the folder, expected some that end in \."):
        list(read_documents(tmp_path, format))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no file in the folder, expected some that end in \."):
        list(read_documents(tmp_path))


def test_words_share_the_box_of_their_line() -> None:
    assert list(spread(" ab  c ", (10, 0, 80, 5))) == [("ab", (20, 0, 40, 5)), ("c", (60, 0, 70, 5))]
    assert list(spread("  ", (10, 0, 80, 5))) == []
    assert list(spread("abc", (0, 0, 0.1, 5))) == [("abc", (0, 0, 0.1, 5))]
