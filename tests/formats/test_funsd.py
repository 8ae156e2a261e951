"""FUNSD's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ner_service.errors import DataError
from ner_service.formats import read_documents
from ner_service.types import Document, Entity


def item(label: str, *words: tuple[str, list[Any]]) -> dict[str, Any]:
    return {"label": label, "words": [{"text": text, "box": box} for text, box in words], "linking": [], "id": 0}


FORM = [
    item("question", ("Name:", [10, 10, 60, 20])),
    item("answer", ("Ada", [70, 10, 100, 20]), ("", [100, 10, 100, 20]), ("Lovelace", [110, 10, 190, 22])),
    item("other", ("page", [10, 90, 40, 100])),
    item("header"),
]


def read(path: Path, form: object = FORM, indent: int | None = 4) -> list[Document]:
    path.write_text(json.dumps({"form": form}, indent=indent), encoding="utf-8")
    return list(read_documents(path))


@pytest.mark.parametrize("indent", [4, None])
def test_items_are_mentions_of_their_words(tmp_path: Path, indent: int | None) -> None:
    [document] = read(tmp_path / "0001.json", indent=indent)
    assert document.text == "Name: Ada Lovelace page"
    assert document.entities == (Entity(0, 5, "question"), Entity(6, 18, "answer"))
    assert document.id == "0001"
    assert document.page is not None
    assert document.page.boxes[2] == (110, 10, 190, 22)
    assert document.page.size == (190, 100)


def test_a_folder_is_read_by_name(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        read(tmp_path / f"{name}.json")
    (tmp_path / "readme.txt").write_text("none of them")
    (tmp_path / "LICENSE").write_text("nor this")
    for name in (".DS_Store", ".gitkeep", "._a.json"):
        (tmp_path / name).write_bytes(b"\0\0\0\1Bud1\xff")
    assert [document.id for document in read_documents(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "begin", ['{"form": [', '{ "form" :\n[', '\n{\n\n"form": [', '{\n "img": "a.png",\n "width": 7,\n "form": [']
)
def test_a_form_is_told_by_how_it_begins(tmp_path: Path, begin: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"{begin}\n{json.dumps(FORM[0])}\n]}}\n", encoding="utf-8")
    [document] = read_documents(path)
    assert document.text == "Name:"


def test_a_line_of_json_that_has_a_form_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "Ada", "entities": [], "form": "short"}\n', encoding="utf-8")
    [document] = read_documents(path)
    assert (document.text, document.page) == ("Ada", None)


@pytest.mark.parametrize(
    ("form", "detail"),
    [
        ({}, "form: found {}, expected a list"),
        ([{"words": []}], r"form\[0\]\.label: missing"),
        ([item("answer", ("a", [0, 0, 1]))], r"form\[0\]\.words\[0\]\.box: found 3 numbers, expected 4"),
        ([item(" answer", ("a", [0, 0, 1, 1]))], r'form\[0\]: found the label " answer", expected a name'),
        ([item("answer", ("a", [0, 0, 1, -1]))], "boxes/0/3: box of word 0: found y1 = -1.0"),
        ([FORM[0], item("answer", ("a", [5, 0, 1, 1]))], "boxes/1/2: box of word 1: found x0 = 5.0 and x1 = 1.0"),
    ],
)
def test_faults_name_the_file_and_the_place(tmp_path: Path, form: object, detail: str) -> None:
    with pytest.raises(DataError, match=rf"a\.json: {detail}"):
        read(tmp_path / "a.json", form)
