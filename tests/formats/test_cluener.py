from __future__ import annotations

import json
from pathlib import Path

import pytest

from ner_service.errors import DataError
from ner_service.formats import cluener
from ner_service.types import Document, Entity


def read(tmp_path: Path, *lines: object) -> list[Document]:
    path = tmp_path / "a.json"
    path.write_text("\n".join(map(json.dumps, lines)))
    return list(cluener.read(path))


def test_ends_are_inclusive(tmp_path: Path) -> None:
    labels = {"place": {"北京": [[0, 1], [3, 4]]}, "group": {"北京大学": [[3, 6]]}}
    [document] = read(tmp_path, {"text": "北京的北京大学", "label": labels})
    assert document.entities == (Entity(0, 2, "place"), Entity(3, 7, "group"), Entity(3, 5, "place"))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "北京"}, "label: missing"),
        ({"text": "北京", "label": []}, r"label: found \[\], expected an object"),
        ({"text": "北京", "label": {"x": [[0, 1]]}}, "label.x: found .*expected an object"),
        ({"text": "北京", "label": {"x": {"北京": [0, 1]}}}, "label.x.北京: found 0, expected a list"),
        ({"text": "北京", "label": {"x": {"北京": [[0]]}}}, r"found \[0\], expected \[start, end\]"),
        ({"text": "北京", "label": {"x": {"北京": [[0, True]]}}}, "found True, expected a whole number"),
        ({"text": "北京", "label": {"x": {"北京": [[0, 2]]}}}, r"the span \[0, 3\), expected"),
        ({"text": "北京人", "label": {"x": {"北京": [[0, 2]]}}}, "found the mention"),
    ],
)
def test_faults(tmp_path: Path, record: object, message: str) -> None:
    with pytest.raises(DataError, match=rf"a\.json:2: .*{message}"):
        read(tmp_path, {"text": "", "label": {}}, record)


def test_written_form(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    cluener.write([Document("北京北京", (Entity(0, 2, "x"), Entity(2, 4, "x")))], path)
    assert json.loads(path.read_text("utf-8")) == {"text": "北京北京", "label": {"x": {"北京": [[0, 1], [2, 3]]}}}


def test_partial_annotation_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="document 1: found partial annotation"):
        cluener.write([Document("a", annotated=frozenset({"x"}))], tmp_path / "a.json")
