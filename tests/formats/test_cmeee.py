from __future__ import annotations

import json
from pathlib import Path

import pytest

from ner_service.errors import DataError
from ner_service.formats import cmeee
from ner_service.types import Document, Entity

RECORD = {"text": "肺部感染", "entities": [{"start_idx": 0, "end_idx": 3, "type": "dis", "entity": "肺部感染"}]}
EXPECTED = Document("肺部感染", (Entity(0, 4, "dis"),))


def read(tmp_path: Path, content: str) -> list[Document]:
    path = tmp_path / "a.json"
    path.write_text(content, "utf-8")
    return list(cmeee.read(path))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([RECORD, RECORD]),
        json.dumps([RECORD, RECORD], indent=2, ensure_ascii=False),
        "\n" + json.dumps(RECORD) + "\n\n" + json.dumps(RECORD),
        "肺部感染|||0    3    dis|||\r\n肺部感染|||0 3 dis|||0 3 dis|||\r\n",
    ],
)
def test_all_its_forms(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content) == [EXPECTED, EXPECTED]


def test_nested_entities_and_none(tmp_path: Path) -> None:
    content = "肺部感染|||0    1    bod|||0    3    dis|||\n没有|||"
    assert read(tmp_path, content) == [
        Document("肺部感染", (Entity(0, 4, "dis"), Entity(0, 2, "bod"))),
        Document("没有"),
    ]


def test_an_empty_array(tmp_path: Path) -> None:
    assert read(tmp_path, " [ ] \n") == []


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("肺|||0 0 dis|||\n肺|||0 0 dis", 2, "expected text"),
        ("肺|||0 0|||", 1, "entity 1: found '0 0', expected: start end label"),
        ("肺|||0 x dis|||", 1, "entity 1: found '0 x dis'"),
        ("肺|||0 1 dis|||", 1, r"the span \[0, 2\), expected 0 <= start < end <= 1"),
        ("肺炎|||1 0 dis|||", 1, r"the span \[1, 1\)"),
        (json.dumps([RECORD], indent=1) + "]", 13, "after the array"),
        (f"[\n{json.dumps(RECORD)},\n]", 3, "found no valid JSON"),
        (f"[\n{json.dumps(RECORD)}", 2, "expected a comma or the end of the array"),
        ("[\n{\n]", 3, "found no valid JSON"),
        ("[\n\n{}\n]", 3, "text: missing"),
        ("[3]", 1, "the document: found 3, expected an object"),
        (json.dumps(RECORD | {"text": "肺部的感染"}), 1, "found the mention"),
        (json.dumps({"text": "肺", "entities": [{"start_idx": 0, "end_idx": 0}]}), 1, r"entities\[0\]\.type: missing"),
    ],
)
def test_faults(tmp_path: Path, content: str, line: int, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert caught.value.line == line


def test_exclusive_ends_are_noticed_by_the_mention(tmp_path: Path) -> None:
    item = {"start_idx": 0, "end_idx": 2, "type": "bod", "entity": "肺部"}
    with pytest.raises(DataError, match="found the mention"):
        read(tmp_path, json.dumps([{"text": "肺部感染", "entities": [item]}]))


def test_written_form(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    cmeee.write([EXPECTED, EXPECTED], path)
    assert json.loads(path.read_text("utf-8")) == [RECORD, RECORD]
    cmeee.write([], path)
    assert json.loads(path.read_text("utf-8")) == []
