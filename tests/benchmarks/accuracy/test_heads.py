"""The comparison's plan, its texts and its table; runs are `ner-train`'s and `benchmarks.accuracy.tagging`'s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.accuracy import heads
from benchmarks.accuracy.costs import Clock
from benchmarks.accuracy.heads import (
    EPOCHS,
    FULL_EPOCHS,
    RATES,
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


def run(
    data: str = "cluener", head: Head = REFERENCE, seed: int = 0, lr: float = RATES[0], *, full: bool = False
) -> Run:
    return Run(data=data, full=full, head=head, lr=lr, seed=seed, start_sha256="aa")


def row(of: Run, f1: float, seconds: float = 100.0, peak_mib: float = 1000.0, clock: Clock = "cpu") -> Row:
    return Row(
        data=of.data,
        full=of.full,
        head=of.head,
        lr=of.lr,
        seed=of.seed,
        start_sha256=of.start_sha256,
        start="small",
        num_train=1800,
        epochs=of.epochs,
        settings=("head_lr=0.001",),
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


def tried(head: Head, best: float, seconds: float = 100.0, peak_mib: float = 1000.0) -> list[Row]:
    """A row of a head for each rate, the second of which scored most."""
    f1 = (best - 0.2, best, best - 0.3)
    return [row(run(head=head, lr=lr), score, seconds, peak_mib) for lr, score in zip(RATES, f1, strict=True)]


def test_the_rate_of_each_head_is_chosen_on_the_tenth_before_all_else() -> None:
    everything = planned([], "aa", full=False)
    assert [(each.head, each.lr) for each in everything] == [(head, lr) for head in SETTINGS for lr in RATES]
    assert {(each.data, each.seed) for each in everything} == {("cluener", 0)}
    rows = [replace(each, f1=1 - each.f1) for each in tried("crf", 0.5)]
    left = [each for each in planned(rows, "aa", full=False) if each.head == "crf"]
    assert len(left) == len(SEEDS) * len(EPOCHS) - 1
    assert {each.lr for each in left} == {RATES[1]}
    assert not set(everything) & set(left)


@pytest.mark.parametrize(("full", "sets"), [(False, EPOCHS), (True, FULL_EPOCHS)])
def test_every_head_is_planned_on_every_set_for_each_seed(full: bool, sets: Mapping[str, int]) -> None:
    rows = [replace(each, full=full) for head in SETTINGS for each in tried(head, 0.5)]
    left = planned(rows, "aa", full=full)
    assert len(left) == len(SETTINGS) * (len(SEEDS) * len(sets) - 1)
    assert [each.head for each in left[: len(SETTINGS)]] == list(SETTINGS)


def test_a_finished_run_is_not_planned_again_unless_from_another_encoder_or_in_full() -> None:
    done = row(run(), 0.5)
    assert set(planned([], "aa", full=False)) - set(planned([done], "aa", full=False)) == {done.run}
    assert planned([done], "bb", full=False) == planned([], "bb", full=False)
    assert planned([done], "aa", full=True) == planned([], "aa", full=True)


def test_the_table_says_mean_spread_and_cost_against_the_reference_at_the_best_rates() -> None:
    rows = [*tried(REFERENCE, 0.7), *tried("crf", 0.6, seconds=150.0, peak_mib=500.0)]
    rows += [row(run(seed=seed, lr=RATES[1]), 0.7 + seed / 100) for seed in SEEDS[1:]]
    rows += [row(run(head="crf", seed=seed, lr=RATES[1]), 0.6, seconds=150.0, peak_mib=500.0) for seed in SEEDS[1:]]
    rows += [row(run(data="cmeee", head="crf", lr=RATES[1]), 0.4)]
    lines = list(table(rows))
    expected = "0.7100 (0.0100) of 3 | 0.7200 (0.0100) of 3 | 1.00 | 1.00"
    assert f"| cluener-2000 | small | {REFERENCE} | 0.0002 | {expected} |" in lines
    assert (
        "| cluener-2000 | small | crf | 0.0002 | 0.6000 (0.0000) of 3 | 0.6100 (0.0000) of 3 | 1.50 | 0.50 |" in lines
    )
    assert "| cmeee-2000 | small | crf | 0.0002 | 0.4000 (one seed) | 0.4100 (one seed) | - | - |" in lines


def test_costs_by_another_clock_are_not_compared() -> None:
    wall = [replace(each, clock="wall") for each in tried("crf", 0.6)]
    lines = list(table([*tried(REFERENCE, 0.7), *wall]))
    assert "| cluener-2000 | small | crf | 0.0002 | 0.6000 (one seed) | 0.6100 (one seed) | - | - |" in lines


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
    assert rates[0] == "head_lr=0.001"
    assert (rates[1:] == ("transitions_lr=0.01",)) == (head == "crf")


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
    assert all(each.epochs == each.run.epochs for each in rows)  # others would be averaged with new ones
