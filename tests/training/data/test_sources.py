"""Sources of a run: labels renamed, documents chosen and parted, faults named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ner_service.errors import ConfigError, DataError
from ner_service.types import Document, Entity
from training.config import DataConfig, SourceConfig
from training.data.raw import fraction_of
from training.data.sources import digest, read_corpus, read_source

LETTER = {
    "id": "letter",
    "text": "Ann saw Visby",
    "entities": [{"start": 0, "end": 3, "label": "PERSON"}, {"start": 8, "end": 13, "label": "CITY"}],
    "genre": "letters",
}
NOTE = {"id": "note", "text": "Bo slept", "entities": [{"start": 0, "end": 2, "label": "PERSON"}], "genre": "notes"}


def write(folder: Path, *records: object, name: str = "train.jsonl") -> Path:
    (folder / name).write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return folder


def source(**settings: Any) -> SourceConfig:
    return SourceConfig(path="train.jsonl", **settings)


def config(dev: str | None = "train.jsonl", labels: tuple[str, ...] | None = None, **settings: Any) -> DataConfig:
    own_dev = () if dev is None else (SourceConfig(path=dev),)
    return DataConfig(train=(source(**settings),), dev=own_dev, labels=labels)


def refusal(folder: Path, data: DataConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        read_corpus(data, folder)
    return str(caught.value)


def test_labels_are_renamed_and_the_others_dropped(tmp_path: Path) -> None:
    chosen = source(labels={"PERSON": "PER"})
    [document] = read_source(chosen, write(tmp_path, LETTER))
    assert document.entities == (Entity(0, 3, "PER"),)
    assert document.annotated == frozenset({"PER"})


@pytest.mark.parametrize("mistyped", ["PERSN", "person"])
def test_a_mistyped_label_to_rename_is_refused(tmp_path: Path, mistyped: str) -> None:
    folder = write(tmp_path, LETTER, NOTE)
    with pytest.raises(ConfigError) as caught:
        list(read_source(source(labels={mistyped: "PER", "CITY": "LOC"}), folder))
    assert str(caught.value) == (
        f"train.jsonl: labels: found {mistyped!r}, which no entity has; did you mean 'PERSON', of which 2 would be "
        "left out? If not, remove the key"
    )


def test_labels_that_a_file_or_a_part_of_it_lacks_may_be_renamed(tmp_path: Path) -> None:
    folder = write(tmp_path, LETTER, NOTE)
    [note] = read_source(source(labels={"CITY": "LOC", "SHIP": "LOC"}, where={"genre": ["notes"]}), folder)
    assert note.entities == ()


def test_two_labels_may_become_one(tmp_path: Path) -> None:
    twice = {**LETTER, "entities": [{"start": 0, "end": 3, "label": label} for label in ("PERSON", "AUTHOR")]}
    chosen = source(labels={"PERSON": "PER", "AUTHOR": "PER"})
    [document] = read_source(chosen, write(tmp_path, twice))
    assert document.entities == (Entity(0, 3, "PER"),)


def test_annotated_labels(tmp_path: Path) -> None:
    folder = write(tmp_path, LETTER, {**NOTE, "annotated": ["PERSON"]})
    assert [d.annotated for d in read_source(source(), folder)] == [None, frozenset({"PERSON"})]
    chosen = source(labels={"PERSON": "PER"}, annotated=("PER", "LOC"))
    assert [d.annotated for d in read_source(chosen, folder)] == [frozenset({"PER", "LOC"})] * 2


def test_a_label_that_a_document_leaves_open_stays_so_under_another_name(tmp_path: Path) -> None:
    """Of two that become one, either leaves it open; one that the document never had does, too."""
    folder = write(tmp_path, {**NOTE, "annotated": ["PERSON", "CITY"]})
    names = {"PERSON": "PER", "AUTHOR": "PER", "CITY": "LOC", "RIVER": "WATER"}
    [document] = read_source(source(labels=names), folder)
    assert document.annotated == frozenset({"LOC"})
    [document] = read_source(source(labels={"PERSON": "PER", "CITY": "LOC"}), folder)
    assert document.annotated == frozenset({"PER", "LOC"})


def test_where_keeps_documents_by_their_metadata(tmp_path: Path) -> None:
    folder = write(tmp_path, LETTER, NOTE, {**NOTE, "id": "bare", "genre": None})
    chosen = source(where={"genre": ("letters", "diaries")})
    assert [document.id for document in read_source(chosen, folder)] == ["letter"]
    chosen = source(where={"genre": ("letters", "notes")})
    assert [document.id for document in read_source(chosen, folder)] == ["letter", "note"]


def test_where_that_keeps_nothing_is_refused_with_what_the_file_has(tmp_path: Path) -> None:
    folder = write(tmp_path, LETTER, NOTE, {**NOTE, "genre": None}, {**NOTE, "genre": "notes"})
    said = refusal(folder, config(where={"genre": ("letter",)}))
    found = "found no document that fits, expected some; the file has genre: 'notes', 'letters', None"
    assert said == f"train.jsonl: where: {found}"


def test_parts_share_a_file_out_and_keep_what_was_made_of_a_document_beside_it(tmp_path: Path) -> None:
    originals = many(600)[::2]
    made = [augmented(record, number) for number, record in enumerate(originals)]
    folder = write(tmp_path, *originals, *made)
    shares = ((0.0, 0.8), (0.8, 0.9), (0.9, 1.0))
    parts = [list(read_source(source(part=share), folder)) for share in shares]
    assert sorted(d.text for part in parts for d in part) == sorted(d.text for d in read_source(source(), folder))
    for part, (first, end) in zip(parts, shares, strict=True):
        plain = {d.text for d in part if "augmented_from" not in d.metadata}
        assert len(plain) == pytest.approx(300 * (end - first), abs=25)
        assert {d.metadata["augmented_from"] for d in part if "augmented_from" in d.metadata} == plain


def test_a_part_cuts_otherwise_than_dev_fraction(tmp_path: Path) -> None:
    """Else a file that was cut by that hash before would have nothing left in one of the parts."""
    folder = write(tmp_path, *many(300))
    low = [d.text for d in read_source(source(part=(0.0, 0.5)), folder)]
    assert 0.3 < sum(fraction_of(text) < 0.5 for text in low) / len(low) < 0.7


@pytest.mark.parametrize("part", [(0.5, 0.5), (0.9, 0.1), (-0.1, 1.0), (0.0, 1.1)])
def test_parts_are_rising_shares(part: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"part: found \[.*\], expected two rising shares from 0 to 1"):
        source(part=part)


def test_flat_is_said_by_the_source_or_by_the_document(tmp_path: Path) -> None:
    folder = write(tmp_path, LETTER)
    assert [d.flat for d in read_source(source(), folder)] == [False]
    assert [d.flat for d in read_source(source(flat=True), folder)] == [True]


def test_labels_of_the_run_are_sorted_or_as_given(tmp_path: Path) -> None:
    folder = write(tmp_path, LETTER, NOTE)
    assert read_corpus(config(), folder).labels.names == ("CITY", "PERSON")
    given = config(labels=("PERSON", "SHIP", "CITY"))
    assert read_corpus(given, folder).labels.names == ("PERSON", "SHIP", "CITY")


def test_a_label_that_the_run_does_not_know_is_refused(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, LETTER), config(labels=("CITY",)))
    found = "found the label 'PERSON' of 'Ann'"
    assert said == f"train.jsonl, document 'letter': {found}, expected one of 'CITY'; rename it"


def test_a_label_of_dev_alone_is_refused(tmp_path: Path) -> None:
    write(tmp_path, NOTE)
    write(tmp_path, LETTER, name="dev.jsonl")
    found = "found the label 'CITY' of 'Visby', expected one of 'PERSON'; rename it"
    assert refusal(tmp_path, config("dev.jsonl")) == f"dev.jsonl, document 'letter': {found}"


def test_a_text_without_an_id_is_told_by_how_it_begins(tmp_path: Path) -> None:
    long = {"text": "Ann " * 20, "entities": [{"start": 0, "end": 79, "label": "PERSON"}]}
    shown = f"'{'Ann ' * 10}\u2026'"
    found = f"found the label 'PERSON' of {shown}"
    assert refusal(write(tmp_path, long), config(labels=("CITY",))) == (
        f"train.jsonl, document {shown}: {found}, expected one of 'CITY'; rename it"
    )


def test_an_annotated_label_that_the_run_does_not_know_is_refused(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, LETTER), config(annotated=("PERSON", "CITY", "CITTY")))
    assert said == "data.train[0].annotated: found 'CITTY', expected one of 'CITY', 'PERSON'"


def test_a_mistyped_annotated_of_the_only_file_is_refused_by_its_name(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, NOTE), config(labels=("PERSON",), annotated=("PERSONS", "PERSON")))
    assert said == "data.train[0].annotated: found 'PERSONS', expected one of 'PERSON'"


def test_an_entity_that_annotated_does_not_name_is_refused(tmp_path: Path) -> None:
    """It would be counted as learnt, and be neither learnt nor measured."""
    said = refusal(write(tmp_path, NOTE, LETTER), config(annotated=("PERSON",)))
    expected = "expected only 'PERSON'; `labels` can leave it out"
    assert said == f"train.jsonl: annotated: found an entity 'CITY', {expected}"
    chosen = config(labels=("PERSON",), annotated=("PERSON",))
    assert "annotated" in refusal(tmp_path, chosen)


@pytest.mark.parametrize("name", ["", " PER", "PER\u3000", "PER\n", "A\u2028B"])
@pytest.mark.parametrize("key", ["labels", "annotated"])
def test_a_name_that_is_no_label_is_refused(key: str, name: str) -> None:
    value = {"PERSON": name} if key == "labels" else (name,)
    with pytest.raises(ValueError, match=f"^{key}: found .*, expected a name on one line"):
        source(**{key: value})
    with pytest.raises(ValueError, match=r"^labels: found .*, expected a name on one line"):
        DataConfig(train=(source(),), labels=(name,))


def test_documents_annotated_for_no_label_of_the_run_are_left_out(tmp_path: Path) -> None:
    corpus = read_corpus(config(), write(tmp_path, LETTER, {**NOTE, "entities": [], "annotated": []}))
    assert [document.id for document in corpus.train] == ["letter"]


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    bare = {**NOTE, "entities": []}
    assert refusal(write(tmp_path, bare), config()) == (
        "data.train: found 1 documents and 0 labels, expected some of both"
    )


def test_nothing_to_tell_the_best_epoch_by_is_refused(tmp_path: Path) -> None:
    data = DataConfig(train=(source(),), dev_fraction=0.0)
    assert refusal(write(tmp_path, LETTER), data).startswith("data.dev: found no document, expected some")


def many(count: int) -> list[dict[str, object]]:
    return [{**NOTE, "id": str(number), "text": f"Bo slept {number // 2} hours"} for number in range(count)]


def test_the_split_is_by_text(tmp_path: Path) -> None:
    """Each text stands twice in the file; both go the same way, about one in five to dev."""
    data = DataConfig(train=(source(),), dev_fraction=0.2)
    corpus = read_corpus(data, write(tmp_path, *many(1000)))
    train, dev = ({document.text for document in part} for part in (corpus.train, corpus.dev))
    assert not train & dev
    assert len(corpus.train) + len(corpus.dev) == 1000
    assert 140 < len(corpus.dev) < 260


def test_the_split_does_not_hang_on_order_or_neighbours(tmp_path: Path) -> None:
    data = DataConfig(train=(source(),), dev_fraction=0.2)
    whole = {document.text for document in read_corpus(data, write(tmp_path, *many(200))).dev}
    half = {document.text for document in read_corpus(data, write(tmp_path, *many(200)[::-2])).dev}
    assert half == whole


def augmented(record: Mapping[str, object], number: int, text: str | None = None) -> dict[str, object]:
    """A record made of another."""
    made = {**record, "id": f"made-{number}", "text": text or f"{record['text']} or {number}"}
    return {**made, "augmented_from": record["text"]}


def test_an_augmented_document_is_held_out_where_its_source_is(tmp_path: Path) -> None:
    """Its own text's hash decides nothing, and nobody is measured on it."""
    originals = many(400)[::2]
    data = DataConfig(train=(source(),), dev_fraction=0.3)
    plain = read_corpus(data, write(tmp_path, *originals))
    held_out = {document.text for document in plain.dev}
    assert 30 < len(held_out) < 90
    made = [augmented(record, number) for record in originals for number in range(3)]
    corpus = read_corpus(data, write(tmp_path, *originals, *made))
    assert corpus.dev == plain.dev
    assert corpus.train[: len(plain.train)] == plain.train
    rest = [document.metadata["augmented_from"] for document in corpus.train[len(plain.train) :]]
    assert sorted(map(str, rest)) == sorted(document.text for document in plain.train for _ in range(3))


