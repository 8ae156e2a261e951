"""The benchmark of latent codes: what it takes for known, which sentences it shows, and its page on a tiny bundle."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest

from benchmarks import reconstruction
from benchmarks.reconstruction import NUM_SHOWN, choose, corpus_of, known_sentences
from ner_service.bundle import Bundle
from ner_service.errors import ConfigError
from training.config import load_run
from training.latent import Written
from training.preparation import prepare

RUN = """\
name = "codes"
epochs = 2

[data]
texts = ["texts.txt.gz"]
pairs = ["pairs.jsonl"]
round_lines = 30
dev_fraction = 0.2

[tokenizer]
vocab_size = 300

[model.encoder]
kind = "roformer"
hidden_size = 16
num_layers = 2
num_heads = 2
intermediate_size = 16

[objectives.univae]
weight = 1.0
max_tokens = 16
latent = { num_latents = 1, size = 4 }
"""
LINES = [f"Boat {number} is in. It brought {number} crates." for number in range(90)]
NEW = [f"Who has seen boat {number}?" for number in range(NUM_SHOWN + 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three rounds, of which two are read, and a bundle of its first weights."""
    folder = tmp_path_factory.mktemp("codes")
    with gzip.open(folder / "texts.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(LINES))
    (folder / "pairs.jsonl").write_text(json.dumps({"a": "Is boat 7 in?", "b": "Has boat 7 come?"}), encoding="utf-8")
    (folder / "run.toml").write_text(RUN, encoding="utf-8")
    (folder / "lines.txt").write_text("\n".join([LINES[0], *NEW]), encoding="utf-8")
    setup = prepare(load_run(folder / "run.toml"), folder, folder)
    setup.bundle(setup.build_model().state_dict(), {}).save(folder / "bundle")
    return folder


def test_known_is_what_any_epoch_read_and_no_more(folder: Path) -> None:
    """By the line and by the sentence, of the training and of the dev texts; the third round was never read."""
    run, corpus = corpus_of(Bundle.load(folder / "bundle"), folder)
    known = known_sentences(run, corpus)
    dev = corpus.raw.dev_texts()
    assert dev
    for line in [*corpus.raw.texts(0), *corpus.raw.texts(1), *dev]:
        assert line.replace(" ", "") in known
    assert corpus.raw.texts(1)[0] in LINES[30:60]
    assert {"Itbrought3crates.", "Boat3isin.", "Isboat7in?", "Hasboat7come?"} <= known
    assert not {line.replace(" ", "") for line in LINES[60:]} & known


def test_lines_that_are_known_are_passed_over_and_a_hash_chooses() -> None:
    known = frozenset({"Whohasseenboat3?"})
    chosen = choose([" ", *NEW, "Who has  seen boat 3?", NEW[0]], known)
    assert len(set(chosen)) == NUM_SHOWN
    assert set(chosen) <= {line for line in NEW if line != NEW[3]}
    assert choose(reversed(NEW), known) == chosen
    with pytest.raises(ConfigError, match=r"--sentences: found 3 that the run did not read, expected at least 10"):
        choose(NEW[:4], known)


def test_what_is_known_is_not_shown_and_what_was_cut_is_marked() -> None:
    known = frozenset({"Boat3isin."})
    written = [Written("Boat  3 is in. ", True), Written("Boat 3", False), Written("Boat 4 is in.", True)]
    shown = ["- *(stands in the training data)*", "- Boat 3 …", "- Boat 4 is in."]
    assert list(reconstruction._listed(written, known)) == shown


def test_the_page_names_its_command_and_shows_new_lines_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    arguments = ["bundle", "--data", ".", "--sentences", "lines.txt"]
    monkeypatch.setattr(sys, "argv", ["reconstruction.py", *arguments])
    reconstruction.main()
    page = capsys.readouterr().out.splitlines()
    assert "    python -m benchmarks.reconstruction bundle --data . --sentences lines.txt" in page
    assert any("with the seed" in line for line in page)
    assert "0, tokens are" in "\n".join(page)
    rows = [line.split(" | ")[0].removeprefix("| ") for line in page if line.startswith("| ")][1:]
    assert rows == choose(NEW, frozenset())
    assert [line for line in page if line.startswith("## ")][1:] == [
        "## Random codes",
        f"## From “{rows[0]}” to “{rows[1]}”",
        f"## “{rows[2]}” with the code of layer 2 drawn anew",
    ]


def test_what_is_held_out_is_measured(folder: Path) -> None:
    found = reconstruction.measure(Bundle.load(folder / "bundle"), folder)
    assert found["negative_lower_bound"] == pytest.approx(
        float(str(found["cross_entropy_from_samples"])) + float(str(found["kl_a_target"])), abs=2e-4
    )
