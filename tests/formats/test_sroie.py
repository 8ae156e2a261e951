"""SROIE's own folders, on receipts of our own."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from ner_service.errors import DataError
from ner_service.formats import read_documents
from ner_service.types import Document

LINES = (
    "10,0,110,0,110,10,10,10,CORNER BAKERY",
    "10,20,130,20,130,30,10,30,4 MILL LANE, LEEDS",
    "10,40,90,40,90,50,10,50,Sum: 3.20",
    "10,60,90,60,90,70,10,70,Due: 3.20",
    "",
)
VALUES = {"company": "Corner Bakery", "address": "4 MILL LANE,LEEDS", "total": "3.20"}


def write(folder: Path, lines: tuple[str, ...] = LINES, values: object = VALUES, keys: str = "key") -> Path:
    for name in ("box", keys):
        (folder / name).mkdir(exist_ok=True)
    (folder / "box" / "007.csv").write_text("\r\n".join(lines), encoding="utf-8")
    (folder / keys / "007.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
    return folder


def mentions(document: Document) -> dict[str, str]:
    return {entity.label: document.text[entity.start : entity.end] for entity in document.entities}


@pytest.mark.parametrize("keys", ["key", "entities"])
def test_values_are_found_among_the_words(tmp_path: Path, keys: str) -> None:
    [document] = read_documents(write(tmp_path, keys=keys))
    assert document.id == "007"
    assert document.text == "CORNER BAKERY 4 MILL LANE, LEEDS Sum: 3.20 Due: 3.20"
    assert mentions(document) == {"company": "CORNER BAKERY", "address": "4 MILL LANE, LEEDS", "total": "3.20"}
    assert document.annotated is None
    total = next(entity for entity in document.entities if entity.label == "total")
    assert total.end == len(document.text), "the last place, not the first"


def test_gzipped_files_are_the_same(tmp_path: Path) -> None:
    plain = list(read_documents(write(tmp_path)))
    for file in (tmp_path / "box" / "007.csv", tmp_path / "key" / "007.json"):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert list(read_documents(tmp_path)) == plain


def test_words_share_the_width_of_their_line(tmp_path: Path) -> None:
    """13 characters on 100: 'BAKERY' begins with the eighth."""
    [document] = read_documents(write(tmp_path))
    assert document.page is not None
    assert document.page.boxes[1] == pytest.approx((10 + 700 / 13, 0, 110, 10))
    assert document.page.size == (130, 70)


def test_a_value_that_is_nowhere_leaves_its_label_unknown(tmp_path: Path) -> None:
    [document] = read_documents(write(tmp_path, values={**VALUES, "date": "2 May", "company": ""}))
    assert document.annotated == {"address", "total"}
    assert set(mentions(document)) == {"address", "total"}


@pytest.mark.parametrize(
    ("lines", "values", "detail"),
    [
        (("1,2,3,4,5,6,7,8",), VALUES, r"box/007\.csv:1: found 8 fields, expected 8 numbers and a text"),
        ((LINES[0], "1,2,x,4,5,6,7,8,a"), VALUES, r"box/007\.csv:2: found could not convert .*'x', expected 8 numbers"),
        (
            (LINES[0], "-1,0,9,0,9,9,-1,9,a"),
            VALUES,
            r"box/007\.csv:2: found the corner -1.0, expected a number from 0 to 1e\+09",
        ),
        (("", "1,0,9,0,nan,9,1,9,a"), VALUES, r"box/007\.csv:2: found the corner nan, expected a number from 0"),
        (("1,0,9,0,9,inf,1,9,a",), VALUES, r"box/007\.csv:1: found the corner inf, expected a number from 0"),
        (LINES, ["total"], r"key/007\.json: the file: found \['total'\], expected an object"),
        (LINES, {"total": 3.2}, r"key/007\.json: total: found 3.2, expected a string"),
        (LINES, {"total ": "3.20"}, r'key/007\.json: a key: found the label "total ", expected a name'),
    ],
)
def test_faults_name_the_file(tmp_path: Path, lines: tuple[str, ...], values: object, detail: str) -> None:
    with pytest.raises(DataError, match=detail):
        list(read_documents(write(tmp_path, lines, values)))


def test_both_folders_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no folder 'box' in it, expected one beside a folder 'key'"):
        list(read_documents(tmp_path, "sroie"))
    write(tmp_path)
    (tmp_path / "key" / "007.json").unlink()
    with pytest.raises(DataError, match=r"key/007\.json: found no such file, expected what the receipt says"):
        list(read_documents(tmp_path))
