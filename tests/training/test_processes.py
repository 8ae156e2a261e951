"""Two processes take the steps of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from tests.training.runs import small_setup
from tests.training.shared_steps import record_steps
from training.objectives.spans import SpansObjective

ROOT = Path(__file__).parents[2]
EPOCHS = ("epochs=2", "batch.tokens=384")
# With a GPU's launcher on CPUs: `--cpu` alone starts a single process unless MPI is at hand.
LAUNCH = ("--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")


def load(folder: Path, process: int = 0) -> dict[str, Any]:
    value: dict[str, Any] = torch.load(folder / f"{process}.pt", weights_only=True)
    return value


@pytest.fixture(scope="module")
def two_processes(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("two")
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *LAUNCH,
        "--main_process_ip=127.0.0.1",
        "--main_process_port=0",
    ]
    command = [*launcher, "--module", "tests.training.shared_steps", str(run_folder), str(output), *EPOCHS]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture
def one_process(run_folder: Path, tmp_path: Path) -> dict[str, Any]:
    record_steps(run_folder, tmp_path / "one", *EPOCHS, "batch.accumulate=2")
    return load(tmp_path / "one")


def test_two_processes_take_the_steps_of_one(two_processes: Path, one_process: dict[str, Any]) -> None:
    two = load(two_processes)
    assert (two["num_processes"], one_process["num_processes"]) == (2, 1)
    assert two["steps"] == one_process["steps"]
    for kind in ("gradients", "weights"):
        assert two[kind].keys() == one_process[kind].keys()
        for name, tensor in one_process[kind].items():
            torch.testing.assert_close(two[kind][name], tensor, rtol=0, atol=1e-6, msg=f"{kind} {name}")
    assert two["losses"] == pytest.approx(one_process["losses"], rel=1e-5)
    assert two["f1"] == one_process["f1"]


def test_both_processes_hold_the_same_weights(two_processes: Path) -> None:
    first, second = load(two_processes, 0), load(two_processes, 1)
    assert all(torch.equal(tensor, second["weights"][name]) for name, tensor in first["weights"].items())
    assert first["losses"] == second["losses"]


def test_in_the_last_step_one_process_was_idle(run_folder: Path) -> None:
    """Or the tests above would not show what an idle one does."""
    setup = small_setup(run_folder, *EPOCHS)
    objective = SpansObjective(setup, setup.build_model(), Accelerator(cpu=True))
    assert [len(objective.steps(epoch)) % 2 for epoch in range(2)] == [1, 1]


def test_without_accumulation_one_process_takes_other_steps(
    run_folder: Path, one_process: dict[str, Any], tmp_path: Path
) -> None:
    record_steps(run_folder, tmp_path / "other", *EPOCHS)
    other = load(tmp_path / "other")
    gradient = other["gradients"]["spans.dense.weight"]
    assert (gradient - one_process["gradients"]["spans.dense.weight"]).abs().max() > 1e-3
