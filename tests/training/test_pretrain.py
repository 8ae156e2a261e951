"""ner-train pretrain: any mix of objectives over raw text and pairs, into a bundle that `train` starts from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from typer.testing import CliRunner

from ner_service.bundle import Bundle
from ner_service.cli import app as service
from ner_service.model.config import Heads
from tests.training.commands import invoke, refusal
from tests.training.launch import launch
from tests.training.raw_runs import MIXES, set_raw_options, write_raw_run
from tests.training.runs import small_setup, write_run
from tests.training.shared_steps import record_steps
from training.assembly import new_state
from training.config import load_run
from training.loop import train
from training.preparation import prepare

ROOT = Path(__file__).parents[2]
HEADS = {
    "masked_language_model": {"language_model"},
    "univae": {"language_model", "latent"},
    "similarity": {"language_model", "embedding"},
    "distillation": set(),
    "all": {"language_model", "latent", "embedding"},
}
SIGKILL = -9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of raw text and pairs."""
    return write_raw_run(tmp_path_factory.mktemp("pretrain") / "raw").parent


@pytest.fixture(scope="module", params=MIXES)
def pretrained(request: pytest.FixtureRequest, folder: Path) -> tuple[str, Path]:
    """A mix and the folder of its run, with the figures in `metrics.json`."""
    mix: str = request.param
    output = folder / mix
    result = invoke("pretrain", folder / "run.toml", "-o", output, "--json", *set_raw_options(*MIXES[mix]))
    assert result.exit_code == 0, result.output
    said = f"Wrote {output}/bundle. Next: ner-train train RUN --set model.start_from={output}/bundle\n"
    assert result.stderr.endswith(said)
    (output / "metrics.json").write_text(result.stdout, encoding="utf-8")
    return mix, output


def test_the_bundle_has_the_heads_that_were_trained(pretrained: tuple[str, Path]) -> None:
    mix, output = pretrained
    bundle = Bundle.load(output / "bundle")
    heads = {head.name for head in fields(Heads) if getattr(bundle.manifest.model.heads, head.name)}
    assert heads == HEADS[mix]
    assert {name.split(".")[0] for name in bundle.weights} == {"encoder", *heads}
    assert bundle.manifest.labels == ()
    assert bundle.manifest.run["name"] == "raw"


def test_its_figures_are_losses_by_objective(pretrained: tuple[str, Path]) -> None:
    mix, output = pretrained
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == Bundle.load(output / "bundle").manifest.metrics
    names = {"masked_language_model", "univae", "similarity", "distillation"} if mix == "all" else {mix}
    assert set(metrics["history"]) == {"1", "2"}
    for record in metrics["history"].values():
        assert record.keys() == {"loss", *names}
        assert all(0 < record[name] < 50 for name in names)
    sums = {int(epoch): sum(record[name] for name in names) for epoch, record in metrics["history"].items()}
    if mix != "all":  # one objective's weight does not change which epoch is best
        assert metrics["best_epoch"] == min(sums, key=lambda epoch: sums[epoch])


def test_inspect_shows_it(pretrained: tuple[str, Path]) -> None:
    mix, output = pretrained
    shown = CliRunner().invoke(service, ["inspect", str(output / "bundle"), "--json"])
    assert shown.exit_code == 0, shown.output
    heads = json.loads(shown.stdout)["model"]["heads"]
    assert {name for name, head in heads.items() if head is not None} == HEADS[mix]
    card = CliRunner().invoke(service, ["inspect", str(output / "bundle")])
    assert card.exit_code == 0, card.output


def test_train_starts_from_it(pretrained: tuple[str, Path], tmp_path: Path) -> None:
    """The encoder's weights and its tokenizer are those of the bundle before the first step; the run goes through."""
    _, output = pretrained
    run = write_run(tmp_path / "sample", num_train=8, num_dev=2)
    settings = (
        f"model.start_from={output}/bundle",
        "model.head.head_size=16",
        "epochs=1",
        "device=cpu",
        "objectives={}",
    )
    setup = prepare(load_run(run, settings), run.parent, run.parent)
    bundle = Bundle.load(output / "bundle")
    found = setup.build_model().state_dict()
    encoder = {name: tensor for name, tensor in bundle.weights.items() if name.startswith("encoder.")}
    assert all(torch.equal(found[name], tensor) for name, tensor in encoder.items())
    assert {name.split(".")[0] for name in found} == {"encoder", "spans"}
    assert setup.tokenizer.to_json() == bundle.tokenizer.to_json()
    result = invoke("train", run, "-o", tmp_path / "run", *set_raw_options(*settings))
    assert result.exit_code == 0, result.output
    assert Bundle.load(tmp_path / "run/bundle").manifest.labels == ("LOC", "ORG", "PER")