def test_without_its_source_named_it_would_leak(tmp_path: Path) -> None:
    """The must-fail twin: by their own hashes, documents made of what is held out are trained on."""
    originals = many(400)[::2]
    made = [{**augmented(record, number), "augmented_from": None} for record in originals for number in range(3)]
    corpus = read_corpus(DataConfig(train=(source(),), dev_fraction=0.3), write(tmp_path, *originals, *made))
    held_out = {document.text for document in corpus.dev if " or " not in document.text}
    assert {document.text.split(" or ")[0] for document in corpus.train if " or " in document.text} & held_out


def test_an_augmented_document_of_own_dev_documents_is_left_out(tmp_path: Path) -> None:
    """So is one that happens to read like one of them; a document that is not augmented stays where it is named."""
    write(tmp_path, NOTE, name="dev.jsonl")
    made = [augmented(NOTE, 0), augmented(LETTER, 1, text="Bo slept"), augmented(LETTER, 2, text="Ann left")]
    labels = ("CITY", "PERSON")
    for record in made:
        record["entities"] = []
    corpus = read_corpus(config("dev.jsonl", labels), write(tmp_path, LETTER, NOTE, *made))
    assert [document.id for document in corpus.train] == ["letter", "note", "made-2"]


def test_own_dev_documents_leave_the_training_documents_alone(tmp_path: Path) -> None:
    write(tmp_path, *many(40))
    write(tmp_path, LETTER, name="dev.jsonl")
    corpus = read_corpus(
        DataConfig(train=(source(),), dev=(SourceConfig(path="dev.jsonl", labels={"PERSON": "PERSON"}),)), tmp_path
    )
    assert (len(corpus.train), len(corpus.dev)) == (40, 1)


def test_the_digest_tells_documents_apart() -> None:
    one = Document("Bo slept", (Entity(0, 2, "PER"),))
    others = [
        Document("Bo slept.", (Entity(0, 2, "PER"),)),
        Document("Bo slept", (Entity(0, 2, "ORG"),)),
        Document("Bo slept", (Entity(0, 2, "PER"),), annotated=frozenset({"PER"})),
        Document("Bo slept", (Entity(0, 2, "PER"),), flat=True),
        Document("Bo slept"),
    ]
    digests = {digest([document], []) for document in [one, *others]} | {digest([], [one])}
    assert len(digests) == 7
    assert digest([one], []) == digest([Document("Bo slept", one.entities, id="note")], [])


def test_a_fault_names_file_and_line(tmp_path: Path) -> None:
    write(tmp_path, LETTER, {"text": "x"})
    with pytest.raises(DataError) as caught:
        read_corpus(config(), tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/train.jsonl:2: entities: missing; found the keys 'text'")
