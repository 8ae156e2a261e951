"""Texts and pairs without labels: epoch by epoch, and what is held out."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ner_service.formats import write_documents
from training.config import DataConfig, SourceConfig
from training.data.pairs import Pair
from training.data.raw import RawCorpus, fraction_of
from training.data.sources import read_corpus
from training.data.texts import TextStream
from training.sample import sample_documents

LINES = tuple(f"Boat {number} left the harbour." for number in range(60))
PAIRS = tuple(Pair(f"Where is boat {number}?", f"Has boat {number} come in?") for number in range(200))


def streamed(folder: Path, round_lines: int = 20, dev_fraction: float = 0.25) -> RawCorpus:
    path = folder / "texts.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(LINES))
    return RawCorpus(stream=TextStream([path], round_lines), dev_fraction=dev_fraction, files=(path,))


def kept(texts: tuple[str, ...], dev_fraction: float = 0.25) -> list[str]:
    return [text for text in texts if fraction_of(text) >= dev_fraction]


def test_the_fraction_is_the_head_of_a_sha256() -> None:
    """From `printf %s abc | sha256sum`: ba7816bf..."""
    assert fraction_of("abc") == 0xBA7816BF / 2**32


@given(st.text())
def test_a_fraction_is_in_its_range(text: str) -> None:
    assert 0.0 <= fraction_of(text) < 1.0


def test_an_epoch_has_the_next_round_without_what_is_held_out(tmp_path: Path) -> None:
    raw = streamed(tmp_path)
    for epoch in (0, 1, 2, 3, 1):
        first = epoch % 3 * 20
        assert raw.texts(epoch) == kept(LINES[first : first + 20])
        assert 10 < len(raw.texts(epoch)) < 20


def test_what_is_held_out_is_of_the_first_round_and_never_read_to_learn(tmp_path: Path) -> None:
    raw = streamed(tmp_path)
    dev = raw.dev_texts()
    raw.texts(2)
    assert raw.dev_texts() == dev == [text for text in LINES[:20] if fraction_of(text) < 0.25]
    assert dev
    assert not {text for epoch in range(4) for text in raw.texts(epoch)} & set(dev)


def test_nothing_held_out(tmp_path: Path) -> None:
    raw = streamed(tmp_path, dev_fraction=0.0)
    assert raw.texts(0) == list(LINES[:20])
    assert raw.dev_texts() == []


def test_a_pair_is_held_out_if_either_sentence_is() -> None:
    raw = RawCorpus(all_pairs=PAIRS, dev_fraction=0.2)
    dev = raw.dev_pairs()
    assert {*raw.pairs(), *dev} == set(PAIRS)
    assert all(fraction_of(pair.first) >= 0.2 and fraction_of(pair.second) >= 0.2 for pair in raw.pairs())
    assert all(fraction_of(pair.first) < 0.2 or fraction_of(pair.second) < 0.2 for pair in dev)
    # 1 - 0.8^2 = 36 % of 200: four standard deviations are 27.
    assert len(dev) == pytest.approx(72, abs=27)


def test_without_a_stream_the_fixed_texts_are_every_epochs() -> None:
    raw = RawCorpus(fixed=LINES, all_pairs=PAIRS, dev_fraction=0.25)
    assert raw.texts(0) == raw.texts(5) == kept(LINES)


def test_without_texts_the_pairs_sentences_are_read_each_once() -> None:
    doubled = (*PAIRS, Pair(PAIRS[0].second, PAIRS[1].first))
    raw = RawCorpus(all_pairs=doubled, dev_fraction=0.25)
    sentences = tuple(sentence for pair in PAIRS for sentence in (pair.first, pair.second))
    assert raw.texts(3) == kept(sentences)
    assert {*raw.texts(0), *raw.dev_texts()} == set(sentences)


def test_a_tokenizer_learns_from_the_first_round_and_from_pairs_alone_that_are_learnt(tmp_path: Path) -> None:
    raw = RawCorpus(stream=streamed(tmp_path).stream, all_pairs=PAIRS, dev_fraction=0.25)
    texts = raw.tokenizer_texts()
    assert texts[: len(raw.texts(0))] == raw.texts(0)
    assert set(texts[len(raw.texts(0)) :]) == {s for pair in raw.pairs() for s in (pair.first, pair.second)}
    held_out = {sentence for pair in raw.dev_pairs() for sentence in (pair.first, pair.second)}
    assert not held_out & set(texts)
    assert RawCorpus(fixed=LINES).tokenizer_texts() == []


def test_the_digest_is_of_the_files_in_their_order(tmp_path: Path) -> None:
    one, two, same = (tmp_path / name for name in ("one.txt", "two.txt", "same.txt"))
    one.write_text(LINES[0], encoding="utf-8")
    two.write_text(LINES[1], encoding="utf-8")
    same.write_text(LINES[0], encoding="utf-8")
    digests = {RawCorpus(files=files).sha256() for files in ((), (one,), (two,), (one, two), (two, one))}
    assert len(digests) == 5
    assert RawCorpus(files=(same,)).sha256() == RawCorpus(files=(one,)).sha256()


def test_beside_documents_nothing_is_held_out(tmp_path: Path) -> None:
    """Their F1 is what is measured; without texts the objectives read the training documents."""
    write_documents(sample_documents(40), tmp_path / "train.jsonl")
    data = DataConfig(train=(SourceConfig(path="train.jsonl"),), dev_fraction=0.25)
    corpus = read_corpus(data, tmp_path)
    assert corpus.raw.texts(0) == [document.text for document in corpus.train]
    assert corpus.raw.dev_texts() == []
    assert 0 < len(corpus.dev) < 40
