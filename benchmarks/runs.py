"""Training runs as benchmarks make them, and the command that works through a plan of them.

Knows no benchmark. A benchmark brings its runs, what is still to do, and how one becomes a row.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from benchmarks.processes import ROOT, Finished, run_module
from benchmarks.rows import append_row, read_rows, run_planned

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RECIPES = ROOT / "training/recipes"


class Run(Protocol):
    """One training run; its name says which."""

    @property
    def name(self) -> str: ...

    def __hash__(self) -> int: ...


RunT = TypeVar("RunT", bound=Run)
RowT = TypeVar("RowT", bound="DataclassInstance")


def train(recipe: Path, settings: Sequence[str], output: Path, *options: str) -> Finished:
    """`ner-train train` of a recipe with settings, into a folder whose content goes; what it writes is JSON.

    In fp32, which all processors have: what the recipes say is bf16 on some of them and fp32 on others.
    """
    shutil.rmtree(output, ignore_errors=True)
    own = [part for setting in ('precision="fp32"', *settings) for part in ("--set", setting)]
    return run_module("training.cli", ["train", str(recipe), "-o", str(output), "--json", *options, *own])


def f1_of(trained: Finished) -> float:
    """What a training run says of its last epoch."""
    found: float = json.loads(trained.output)["last_epoch_f1"]
    return found


def command(description: str | None) -> argparse.ArgumentParser:
    """A parser of what all commands of runs are given."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the sets")
    parser.add_argument("--state", type=Path, help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--minutes", type=float, default=30.0, help="no run is begun after so many")
    parser.add_argument("--table", action="store_true", help="show the rows")
    return parser


def work(
    results: Path,
    kind: type[RowT],
    planned: Callable[[list[RowT]], Iterable[RunT]],
    execute: Callable[[RunT], RowT],
    told: Callable[[RowT], str],
    *,
    jobs: int,
    minutes: float,
) -> None:
    """Execute what is planned by the rows there are, and append a row for each run; `told` says what came of it."""

    def finish(run: RunT) -> None:
        row = execute(run)
        append_row(results, row)
        print(f"{run.name}: {told(row)}", file=sys.stderr)

    run_planned(lambda: planned(read_rows(kind, results)), finish, jobs=jobs, minutes=minutes)
