"""The comparison's plan, its texts and its table; runs are `ner-train`'s and `benchmarks.accuracy.tagging`'s."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy import heads
from benchmarks.accuracy.costs import Clock
from benchmarks.accuracy.heads import (
    EPOCHS,
    FULL_EPOCHS,
    REFERENCE,
    RESULTS,
    SEEDS,
    SETTINGS,
    Row,
    Run,
    Start,
    planned,
    rates_of,
    read_start,
    table,
)
from benchmarks.accuracy.splits import split_texts
from benchmarks.accuracy.trained import RECIPE, Head, options_of
from benchmarks.rows import read_rows
from ner_service.errors import ConfigError
from ner_service.formats import write_documents
from ner_service.types import Document, Entity
from tests.training.runs import encoder_bundle, setup_of
from training.config import load_run
from training.sample import sample_documents


def run(data: str = "cluener", head: Head = REFERENCE, seed: int = 0, *, full: bool = False) -> Run:
    return Run(data=data, full=full, head=head, seed=seed, start_sha256="aa")


def row(of: Run, f1: float, seconds: float = 100.0, peak_mib: float = 1000.0, clock: Clock = "cpu") -> Row:
    return Row(
        data=of.data,
        full=of.full,
        head=of.head,
        seed=of.seed,
        start_sha256=of.start_sha256,
        start="small",
        num_train=1800,
        epochs=of.epochs,
        settings=("lr=0.0002",),
        selected_epoch=1,
        selection_f1=f1,
        rule=None,
        f1=f1,
        outermost_f1=f1 + 0.01,
        seconds=seconds,
        peak_mib=peak_mib,
        clock=clock,
        date="2026-01-01",
        hardware="none",
        torch="none",
    )


def test_every_head_is_planned_on_every_set_for_each_seed() -> None:
    assert len(planned([], "aa", full=False)) == len(SEEDS) * len(SETTINGS) * len(EPOCHS)
    assert len(planned([], "aa", full=True)) == len(SEEDS) * len(SETTINGS) * len(FULL_EPOCHS)
    first = planned([], "aa", full=False)[: len(SETTINGS)]
    assert [(each.data, each.seed) for each in first] == [(first[0].data, 0)] * len(SETTINGS)


def test_a_finished_run_is_not_planned_again_unless_from_another_encoder_or_in_full() -> None:
    done = row(run(seed=1), 0.5)
    assert set(planned([], "aa", full=False)) - set(planned([done], "aa", full=False)) == {done.run}
    assert planned([done], "bb", full=False) == planned([], "bb", full=False)
    assert planned([done], "aa", full=True) == planned([], "aa", full=True)


def test_the_table_says_mean_spread_and_cost_against_the_reference() -> None:
    rows = [row(run(seed=seed), 0.7 + seed / 100) for seed in SEEDS]
    rows += [row(run(head="crf", seed=seed), 0.6, seconds=150.0, peak_mib=500.0) for seed in SEEDS]
    rows += [row(run(data="cmeee", head="crf"), 0.4)]
    lines = list(table(rows))
    expected = "0.7100 (0.0100) of 3 | 0.7200 (0.0100) of 3 | 1.00 | 1.00"
    assert f"| cluener-2000 | small | {REFERENCE} | {expected} |" in lines
    assert "| cluener-2000 | small | crf | 0.6000 (0.0000) of 3 | 0.6100 (0.0000) of 3 | 1.50 | 0.50 |" in lines
    assert "| cmeee-2000 | small | crf | 0.4000 (one seed) | 0.4100 (one seed) | - | - |" in lines


def test_costs_by_another_clock_are_not_compared() -> None:
    lines = list(table([row(run(), 0.7), row(run(head="crf"), 0.6, clock="wall")]))
    assert "| cluener-2000 | small | crf | 0.6000 (one seed) | 0.6100 (one seed) | - | - |" in lines


def test_several_jobs_on_a_gpu_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "on_gpu", lambda: True)
    start = Start(folder=tmp_path, name="small", sha256="aa")
    with pytest.raises(ConfigError, match="--jobs: found 2, expected 1 on a GPU"):
        heads.run_all(start, tmp_path, tmp_path, full=False, jobs=2, minutes=0.0)


def documents(count: int) -> list[Document]:
    return [Document(text=f"Ann {number}", entities=(Entity(0, 3, "PER"),)) for number in range(count)]


def write_set(folder: Path, data: str, count: int) -> None:
    (folder / data).mkdir(parents=True)
    write_documents(documents(count), folder / data / "train.jsonl.gz")


@pytest.mark.parametrize("head", SETTINGS)
def test_every_run_fits_the_recipe_and_its_head(head: Head, tmp_path: Path) -> None:
    write_set(tmp_path, "cluener", 60)
    split = split_texts(tmp_path / "cluener/train.jsonl.gz", None, tmp_path)
    options = options_of(2, 9, tmp_path / "bundle", split, SETTINGS[head])
    config = load_run(RECIPE, options[1::2])
    assert (config.seed, config.epochs, config.data.labels) == (2, 9, ("PER",))
    assert config.model.start_from == str(tmp_path / "bundle")
    if "pointer" in head:
        assert config.model.head.kind == head
    rates = rates_of(head, options)
    assert rates[:2] == ("lr=0.0002", "head_lr=0.001")
    assert (rates[2:] == ("transitions_lr=0.01",)) == (head == "crf")


def test_the_start_is_an_encoder_that_knows_no_entities(tmp_path: Path) -> None:
    setup = setup_of(sample_documents(8), ["PER"])
    trained = setup.bundle(setup.build_model().state_dict(), {})
    trained.save(tmp_path / "trained")
    with pytest.raises(ConfigError, match="found a `spans` head, expected an encoder not trained on entities"):
        read_start(tmp_path / "trained")
    saved = encoder_bundle(setup).save(tmp_path / "encoder")
    start = read_start(tmp_path / "encoder")
    assert start.sha256 == saved.files["model.safetensors"].sha256
    assert start.folder == (tmp_path / "encoder").resolve()


def test_each_committed_run_stands_once() -> None:
    rows = read_rows(Row, RESULTS)
    assert len({each.run for each in rows}) == len(rows)