def test_pretraining_goes_on_from_a_bundle(folder: Path, pretrained: tuple[str, Path]) -> None:
    """Heads that both runs have come along."""
    mix, output = pretrained
    settings = (*MIXES["all"], f"model.start_from={output}/bundle")
    found = prepare(load_run(folder / "run.toml", settings), folder, folder).build_model().state_dict()
    weights = Bundle.load(output / "bundle").weights
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert {name.split(".")[0] for name in found} == {"encoder", *HEADS["all"]}
    assert (len(found) == len(weights)) == (mix == "all")


def test_what_comes_next_is_named_in_full(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run counts `start_from` from its own folder, not from where the bundle was written."""
    monkeypatch.chdir(tmp_path)
    options = set_raw_options(*MIXES["masked_language_model"], "epochs=1")
    result = invoke("pretrain", folder / "run.toml", "-o", "here", *options)
    assert result.exit_code == 0, result.output
    said = f"Wrote here/bundle. Next: ner-train train RUN --set model.start_from={tmp_path}/here/bundle\n"
    assert result.stderr.endswith(said)
    assert not any(str(tmp_path).encode() in file.read_bytes() for file in (tmp_path / "here/bundle").iterdir())


@pytest.mark.parametrize(
    ("weights", "leader"),
    [
        ({"masked_language_model": 0.5, "univae": 0.4}, "masked_language_model"),
        ({"masked_language_model": 0.4, "univae": 0.5}, "univae"),
        ({"masked_language_model": 0.4, "univae": 0.4}, "univae"),
    ],
)
def test_the_heaviest_objective_leads_and_of_equals_the_longest(
    folder: Path, weights: dict[str, float], leader: str
) -> None:
    """Without documents, whatever its place in the configuration: every batch of it is learnt from."""
    sizes = ("objectives.univae.batch_tokens=64", "objectives.masked_language_model.batch_tokens=1024")
    settings = [f"objectives.{name}.weight={weight}" for name, weight in weights.items()]
    setup = small_setup(folder, *MIXES["univae"], "model.encoder.num_layers=2", "epochs=1", *settings, *sizes)
    state = new_state(setup, Accelerator(cpu=True))
    steps = {weighted.name: len(weighted.objective.steps(0)) for weighted in state.objectives}
    reports = list(train(setup, state, Accelerator(cpu=True)))
    assert {report.num_steps for report in reports} == {steps[leader]}
    assert steps["univae"] > 2 * steps["masked_language_model"]


def test_what_is_held_out_gets_likelier(folder: Path, tmp_path: Path) -> None:
    settings = (*MIXES["masked_language_model"], "epochs=8", "optimizer.lr=3e-3", "optimizer.head_lr=3e-3")
    output = tmp_path / "run"
    result = invoke("pretrain", folder / "run.toml", "-o", output, "--json", *set_raw_options(*settings))
    assert result.exit_code == 0, result.output
    history = json.loads(result.stdout)["history"]
    assert history["8"]["masked_language_model"] < history["1"]["masked_language_model"] - 0.3


def test_in_half_precision(folder: Path, tmp_path: Path) -> None:
    options = set_raw_options(*MIXES["all"], "precision=bf16", "epochs=1")
    result = invoke("pretrain", folder / "run.toml", "-o", tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    weights = Bundle.load(tmp_path / "run/bundle").weights
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float32}


def test_documents_and_raw_text_in_one_run(folder: Path, tmp_path: Path) -> None:
    """`train` with objectives beside the spans: their heads are in the bundle, F1 is what is measured."""
    run = write_run(tmp_path / "sample", num_train=8, num_dev=2)
    texts = f'data.texts=["{folder}/texts.txt.gz"]'
    sizes = ("model.encoder.hidden_size=32", "model.encoder.intermediate_size=64")
    small = (*sizes, "epochs=1", "device=cpu", "regularisation={}")
    (run.parent / "teacher").symlink_to(folder / "teacher")
    result = invoke("train", run, "-o", tmp_path / "run", "--json", *set_raw_options(*small, texts, *MIXES["all"]))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["history"]["1"].keys() == {"loss", "f1"}
    bundle = Bundle.load(tmp_path / "run/bundle")
    assert {name.split(".")[0] for name in bundle.weights} == {"encoder", "spans", *HEADS["all"]}


# Several batches an epoch.
CHUNKS = ("objectives.masked_language_model.batch_tokens=128", "objectives.similarity.chunk_pairs=4")


def test_killed_and_resumed_ends_in_the_same_bits(folder: Path, tmp_path: Path) -> None:
    """All objectives at once over streamed rounds, with averaged weights."""
    options = set_raw_options(*MIXES["all"], *CHUNKS, "epochs=3", "regularisation.ema=0.9")
    command = [sys.executable, "-m", "tests.training.killed_run", "pretrain", str(folder / "run.toml"), str(tmp_path)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], cwd=ROOT, env=one_thread, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, 0, SIGKILL, SIGKILL, SIGKILL, SIGKILL, 0], done.stderr
    whole, killed, seed = (snapshot(tmp_path / name) for name in ("whole", "killed", "seed"))
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, killed["model"][name]), name
        assert torch.equal(whole["best_weights"][name], killed["best_weights"][name]), name
        assert torch.equal(whole["average"]["weights"][name], killed["average"]["weights"][name]), name
    assert whole["history"] == killed["history"]
    assert len(whole["history"]) == 3
    for file in ("model.safetensors", "manifest.json"):
        assert (tmp_path / "whole/bundle" / file).read_bytes() == (tmp_path / "killed/bundle" / file).read_bytes()
    assert not torch.equal(whole["model"]["language_model.bias"], seed["model"]["language_model.bias"])


def snapshot(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = torch.load(folder / "snapshot.pt", weights_only=True)
    return value


# Without codes that are drawn, and without noise: chance differs from process to process.
ALIKE = (
    *MIXES["all"],
    "model.encoder.num_layers=2",
    "objectives.univae.latent.posterior=none",
    "objectives.similarity.noise=0.0",
)


def test_two_processes_take_the_steps_of_one(folder: Path, tmp_path: Path) -> None:
    launch(2, "tests.training.shared_steps", str(folder), str(tmp_path / "two"), *ALIKE, *CHUNKS)
    record_steps(folder, tmp_path / "one", *ALIKE, *CHUNKS, "batch.accumulate=2")
    one = recorded(tmp_path / "one", 0)
    two, other = recorded(tmp_path / "two", 0), recorded(tmp_path / "two", 1)
    assert (one["num_processes"], two["num_processes"]) == (1, 2)
    assert one["steps"] == two["steps"]
    for kind in ("gradients", "weights"):
        assert two[kind].keys() == one[kind].keys()
        for name, tensor in one[kind].items():
            torch.testing.assert_close(two[kind][name], tensor, rtol=0, atol=2e-6, msg=f"{kind} {name}")
            assert torch.equal(two[kind][name], other[kind][name]), name
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert two["f1"] == pytest.approx(one["f1"], rel=1e-5)


def recorded(folder: Path, process: int) -> dict[str, Any]:
    value: dict[str, Any] = torch.load(folder / f"{process}.pt", weights_only=True)
    return value


def test_one_process_without_accumulation_takes_other_steps(folder: Path) -> None:
    """The twin of the test above."""
    steps = []
    for accumulate in (1, 2):
        setup = small_setup(folder, *MIXES["masked_language_model"], CHUNKS[0], f"batch.accumulate={accumulate}")
        [weighted] = new_state(setup, Accelerator(cpu=True)).objectives
        steps.append(len(weighted.objective.steps(0)))
    assert steps[1] == -(-steps[0] // 2) < steps[0]


def test_pretrain_refuses_documents_and_train_wants_some(folder: Path, run_folder: Path, tmp_path: Path) -> None:
    raw, documents = folder / "run.toml", run_folder / "run.toml"
    said = refusal("train", raw, "-o", tmp_path, *set_raw_options(*MIXES["masked_language_model"]))
    assert said == f"{raw}: data.train: found no documents, expected some; without any, use pretrain"
    said = refusal("pretrain", documents, "-o", tmp_path, *set_raw_options(*MIXES["masked_language_model"]))
    assert said == f"{documents}: data.train: found documents, expected none; to learn from labels, use train"


def test_a_run_without_an_objective_is_refused(folder: Path, tmp_path: Path) -> None:
    said = refusal("pretrain", folder / "run.toml", "-o", tmp_path / "run", *set_raw_options())
    assert said == "objectives: found none, expected at least one to learn from texts and pairs"


@pytest.mark.parametrize("mix", MIXES)
def test_nothing_held_out_is_refused_before_the_first_step(mix: str, folder: Path, tmp_path: Path) -> None:
    options = set_raw_options(*MIXES[mix], "data.dev_fraction=0.0")
    said = refusal("pretrain", folder / "run.toml", "-o", tmp_path / "run", *options)
    assert "held out" in said
    assert ", expected" in said
    assert not (tmp_path / "run").exists()


def test_nothing_to_read_is_refused(folder: Path, tmp_path: Path) -> None:
    empty = set_raw_options("data.texts=[]", "data.pairs=[]")
    said = refusal("pretrain", folder / "run.toml", "-o", tmp_path / "run", *empty)
    assert said.endswith("data: found none of `train`, `texts` and `pairs`, expected something to learn from")
