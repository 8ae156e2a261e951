"""`ner-train augment` as a user meets it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ner_service.formats import read_documents, write_documents
from ner_service.types import Document, Entity
from tests.training.commands import invoke
from tests.training.paraphraser import PAIRS, bundle_of_pairs
from training.config import DataConfig, SourceConfig
from training.data.raw import fraction_of
from training.data.sources import read_corpus
from training.paraphrases import REASONS, UNFIT

DOCUMENTS = (
    Document(PAIRS[0][0], (Entity(0, 8, "PER"), Entity(18, 23, "LOC")), id="ada"),
    Document(PAIRS[1][0], (Entity(0, 2, "PER"), Entity(4, 6, "LOC")), id="li"),
    Document("Ann met Ann.", (Entity(0, 3, "PER"),), id="ann"),
    Document("It rained.", id="rain"),
)


def mentions(document: Document) -> set[tuple[str, str]]:
    return {(document.text[entity.start : entity.end], entity.label) for entity in document.entities}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, `train.jsonl`, and what was made of it: `more.jsonl`, its counts in `counts.json`."""
    folder = tmp_path_factory.mktemp("augment")
    bundle_of_pairs().save(folder / "bundle")
    write_documents(DOCUMENTS, folder / "train.jsonl")
    result = invoke("augment", *arguments(folder, folder / "more.jsonl"), "--json")
    assert result.exit_code == 0, result.stderr
    (folder / "counts.json").write_text(result.stdout, encoding="utf-8")
    return folder


def arguments(folder: Path, output: Path) -> tuple[object, ...]:
    options = ("--samples", "8", "--threshold", "-1", "--device", "cpu")
    return (folder / "bundle", folder / "train.jsonl", "-o", output, *options)


def test_the_new_documents_alone_are_written(folder: Path) -> None:
    made = list(read_documents(folder / "more.jsonl"))
    named = {source.text: mentions(source) for source in DOCUMENTS[:2]}
    assert {document.metadata["augmented_from"] for document in made} == set(named)
    for document in made:
        assert mentions(document) == named[str(document.metadata["augmented_from"])]
        assert document.text not in named


def test_counts_add_up(folder: Path) -> None:
    counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    assert counts["documents"] == 4
    assert counts["unfit"] == {"page": 0, "no_entity": 1, "ambiguous": 1, "too_long": 0}
    assert counts["candidates"] == 2 * 8 == counts["written"] + sum(counts["refused"].values())
    assert list(counts["refused"]) == list(REASONS)
    assert list(counts["unfit"]) == list(UNFIT)
    assert counts["written"] == len(list(read_documents(folder / "more.jsonl")))


def test_the_table_says_how_many_were_refused_and_why(folder: Path, tmp_path: Path) -> None:
    result = invoke("augment", *arguments(folder, tmp_path / "more.jsonl"))
    assert result.exit_code == 0
    for words in ("documents", "no entity", "ambiguous", "candidates", "duplicate", "drawn before", "written"):
        assert words in result.stdout
    assert "too long" not in result.stdout
    number = len(list(read_documents(folder / "more.jsonl")))
    assert result.stderr.startswith(f"Wrote {tmp_path}/more.jsonl: {number} documents. Next: name it in data.train")


def test_the_same_seed_writes_the_same_file(folder: Path, tmp_path: Path) -> None:
    invoke("augment", *arguments(folder, tmp_path / "more.jsonl"))
    assert (tmp_path / "more.jsonl").read_bytes() == (folder / "more.jsonl").read_bytes()


def test_per_document_is_the_most(folder: Path, tmp_path: Path) -> None:
    invoke("augment", *arguments(folder, tmp_path / "more.jsonl"), "--per-document", "1")
    made = [str(document.metadata["augmented_from"]) for document in read_documents(tmp_path / "more.jsonl")]
    assert sorted(made) == sorted(set(made))


def test_nothing_made_is_said(folder: Path, tmp_path: Path) -> None:
    write_documents(DOCUMENTS[2:], tmp_path / "train.jsonl")
    result = invoke("augment", folder / "bundle", tmp_path / "train.jsonl", "-o", tmp_path / "more.jsonl")
    assert result.exit_code == 1
    said = f"{tmp_path}/train.jsonl: made no new document; the counts say why, and nothing is written"
    assert result.stderr == f"error: {said}\n"
    assert not (tmp_path / "more.jsonl").exists()


def test_a_bundle_that_cannot_write_is_refused(tiny_bundle_folder: Path, folder: Path, tmp_path: Path) -> None:
    result = invoke("augment", tiny_bundle_folder, folder / "train.jsonl", "-o", tmp_path / "more.jsonl")
    assert result.exit_code == 1
    assert result.stderr == "error: the model has no 'language_model' head; it has: spans\n"


def test_the_documents_themselves_are_not_written_over(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever name, and before the bundle is read."""
    data = tmp_path / "train.jsonl"
    write_documents(DOCUMENTS, data)
    before = data.read_bytes()
    monkeypatch.chdir(tmp_path)
    for output in (data, "train.jsonl", tmp_path / "." / "nowhere" / ".." / "train.jsonl"):
        result = invoke("augment", folder / "missing", data, "-o", output)
        assert result.exit_code == 1
        assert result.stderr.endswith("which is read as well; expected another file\n")
    assert data.read_bytes() == before


def test_a_bundle_that_was_not_taught_to_write_is_refused(folder: Path, tmp_path: Path) -> None:
    bundle = bundle_of_pairs()
    run = {"name": "vectors", "objectives": {"similarity": {"generation": 0.0}, "masked_language_model": {}}}
    replace(bundle, manifest=replace(bundle.manifest, run=run)).save(tmp_path / "bundle")
    result = invoke("augment", tmp_path / "bundle", folder / "train.jsonl", "-o", tmp_path / "more.jsonl")
    assert result.exit_code == 1
    assert "found generation 0.0, stage 'contrast', expected generation above 0" in result.stderr
    assert not (tmp_path / "more.jsonl").exists()


def test_what_was_made_follows_its_source(folder: Path) -> None:
    """One of the two sources is held out: what was made of it is left out, what was made of the other is trained on."""
    held_out, trained = sorted((PAIRS[0][0], PAIRS[1][0]), key=fraction_of)
    sources = tuple(SourceConfig(path=name) for name in ("train.jsonl", "more.jsonl"))
    fraction = (fraction_of(held_out) + fraction_of(trained)) / 2
    corpus = read_corpus(DataConfig(train=sources, dev_fraction=fraction, labels=("LOC", "PER")), folder)
    assert held_out in {document.text for document in corpus.dev}
    made = [document for document in corpus.train if "augmented_from" in document.metadata]
    assert made
    assert {document.metadata["augmented_from"] for document in made} == {trained}
    assert not any("augmented_from" in document.metadata for document in corpus.dev)
