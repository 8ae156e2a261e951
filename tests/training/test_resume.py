"""A run that was killed and resumed ends in the bits of one that was not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from typer.testing import CliRunner

from ner_service.errors import ConfigError
from tests.commands import files_end_at
from tests.training.runs import set_options, small_setup, write_run
from training.assembly import new_state
from training.cli import app, runs
from training.state import EpochRecord

ROOT = Path(__file__).parents[2]
REGULARISED = ("regularisation.fgm=0.5", "regularisation.ema=0.9")
OPTIONS = set_options("epochs=3", "data.join=0.5", "batch.tokens=512", *REGULARISED)
SIGKILL = -9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of the same configuration: left alone, killed and resumed, with another seed."""
    folder = tmp_path_factory.mktemp("killed")
    run = write_run(folder / "sample", num_train=32, num_dev=8)
    command = [sys.executable, "-m", "tests.training.killed_run", "train", str(run), str(folder), *OPTIONS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, 0, SIGKILL, SIGKILL, SIGKILL, SIGKILL, 0], done.stderr
    return folder


def snapshot(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = torch.load(folder / "snapshot.pt", weights_only=True)
    return value


def test_killed_and_resumed_ends_in_the_same_bits(folder: Path) -> None:
    whole, killed = snapshot(folder / "whole"), snapshot(folder / "killed")
    assert whole["model"].keys() == killed["model"].keys()
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, killed["model"][name]), name
        assert torch.equal(whole["best_weights"][name], killed["best_weights"][name]), name
        assert torch.equal(whole["average"]["weights"][name], killed["average"]["weights"][name]), name
    assert whole["history"] == killed["history"]
    assert len(whole["history"]) == 3
    for file in ("model.safetensors", "manifest.json"):
        assert (folder / "whole/bundle" / file).read_bytes() == (folder / "killed/bundle" / file).read_bytes()


def test_another_seed_ends_in_other_bits(folder: Path) -> None:
    whole, other = snapshot(folder / "whole")["model"], snapshot(folder / "seed")["model"]
    assert whole.keys() == other.keys()
    assert not any(torch.equal(tensor, other[name]) for name, tensor in whole.items() if name.endswith("dense.weight"))


def test_a_snapshot_is_not_overwritten_unasked(folder: Path) -> None:
    before = (folder / "whole/snapshot.pt").read_bytes()
    result = train(folder, folder / "whole")
    assert result.exit_code == 1
    assert (
        result.stderr
        == f"error: {folder}/whole/snapshot.pt: a run stands here; go on with --resume, or choose another folder\n"
    )
    assert (folder / "whole/snapshot.pt").read_bytes() == before


def test_another_configuration_may_not_resume(folder: Path) -> None:
    result = train(folder, folder / "whole", "--resume", "--set", "optimizer.lr=1e-5")
    assert result.exit_code == 1
    place = f"error: {folder}/whole/snapshot.pt: belongs to another run, expected this one; "
    assert result.stderr == f"{place}optimizer.lr: found 0.002 there, 1e-05 here\n"


