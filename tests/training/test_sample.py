"""What `ner-train init` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ner_service.errors import ConfigError
from ner_service.formats import read_documents
from training.config import load_run
from training.evaluation import has_overlap
from training.sample import sample_documents, write_sample


def test_the_sample_is_a_run_and_its_documents(tmp_path: Path) -> None:
    run = write_sample(tmp_path / "new" / "sample")
    config = load_run(run)
    assert (config.name, config.data.join) == ("sample", 0.5)
    train, dev, calibration = (
        list(read_documents(run.parent / f"{name}.jsonl")) for name in ("train", "dev", "calibration")
    )
    assert (len(train), len(dev), len(calibration)) == (400, 80, 80)
    assert [*train, *dev, *calibration] == sample_documents(560)
    assert len({document.text for document in (*train, *dev, *calibration)}) == 560


def test_entities_of_the_sample_nest() -> None:
    documents = sample_documents(40)
    for document in documents:
        assert has_overlap(document.entities)
        assert {entity.label for entity in document.entities} == {"PER", "LOC", "ORG"}
        assert list(document.entities) == sorted(document.entities, key=lambda entity: entity.key)
        assert all(document.text[e.start : e.end].strip() == document.text[e.start : e.end] for e in document.entities)
    assert {"。" in document.text for document in documents} == {True, False}


def test_the_sample_shows_the_form_of_the_data(tmp_path: Path) -> None:
    write_sample(tmp_path / "sample")
    first = json.loads((tmp_path / "sample/train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first.keys() == {"id", "text", "entities"}
    assert first["entities"][0].keys() == {"start", "end", "label"}


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    for taken in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(ConfigError, match="exists and is not empty; expected a new folder"):
            write_sample(taken)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert write_sample(tmp_path).is_file()
