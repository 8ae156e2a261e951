from __future__ import annotations

import json
from pathlib import Path

import pytest

from ner_service.errors import DataError
from ner_service.formats import jsonl
from ner_service.types import Document, Entity

GOOD = {"id": "1", "text": "Ann in Beijing", "entities": [{"start": 0, "end": 3, "label": "person"}]}


def read(tmp_path: Path, *lines: object) -> list[Document]:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return list(jsonl.read(path))


def test_a_document(tmp_path: Path) -> None:
    [document] = read(tmp_path, GOOD | {"genre": "news", "annotated": ["person", "place"]})
    assert document == Document("Ann in Beijing", (Entity(0, 3, "person"),), "1", frozenset({"person", "place"}))
    assert document.metadata == {"genre": "news"}


def test_entities_come_outer_first_and_once(tmp_path: Path) -> None:
    spans = [(7, 14), (0, 3), (0, 14), (0, 3)]
    items = [{"start": start, "end": end, "label": "x"} for start, end in spans]
    [document] = read(tmp_path, {"text": "Ann in Beijing", "entities": items})
    assert [(entity.start, entity.end) for entity in document.entities] == [(0, 14), (0, 3), (7, 14)]


def test_offsets_are_code_points(tmp_path: Path) -> None:
    [document] = read(tmp_path, {"text": "😀Ann", "entities": [{"start": 1, "end": 4, "label": "x", "text": "Ann"}]})
    assert document.text[1:4] == "Ann"


def test_a_number_for_an_id_and_a_score(tmp_path: Path) -> None:
    item = {"start": 0, "end": 1, "label": "x", "score": 1}
    [document] = read(tmp_path, {"id": 7, "text": "a", "entities": [item]})
    assert document.id == "7"
    assert document.entities[0].score == 1.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "found no valid JSON"),
        ("[" * 100_000, "found no valid JSON"),
        ("[]", r"the line: found \[\], expected an object"),
        ({"entities": []}, "text: missing; found the keys 'entities', expected 'text', or 'words' of a page"),
        ({"text": "a"}, "entities: missing; found the keys 'text', expected a list"),
        (GOOD | {"text": 3}, "text: found 3, expected a string"),
        (GOOD | {"text": "Ann \ud800 Beijing"}, r"text: found a lone surrogate U\+D800 at character 4"),
        ('{"text": "Ann", "entities": [], "text": "Bo"}', "the key 'text' stands twice in one object"),
        (GOOD | {"id": True}, "id: found True, expected a string"),
        (GOOD | {"id": "\ud800"}, "id: found a lone surrogate"),
        (GOOD | {"entities": None}, "entities: found None, expected a list"),
        (GOOD | {"entities": [3]}, r"entities\[0\]: found 3, expected an object"),
        (GOOD | {"entities": [{"start": 0, "label": "x"}]}, r"entities\[0\]\.end: missing"),
        (
            GOOD | {"entities": [{"start": False, "end": 3, "label": "x"}]},
            "start: found False, expected a whole number",
        ),
        (GOOD | {"entities": [{"start": 0, "end": 2.0, "label": "x"}]}, "end: found 2.0, expected a whole number"),
        (GOOD | {"entities": [{"start": 0, "end": 3, "label": 5}]}, "label: found 5, expected a string"),
        (GOOD | {"entities": [{"start": 0, "end": 3, "label": ""}]}, 'found the label "", expected a name on one line'),
        (GOOD | {"entities": [{"start": 0, "end": 3, "label": "PER "}]}, 'found the label "PER ", expected a name'),
        (GOOD | {"annotated": ["person", "a\nb"]}, r'annotated\[1\]: found the label "a\\nb", expected a name'),
        (
            GOOD | {"entities": [{"start": 3, "end": 3, "label": "x"}]},
            r"the span \[3, 3\), expected 0 <= start < end <= 14",
        ),
        (GOOD | {"entities": [{"start": 9, "end": 15, "label": "x"}]}, r"the span \[9, 15\), expected"),
        (GOOD | {"entities": [{"start": -1, "end": 3, "label": "x"}]}, r"the span \[-1, 3\), expected"),
        (
            GOOD | {"entities": [{"start": 0, "end": 3, "label": "x", "text": "nn "}]},
            'the mention "nn ", expected "Ann"',
        ),
        (
            GOOD | {"entities": [{"start": 0, "end": 3, "label": "x", "score": "1"}]},
            'score: found "1", expected a number',
        ),
        (
            GOOD | {"entities": [{"start": 0, "end": 3, "label": "x", "score": True}]},
            "score: found True, expected a number",
        ),
        (
            GOOD | {"entities": [{"start": 0, "end": 3, "label": "x", "score": 10**400}]},
            "score: found inf, expected a finite number",
        ),
        (GOOD | {"flat": 1}, "flat: found 1, expected true or false"),
        (GOOD | {"annotated": "person"}, 'annotated: found "person", expected a list'),
        (GOOD | {"annotated": ["place"]}, "annotated: found an entity 'person', expected only"),
    ],
)
def test_faults_name_file_line_found_and_expected(tmp_path: Path, line: object, message: str) -> None:
    with pytest.raises(DataError, match=rf"a\.jsonl:3: .*{message}") as caught:
        read(tmp_path, GOOD, "", line)
    assert caught.value.line == 3


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (Document("a", metadata={"text": 1}), "found metadata 'text'"),
        (Document("a", metadata={"x": {1}}), "expected Unicode text and JSON values"),
        (Document("a", metadata={"x": float("nan")}), "expected Unicode text and JSON values"),
        (Document("\ud800"), r"found a lone surrogate U\+D800 at character 0"),
        (Document("a", metadata={"x": "\ud800"}), "expected Unicode text and JSON values"),
        (Document("a", (Entity(0, 2, "x"),)), "expected a span within 1 characters"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, document: Document, message: str) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(DataError, match=f"document 2: .*{message}"):
        jsonl.write([Document("fine"), document], path)
    assert not path.exists()


def test_everything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    document = Document(
        text="北京",
        entities=(Entity(0, 2, "place", 0.5),),
        id="7",
        annotated=frozenset({"place"}),
        flat=True,
        metadata={"genre": "news"},
    )
    jsonl.write([document], path)
    assert json.loads(path.read_text("utf-8")) == {
        "id": "7",
        "text": "北京",
        "entities": [{"start": 0, "end": 2, "label": "place", "score": 0.5}],
        "annotated": ["place"],
        "flat": True,
        "genre": "news",
    }
    assert list(jsonl.read(path)) == [document]
    assert "北京" in path.read_text("utf-8")
