"""The ablation's plan and its table; the runs themselves are `ner-train`'s."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.ablation import (
    ARMS,
    AUGMENTED,
    EPOCHS,
    PLAIN,
    RESULTS,
    SEEDS,
    Row,
    Run,
    planned,
    table,
)
from benchmarks.rows import read_rows
from training.config import load_run

ROOT = Path(__file__).parents[2]


def row(data: str, share: float, arm: str, seed: int, f1: float, cpu_s: float = 100.0) -> Row:
    return Row(
        data=data,
        share=share,
        arm=arm,
        seed=seed,
        epochs=EPOCHS[data, share],
        settings=ARMS[arm],
        f1=f1,
        cpu_s=cpu_s,
        peak_mib=1000.0,
        num_augmented=0,
        date="2026-01-01",
        hardware="none",
        torch="none",
    )


def tenth(**means: float) -> list[Row]:
    """Every arm and seed of the tenth; arms score 0.5 unless they are named."""
    return [row("cluener", 0.1, arm, seed, means.get(arm, 0.5) + seed / 100) for arm in ARMS for seed in SEEDS]


def test_every_arm_is_planned_for_each_seed() -> None:
    runs = planned([], [*ARMS])
    assert [run for run in runs if run.share == 0.1] == [
        Run(data="cluener", share=0.1, arm=arm, seed=seed) for seed in SEEDS for arm in ARMS
    ]


def test_a_finished_run_is_not_planned_again() -> None:
    done = row("cluener", 0.1, "fgm", 1, 0.5)
    assert set(planned([], [*ARMS])) - set(planned([done], [*ARMS])) == {done.run}


def test_an_arm_that_cannot_run_holds_nothing_up() -> None:
    rows = [done for done in tenth(ema=0.6) if done.arm != AUGMENTED]
    assert not [run for run in planned(rows, [*ARMS]) if run.arm == "ema"]
    assert [run for run in planned(rows, [arm for arm in ARMS if arm != AUGMENTED]) if run.arm == "ema"]


def test_the_three_best_go_on_to_a_hundredth_and_the_best_to_everything() -> None:
    runs = planned(tenth(fgm=0.7, ema=0.6, contrast=0.55, plain=0.9), [*ARMS])
    assert {run.arm for run in runs if run.share == 0.01} == {PLAIN, "fgm", "ema", "contrast"}
    assert {(run.data, run.arm) for run in runs if run.share == 1.0} == {
        (data, arm) for data in ("cluener", "cmeee") for arm in (PLAIN, "fgm")
    }
    assert not [run for run in runs if run.share == 0.1]


def test_the_table_says_mean_spread_gain_and_cost() -> None:
    rows = [*tenth(ema=0.53), *(row("cluener", 0.01, "ema", seed, 0.1) for seed in SEEDS)]
    lines = list(table([*rows, row("cmeee", 1.0, PLAIN, 0, 0.6)]))
    assert "| cluener | 0.1 | plain | 0.5100 (0.0100) of 3 | +0.0000 | 1.00 | 1.00 |" in lines
    assert "| cluener | 0.1 | ema | 0.5400 (0.0100) of 3 | +0.0300 | 1.00 | 1.00 |" in lines
    assert "| cmeee | 1 | plain | 0.6000 (one seed) | +0.0000 | 1.00 | 1.00 |" in lines
    assert not [line for line in lines if "| 0.01 |" in line]  # nothing to compare with


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("data", sorted({data for data, _ in EPOCHS}))
def test_every_arm_fits_its_recipe(data: str, arm: str) -> None:
    run = load_run(ROOT / f"training/recipes/{data}.toml", ["objectives={}", *ARMS[arm]])
    plain = load_run(ROOT / f"training/recipes/{data}.toml", ["objectives={}"])
    assert (run == plain) == (arm in (PLAIN, AUGMENTED))


def test_the_committed_rows_are_read_and_each_run_stands_once() -> None:
    rows = read_rows(Row, RESULTS)
    assert rows
    assert len({row.run for row in rows}) == len(rows)
    assert all(json.loads(json.dumps(asdict(row)))["epochs"] == row.epochs for row in rows)
    assert RESULTS.read_text(encoding="utf-8").endswith("\n")
