"""Texts and pairs without labels: epoch by epoch, and what is held out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ner_service.formats import write_documents
from ner_service.types import Document, Entity
from training.config import DataConfig, SourceConfig
from training.data.pairs import Pair
from training.data.raw import RawCorpus, fraction_of
from training.data.sources import read_corpus
from training.data.texts import TextStream, sentences
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


def sentences_of(pairs: Iterable[Pair]) -> list[str]:
    return [sentence for pair in pairs for sentence in (pair.first, pair.second)]


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


CHAIN = tuple(Pair(f"Is gate {number} shut?", f"Is gate {number + 1} shut?") for number in range(200))


def test_a_pair_that_shares_a_sentence_with_one_held_out_is_neither_learnt_nor_measured() -> None:
    """In a chain every sentence is in two pairs; held out by the pair alone, some would be on both sides."""
    raw = RawCorpus(all_pairs=CHAIN, dev_fraction=0.1)
    assert not set(sentences_of(raw.pairs())) & set(sentences_of(raw.dev_pairs()))
    by_pair = [pair for pair in CHAIN if pair not in raw.dev_pairs()]
    assert set(sentences_of(by_pair)) & set(sentences_of(raw.dev_pairs()))
    assert len(CHAIN) > len(raw.pairs()) + len(raw.dev_pairs()) > len(CHAIN) / 2


def test_no_sentence_of_what_is_measured_on_is_learnt_from(tmp_path: Path) -> None:
    """Paragraphs of two sentences, each of which stands in two of them; rounds of a third of the corpus."""
    lines = [f"Gate {n % 90} is shut. Gate {(n + 1) % 90} is shut." for n in range(120)]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([*lines, " Is gate 7 shut?"]), encoding="utf-8")
    raw = RawCorpus(stream=TextStream([path], 40), all_pairs=CHAIN, dev_fraction=0.1)
    measured = {part for text in (*raw.dev_texts(), *sentences_of(raw.dev_pairs())) for part in sentences(text)}
    assert raw.dev_texts()
    assert raw.dev_pairs()
    learnt = [text for epoch in range(4) for text in raw.texts(epoch)]
    assert not measured & {part for text in (*learnt, *sentences_of(raw.pairs())) for part in sentences(text)}
    assert len(learnt) > 60
    # The must-fail twin: by the paragraph's hash alone they would be.
    assert measured & {part for text in kept(tuple(lines), 0.1) for part in sentences(text)}


def test_in_later_rounds_a_text_is_held_out_and_its_sentences_may_be_learnt_elsewhere(tmp_path: Path) -> None:
    lines = [f"Gate {number} is shut. It rained on day {number}." for number in range(80)]
    firsts = [(line, sentences(line)[0]) for line in lines[40:]]
    held_out, sentence = next(pair for pair in firsts if fraction_of(pair[0]) < 0.2 <= fraction_of(pair[1]))
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([*lines, sentence]), encoding="utf-8")
    raw = RawCorpus(stream=TextStream([path], 40), dev_fraction=0.2)
    assert held_out not in {*raw.texts(0), *raw.texts(1), *raw.texts(2), *raw.dev_texts()}
    assert raw.texts(2) == [sentence]


def test_what_is_held_out_twice_is_measured_once() -> None:
    raw = RawCorpus(fixed=LINES * 3, dev_fraction=0.25)
    assert raw.dev_texts() == [line for line in LINES if fraction_of(line) < 0.25]


def test_a_round_longer_than_the_corpus_repeats_no_text(tmp_path: Path) -> None:
    raw = streamed(tmp_path, round_lines=20_000)
    assert raw.texts(0) == raw.texts(1) == kept(LINES)
    assert raw.dev_texts() == [line for line in LINES if fraction_of(line) < 0.25]


def test_without_a_stream_the_fixed_texts_are_every_epochs() -> None:
    raw = RawCorpus(fixed=LINES, all_pairs=PAIRS, dev_fraction=0.25)
    assert raw.texts(0) == raw.texts(5) == kept(LINES)


def test_without_texts_the_pairs_sentences_are_read_each_once() -> None:
    doubled = (*PAIRS, Pair(PAIRS[0].second, PAIRS[1].first))
    raw = RawCorpus(all_pairs=doubled, dev_fraction=0.25)
    measured = set(sentences_of(raw.dev_pairs()))
    assert raw.texts(3) == [sentence for sentence in sentences_of(PAIRS) if sentence not in measured]
    assert raw.dev_texts() == [sentence for sentence in sentences_of(PAIRS) if fraction_of(sentence) < 0.25]
    assert 0 < len(raw.dev_texts()) < len(measured) < len(sentences_of(PAIRS))


def test_a_tokenizer_learns_from_the_first_round_and_from_pairs_alone_that_are_learnt(tmp_path: Path) -> None:
    raw = RawCorpus(stream=streamed(tmp_path).stream, all_pairs=PAIRS, dev_fraction=0.25)
    texts = raw.tokenizer_texts()
    assert texts[: len(raw.texts(0))] == raw.texts(0)
    assert set(texts[len(raw.texts(0)) :]) == {s for pair in raw.pairs() for s in (pair.first, pair.second)}
    assert not set(sentences_of(raw.dev_pairs())) & set(texts)
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


def test_texts_and_pairs_with_a_dev_documents_text_are_not_learnt_from(tmp_path: Path) -> None:
    """Nor a paragraph that has it for a sentence, or that is one of its paragraphs."""
    letter = Document("Ann is in Visby.\nShe will write to Bo soon.")
    write_documents([Document("Bo is in Oslo.", (Entity(0, 2, "PERSON"),))], tmp_path / "train.jsonl")
    write_documents([Document("Ada is in Rome.", (Entity(0, 3, "PERSON"),)), letter], tmp_path / "dev.jsonl")
    learnt = ["Cy is in Bonn.", "Ada is in Rome and Bonn.", "Ada. Cy."]
    leaks = ["Ada is in Rome.", "Cy left. Ada is in Rome. Cy came back.", "She will write to Bo soon."]
    (tmp_path / "texts.txt").write_text("\n".join([*leaks, *learnt]), encoding="utf-8")
    pairs = [("Cy left.", "Cy has gone."), ("Ada is in Rome.", "Rome is where Ada is."), ("Cy left.", leaks[1])]
    lines = (json.dumps({"a": first, "b": second}) for first, second in pairs)
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    data = DataConfig(
        train=(SourceConfig(path="train.jsonl"),),
        dev=(SourceConfig(path="dev.jsonl"),),
        texts=("texts.txt",),
        pairs=("pairs.jsonl",),
    )
    raw = read_corpus(data, tmp_path).raw
    assert raw.texts(0) == learnt
    assert raw.pairs() == [Pair("Cy left.", "Cy has gone.")]
    assert raw.tokenizer_texts() == [*learnt, "Cy left.", "Cy has gone."]
    assert (raw.dev_texts(), raw.dev_pairs()) == ([], [])
    assert replace(raw, measured=frozenset()).texts(0) == [*leaks, *learnt]
