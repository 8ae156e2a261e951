"""Costs on a CPU, and, without one at hand, what is asked of a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import machine
from benchmarks.accuracy import costs
from benchmarks.accuracy.costs import Cost, run_measured
from benchmarks.processes import Finished, run_module

MODULE = """\
import sys

print(sys.argv[1:])
print("last")
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says it has a GPU, 3 MiB of which were allocated at most."""
    monkeypatch.setattr(machine, "pick_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "measured_module.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "measured_module"


def test_on_a_cpu_time_is_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "pick_device", lambda _: torch.device("cpu"))
    finished = Finished(output="{}\n", cpu_s=7.5, peak_mib=20.0)
    monkeypatch.setattr(costs, "run_module", lambda module, arguments: finished)
    assert run_measured("any", []) == ("{}\n", Cost(seconds=7.5, peak_mib=20.0, clock="cpu"))


@pytest.mark.usefixtures("gpu")
def test_on_a_gpu_the_process_says_wall_time_and_the_gpus_memory(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The host's figures, which the parent sees, are in no row of a GPU."""

    def run_here(name: str, arguments: list[str]) -> Finished:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        costs.main()
        return Finished(output=capsys.readouterr().out, cpu_s=1e6, peak_mib=1e6)

    monkeypatch.setattr(costs, "run_module", run_here)
    output, cost = run_measured(module, ["0", "--set", "a=1"])
    assert output == "['0', '--set', 'a=1']\nlast"
    assert (cost.peak_mib, cost.clock) == (3.0, "wall")
    assert cost.seconds < 1e6


@pytest.mark.usefixtures("gpu")
def test_a_module_that_fails_fails_without_a_cost(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["costs", module, "3"])
    with pytest.raises(SystemExit) as ended:
        costs.main()
    assert ended.value.code == 3
    assert capsys.readouterr().out.endswith("last\n")


def test_the_command_runs_a_module_as_a_process_does() -> None:
    """The real child: a processor's torch has allocated nothing on a GPU."""
    output = run_module("benchmarks.accuracy.costs", ["calendar", "2026", "1"]).output
    assert "January 2026" in output
    cost = json.loads(output.splitlines()[-1])
    assert sorted(cost) == ["clock", "peak_mib", "seconds"]
    assert (cost["clock"], cost["peak_mib"]) == ("wall", 0.0)
