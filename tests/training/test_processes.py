"""Two processes take the steps of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from tests.training.launch import launch
from tests.training.raw_runs import MIXES, write_raw_run
from tests.training.runs import small_setup
from tests.training.shared_steps import record_steps
from training.objectives.spans import SpansObjective

EPOCHS = ("epochs=2", "batch.tokens=384")
REGULARISED = (*EPOCHS, "model.encoder.dropout=0.1", "regularisation.fgm=0.5", "regularisation.r_drop=4.0")


def load(folder: Path, process: int = 0) -> dict[str, Any]:
    value: dict[str, Any] = torch.load(folder / f"{process}.pt", weights_only=True)
    return value


@pytest.fixture(scope="module")
def two_processes(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("two")
    launch(2, "tests.training.shared_steps", str(run_folder), str(output), *EPOCHS)
    return output


@pytest.fixture
def one_process(run_folder: Path, tmp_path: Path) -> dict[str, Any]:
    record_steps(run_folder, tmp_path / "one", *EPOCHS, "batch.accumulate=2")
    return load(tmp_path / "one")


def test_two_processes_take_the_steps_of_one(two_processes: Path, one_process: dict[str, Any]) -> None:
    assert_alike(load(two_processes), one_process, atol=1e-6)


def assert_alike(two: dict[str, Any], one: dict[str, Any], atol: float) -> None:
    assert (two["num_processes"], one["num_processes"]) == (2, 1)
    assert two["steps"] == one["steps"]
    for kind in ("gradients", "weights"):
        assert two[kind].keys() == one[kind].keys()
        for name, tensor in one[kind].items():
            torch.testing.assert_close(two[kind][name], tensor, rtol=0, atol=atol, msg=f"{kind} {name}")
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert two["f1"] == one["f1"]


def test_two_processes_take_the_steps_of_one_with_fgm_and_r_drop(run_folder: Path, tmp_path: Path) -> None:
    """The embeddings move by the gradient of the whole step. Twins: each of the two switches makes other gradients."""
    launch(2, "tests.training.shared_steps", str(run_folder), str(tmp_path / "two"), *REGULARISED)
    record_steps(run_folder, tmp_path / "one", *REGULARISED, "batch.accumulate=2")
    one = load(tmp_path / "one")
    assert_alike(load(tmp_path / "two"), one, atol=2e-6)
    for switch in REGULARISED[-2:]:
        others = [setting for setting in REGULARISED if setting != switch]
        record_steps(run_folder, tmp_path / "other", *others, "epochs=1", "batch.accumulate=2")
        gradients = load(tmp_path / "other")["gradients"]
        assert (gradients["spans.dense.weight"] - one["gradients"]["spans.dense.weight"]).abs().max() > 1e-3


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


GAUSSIAN = (
    *MIXES["univae"],
    "model.encoder.num_layers=2",
    "objectives.univae.latent.posterior=gaussian",
    "objectives.univae.batch_tokens=128",
    "regularisation.ema=0.9",
    "epochs=1",
)


def test_processes_go_on_with_the_mean_of_their_statistics(tmp_path: Path) -> None:
    """Batch norms saw other sentences on each; what is measured and kept must not depend on which process does it."""
    folder = write_raw_run(tmp_path / "raw").parent
    launch(2, "tests.training.shared_steps", str(folder), str(tmp_path / "two"), *GAUSSIAN)
    first, second = load(tmp_path / "two", 0), load(tmp_path / "two", 1)
    norms = [name for name in first["weights"] if name.endswith(("running_mean", "running_var"))]
    assert len(norms) == 2
    for name in norms:
        one, two = first["last_buffers"][name], second["last_buffers"][name]
        assert not torch.equal(one, two)
        torch.testing.assert_close(first["weights"][name], (one + two) / 2)
    for kind in ("weights", "average"):
        for name, tensor in first[kind].items():
            if tensor.is_floating_point():
                assert torch.equal(tensor, second[kind][name]), (kind, name)