def test_other_data_may_not_resume(folder: Path, tmp_path: Path) -> None:
    """The last training document is moved to the dev documents: the same documents in the same order."""
    train_lines = (folder / "sample/train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    dev_text = (folder / "sample/dev.jsonl").read_text(encoding="utf-8")
    (tmp_path / "train.jsonl").write_text("".join(train_lines[:-1]), encoding="utf-8")
    (tmp_path / "dev.jsonl").write_text(train_lines[-1] + dev_text, encoding="utf-8")
    result = train(folder, folder / "whole", "--resume", "--data", str(tmp_path))
    assert result.exit_code == 1
    assert "snapshot.pt: belongs to another run, expected this one; sha256.data: found '" in result.stderr


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda content: content[: len(content) // 2], "File is not a zip file"),
        (lambda content: b"", "File is not a zip file"),
        (lambda content: content[:40000] + bytes([content[40000] ^ 1]) + content[40001:], "archive/data/"),
    ],
)
def test_a_damaged_snapshot_is_named(
    folder: Path, tmp_path: Path, damage: Callable[[bytes], bytes], fault: str
) -> None:
    path = tmp_path / "snapshot.pt"
    path.write_bytes(damage((folder / "whole/snapshot.pt").read_bytes()))
    result = train(folder, tmp_path, "--resume")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {path}: damaged ({fault}")
    assert result.stderr.endswith("); expected a snapshot of ner-train. Delete it to start anew\n")


def test_a_full_disk_is_named(run_folder: Path, tmp_path: Path) -> None:
    """What torch says of it names no disk. The snapshot before stays."""
    path = tmp_path / "snapshot.pt"
    path.write_bytes(b"before")
    state = new_state(small_setup(run_folder), Accelerator(cpu=True))
    with files_end_at(1000), pytest.raises(OSError, match="File too large") as caught:
        state.save(path, {})
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"before"


def test_a_finished_run_resumes_to_the_same_bundle(folder: Path) -> None:
    before = (folder / "whole/bundle/model.safetensors").read_bytes()
    result = train(folder, folder / "whole", "--resume")
    assert result.exit_code == 0, result.stderr
    assert (folder / "whole/bundle/model.safetensors").read_bytes() == before
    assert "Goes on after 3 of 3 epochs\n" in result.stderr


def test_nothing_to_resume_is_a_start(run_folder: Path, tmp_path: Path) -> None:
    command = ["train", str(run_folder / "run.toml"), "-o", str(tmp_path / "run"), "--resume"]
    result = CliRunner().invoke(app, [*command, *set_options("epochs=1", "batch.tokens=2048")])
    assert result.exit_code == 0, result.stderr
    assert f"Nothing to go on with in {tmp_path}/run: starts anew\n" in result.stderr


def test_who_interrupts_a_run_is_told_how_to_go_on(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(runs, "run_loop", interrupted)
    command = ["train", str(run_folder / "run.toml"), "-o", str(tmp_path / "run"), *set_options("batch.tokens=2048")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 130
    assert "Interrupted. The same command with --resume goes on from the last snapshot\n" in result.stderr


def train(folder: Path, output: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["train", str(folder / "sample/run.toml"), "-o", str(output), *OPTIONS, *options])


def test_a_state_comes_back_from_its_snapshot(run_folder: Path, tmp_path: Path) -> None:
    setup = small_setup(run_folder)
    state = new_state(setup, Accelerator(cpu=True))
    torch.stack([parameter.square().sum() for parameter in state.model.parameters()]).sum().backward()
    state.optimizer.step()
    state.epoch, state.step, state.loss_sum = 3, 2, 1.5
    state.history = [EpochRecord(epoch=0, loss=0.5, losses={"spans": 0.5}, dev={"f1": 0.25}, score=0.25)]
    state.best_weights = {"weight": torch.arange(3.0)}
    state.save(tmp_path / "snapshot.pt", {"model": {"num_layers": 2}, "epochs": 3})

    other = new_state(setup, Accelerator(cpu=True))
    other.restore(tmp_path / "snapshot.pt", {"epochs": 3, "model": {"num_layers": 2}})
    assert (other.epoch, other.step, other.loss_sum) == (3, 2, 1.5)
    assert [asdict(record) for record in other.history] == [asdict(record) for record in state.history]
    assert torch.equal(other.best_weights["weight"], torch.arange(3.0))
    for one, two in zip(state.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(state.optimizer.state[one]["exp_avg"], other.optimizer.state[two]["exp_avg"])
    assert [file.name for file in tmp_path.iterdir()] == ["snapshot.pt"]

    differs = r"model\.num_layers: found 2 there, 3 here; epochs: found 3 there, None here$"
    with pytest.raises(ConfigError, match=f"belongs to another run, expected this one; {differs}"):
        other.restore(tmp_path / "snapshot.pt", {"model": {"num_layers": 3}})
