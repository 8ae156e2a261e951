"""A run from its first step to its last: early stopping, the best weights, half precision, learning."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from ner_service.errors import ConfigError
from tests.training.runs import small_setup, write_run
from training import loop
from training.assembly import new_state
from training.loop import Progress, train, weights_of


def scripted_f1(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    script = iter(values)
    monkeypatch.setattr(loop, "_measure", lambda *_: ({}, next(script)))


def test_reports_of_a_run(run_folder: Path) -> None:
    setup = small_setup(run_folder, "epochs=2")
    state = new_state(setup, Accelerator(cpu=True))
    reports = list(train(setup, state, Accelerator(cpu=True)))
    num_steps = reports[0].num_steps
    assert num_steps > 2
    assert [(report.epoch, report.step) for report in reports if report.finished is None] == [
        (epoch, step + 1) for epoch in range(2) for step in range(num_steps)
    ]
    finished = [report.finished for report in reports if report.finished]
    assert finished == state.history
    for epoch, record in enumerate(state.history):
        losses = [report.loss for report in reports if report.epoch == epoch and report.finished is None]
        assert record.loss == pytest.approx(sum(losses) / num_steps)
    assert (state.epoch, state.step) == (2, 0)
    tokens = setup.tokenizer.encode_batch([document.text for document in setup.corpus.train])
    assert sum(report.num_tokens for report in reports if report.epoch == 0) == sum(map(len, tokens))


def test_stops_when_f1_has_not_risen_for_patience_epochs(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_f1(monkeypatch, 0.1, 0.5, 0.5, 0.4, 0.9)
    setup = small_setup(run_folder, "epochs=5", "patience=2", "batch.tokens=2048")
    state = new_state(setup, Accelerator(cpu=True))
    weights: list[dict[str, Tensor]] = []
    for report in train(setup, state, Accelerator(cpu=True)):
        if report.finished:
            weights.append(weights_of(state.model))
    assert [record.score for record in state.history] == [0.1, 0.5, 0.5, 0.4]
    assert state.best is not None
    assert state.best.epoch == 1
    best = state.best_weights
    assert all(torch.equal(best[name], tensor) for name, tensor in weights[1].items())
    assert not torch.equal(best["spans.dense.weight"], weights[2]["spans.dense.weight"])


def test_without_patience_every_epoch_is_run(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_f1(monkeypatch, 0.5, 0.4, 0.3, 0.2)
    setup = small_setup(run_folder, "epochs=4", "batch.tokens=2048")
    state = new_state(setup, Accelerator(cpu=True))
    list(train(setup, state, Accelerator(cpu=True)))
    assert len(state.history) == 4


@pytest.mark.parametrize(("patience", "num_epochs"), [(1, 4), (2, 6)])
def test_patience_counts_measures_and_a_run_stops_after_one(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, patience: int, num_epochs: int
) -> None:
    """Measured are epochs 2, 4, 6; the best is the first of them, and never one that was not measured."""
    scripted_f1(monkeypatch, -0.5, -0.6, -0.7)
    setup = small_setup(run_folder, "epochs=9", "evaluate_every=2", f"patience={patience}", "batch.tokens=2048")
    state = new_state(setup, Accelerator(cpu=True))
    weights, best = [], []
    for report in train(setup, state, Accelerator(cpu=True)):
        if report.finished:
            weights.append(weights_of(state.model))
            best.append(state.best and state.best.epoch)
    assert [record.score for record in state.history] == [None, -0.5, None, -0.6, None, -0.7][:num_epochs]
    assert best == [None, 1, 1, 1, 1, 1][:num_epochs]
    assert all(torch.equal(state.best_weights[name], tensor) for name, tensor in weights[1].items())


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_ends_the_run(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, score: float
) -> None:
    monkeypatch.setattr(loop, "_measure", lambda *_: ({"spans": -score}, score))
    setup = small_setup(run_folder, "epochs=3", "evaluate_every=2", "batch.tokens=2048")
    state = new_state(setup, Accelerator(cpu=True))
    said = r"epoch 2: found the losses \{'spans': \d.*\} and, on what is held out, \{'spans': -?(nan|inf)\}, exp"
    with pytest.raises(ConfigError, match=said):
        list(train(setup, state, Accelerator(cpu=True)))
    assert len(state.history) == 1
    assert not state.best_weights


def test_a_loss_that_is_not_finite_ends_the_run(run_folder: Path) -> None:
    """F1 alone would not tell: a model of NaN finds nothing, which is 0."""
    setup = small_setup(run_folder, "epochs=1", "batch.tokens=2048")
    state = new_state(setup, Accelerator(cpu=True))
    with torch.no_grad():
        dict(state.model.named_parameters())["spans.terms.bias"].fill_(math.nan)
    with pytest.raises(ConfigError, match=r"epoch 1: found the losses \{'spans': nan\}.*'f1': 0\.0"):
        list(train(setup, state, Accelerator(cpu=True)))


def test_a_model_that_finds_everything_does_not_break_the_run_off(run_folder: Path) -> None:
    """Before it has learnt anything it may have more candidates than a window may emit."""
    setup = small_setup(run_folder, "epochs=1", "batch.tokens=2048", "window.max_tokens=128")
    state = new_state(setup, Accelerator(cpu=True))
    with torch.no_grad():
        dict(state.model.named_parameters())["spans.terms.bias"].fill_(20.0)
    documents = tuple(type(d)(d.text * 4, d.entities, d.id) for d in setup.corpus.dev)
    assert max(map(len, setup.tokenizer.encode_batch([d.text for d in documents]))) > 50
    object.__setattr__(setup.corpus, "dev", documents)
    list(train(setup, state, Accelerator(cpu=True)))
    assert [record.score for record in state.history] == [0.0]


def final_loss(reports: list[Progress]) -> float:
    return [report.finished.loss for report in reports if report.finished][-1]


def test_bf16_learns_what_fp32_learns(run_folder: Path) -> None:
    """About the same losses, and not the same bits: half precision was at work."""
    losses = []
    for precision in ("no", "bf16"):
        setup = small_setup(run_folder, "epochs=3", "optimizer.lr=2e-3", "optimizer.head_lr=2e-3")
        accelerator = Accelerator(cpu=True, mixed_precision=precision)
        state = new_state(setup, accelerator)
        losses.append(final_loss(list(train(setup, state, accelerator))))
        assert all(parameter.dtype == torch.float32 for parameter in state.model.parameters())
        accelerator.free_memory()
        _reset()
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def _reset() -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("kind", ["efficient_global_pointer", "global_pointer"])
def test_learns_its_training_documents_by_heart(tmp_path: Path, kind: str) -> None:
    folder = write_run(tmp_path / "sample", num_train=24, num_dev=1).parent
    (folder / "dev.jsonl").write_bytes((folder / "train.jsonl").read_bytes())
    setup = small_setup(
        folder,
        "epochs=24",
        f"model.head.kind={kind}",
        "optimizer.lr=5e-3",
        "optimizer.head_lr=5e-3",
        "model.encoder.dropout=0.0",
    )
    state = new_state(setup, Accelerator(cpu=True))
    list(train(setup, state, Accelerator(cpu=True)))
    assert state.history[-1].dev["f1"] > 0.95
    assert state.history[0].dev["f1"] < 0.5
