"""The benchmark of the gradient cache, at a size of no interest."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from benchmarks import contrast
from benchmarks.contrast import Arm, Shape, beyond, memory, peak_kib, relative_errors, times

SHAPE = Shape(rows=8, chunk=2, tokens=4, layers=1, width=64, threads=1)
OPTIONS = ["--rows", "8", "--chunk", "2", "--tokens", "4", "--layers", "1", "--width", "64"]
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
MIB = 1024


def test_only_chunks_that_know_of_each_other_are_exact() -> None:
    errors = relative_errors(SHAPE)
    assert errors["without_dropout"] < 1e-12
    assert errors["with_dropout"] < 1e-12
    assert errors["chunks_apart"] > 1e-2


def test_ways_of_the_allocator_apart_and_idle_memory_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks: dict[Arm, int] = {"idle": 100 * MIB, "plain": 140 * MIB, "apart": 145 * MIB, "cached": 150 * MIB}

    def peak(arm: Arm, shape: Shape, environment: Mapping[str, str]) -> int:
        assert shape == SHAPE
        return peaks[arm] + (0 if environment else 10 * MIB * (arm == "plain"))

    monkeypatch.setattr(contrast, "_peak_of_process", peak)
    held = {"idle_mib": 100.0, "plain_batches_mib": 40.0, "chunks_apart_mib": 45.0, "cached_mib": 50.0, "ratio": 1.25}
    assert memory(SHAPE) == {"held": held, "kept": {**held, "plain_batches_mib": 50.0, "ratio": 1.0}}


@ON_LINUX
def test_a_peak_is_read_in_a_process_of_its_own() -> None:
    """At least an import of torch, at most a machine."""
    assert 50 < contrast._peak_of_process("idle", SHAPE, {}) / MIB < 10_000


@ON_LINUX
@pytest.mark.parametrize("arm", ["plain", "apart", "cached"])
def test_every_way_runs(arm: Arm) -> None:
    assert peak_kib(arm, SHAPE) > 0


def test_a_ratio_of_times_is_between_its_extremes() -> None:
    found = times(SHAPE, 3)
    assert 0 < found["smallest_ratio"] <= found["ratio"] <= found["largest_ratio"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], tuple[int, dict[str, Any], str]]:
    """Run the command with this ratio of memory: exit code, what it prints, what it complains of."""
    app = Typer()
    app.command()(contrast.main)

    def run_with(ratio: float) -> tuple[int, dict[str, Any], str]:
        monkeypatch.setattr(contrast, "memory", lambda shape: {"held": {"ratio": ratio}, "kept": {"ratio": 9.0}})
        monkeypatch.setattr(contrast, "times", lambda shape, rounds: {"ratio": 1.4})
        done = CliRunner().invoke(app, OPTIONS)
        return done.exit_code, json.loads(done.stdout), done.stderr

    return run_with


def test_the_command_prints_what_it_found(run: Callable[[float], tuple[int, dict[str, Any], str]]) -> None:
    code, printed, complaints = run(1.2)
    assert (code, complaints) == (0, "")
    assert printed["shape"] == {"rows": 8, "chunk": 2, "tokens": 4, "layers": 1, "width": 64, "threads": 1}
    assert printed["memory"]["held"] == {"ratio": 1.2}
    assert printed["time"] == {"ratio": 1.4}


def test_the_command_fails_beyond_what_is_expected(run: Callable[[float], tuple[int, dict[str, Any], str]]) -> None:
    code, _, complaints = run(1.31)
    assert (code, complaints) == (1, "memory ratio: found 1.31, expected at most 1.3\n")


def test_what_is_not_a_number_is_beyond_all_expectation() -> None:
    nan = float("nan")
    errors = {"without_dropout": nan, "with_dropout": 1e-9}
    assert len(beyond(errors, {"ratio": nan}, {"ratio": 1.6})) == 4
