"""Schedules, parameter groups, the randomness of a step; FGM and averaged weights; a run's steps written out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ner_service.bundle import Bundle
from ner_service.model.text_model import TextModel
from tests.training.runs import small_setup
from training.assembly import new_state
from training.config import OptimizerConfig
from training.loop import train
from training.objectives.spans import SpansObjective
from training.preparation import Setup
from training.steps import (
    Adversarial,
    AveragedWeights,
    build_optimizer,
    schedule_factor,
    seed_step,
    set_learning_rate,
    sum_gradients,
)

LINEAR = OptimizerConfig(warmup_fraction=0.2)


@pytest.mark.parametrize(
    ("config", "progress", "factor"),
    [
        (LINEAR, 0.0, 0.0),
        (LINEAR, 0.05, 0.25),
        (LINEAR, 0.2, 1.0),
        (LINEAR, 0.4, 0.75),
        (LINEAR, 1.0, 0.0),
        (OptimizerConfig(warmup_fraction=0.0), 0.0, 1.0),
        (OptimizerConfig(warmup_fraction=0.0), 0.25, 0.75),
    ],
)
def test_the_schedule_at_named_points(config: OptimizerConfig, progress: float, factor: float) -> None:
    assert schedule_factor(progress, config) == pytest.approx(factor, abs=1e-12)


@pytest.fixture
def model(tiny_bundle: Bundle) -> TextModel:
    return TextModel(tiny_bundle.manifest.model, 3)


def test_every_parameter_is_in_one_group(model: TextModel) -> None:
    optimizer = build_optimizer(model.encoder, model.spans, LINEAR)
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in model.parameters()}


def test_groups_by_learning_rate_and_decay(model: TextModel) -> None:
    config = OptimizerConfig(lr=0.1, head_lr=0.2, weight_decay=0.3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in build_optimizer(model.encoder, model.spans, config).param_groups
        for parameter in group["params"]
    }
    assert found == {
        name: (0.1 if name.startswith("encoder.") else 0.2, 0.0 if _is_bare(name) else 0.3) for name in found
    }
    assert found["encoder.token_embedding.weight"] == (0.1, 0.0)
    assert found["encoder.layers.0.attention_norm.weight"] == (0.1, 0.0)
    assert found["encoder.layers.0.feed_in.weight"] == (0.1, 0.3)
    assert found["encoder.layers.0.feed_in.bias"] == (0.1, 0.0)
    assert found["spans.dense.weight"] == (0.2, 0.3)
    assert found["spans.terms.bias"] == (0.2, 0.0)


def _is_bare(name: str) -> bool:
    return name.endswith("bias") or "embedding" in name or "norm" in name


def test_learning_rates_follow_the_schedule_from_their_own_peaks(model: TextModel) -> None:
    config = OptimizerConfig(lr=0.1, head_lr=0.2, warmup_fraction=0.0)
    optimizer = build_optimizer(model.encoder, model.spans, config)
    for progress in (0.5, 0.25):
        set_learning_rate(optimizer, progress, config)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.075, 0.075, 0.15, 0.15])


def test_a_step_moves_weights_by_the_rule_of_adamw(model: TextModel) -> None:
    """The first step of Adam is lr times the gradient's sign; decay takes lr * weight_decay of the weight first."""
    config = OptimizerConfig(lr=0.01, head_lr=0.02, weight_decay=0.5)
    optimizer = build_optimizer(model.encoder, model.spans, config)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, -3.0)
    optimizer.step()
    after = dict(model.named_parameters())
    for name, lr, decay in (
        ("encoder.layers.1.feed_out.weight", 0.01, 0.5),
        ("encoder.token_embedding.weight", 0.01, 0.0),
        ("spans.terms.weight", 0.02, 0.5),
    ):
        torch.testing.assert_close(after[name], before[name] * (1 - lr * decay) + lr, rtol=1e-5, atol=1e-6)


def _draw(*place: int) -> list[float]:
    seed_step(*place)
    return torch.rand(2).tolist()


def test_the_randomness_of_a_step_depends_on_its_place_alone() -> None:
    first = _draw(0, 1, 2, 0)
    torch.rand(100)
    assert _draw(0, 1, 2, 0) == first
    others = [
        _draw(*place)
        for place in (
            (1, 1, 2, 0),
            (0, 2, 2, 0),
            (0, 1, 3, 0),
            (0, 1, 2, 1),
            (0, 2, 1, 0),
            (-1, 1, 2, 0),
            (-2, 1, 2, 0),
        )
    ]
    assert len({tuple(draw) for draw in [first, *others]}) == 8


def test_the_seed_of_a_step_is_the_same_everywhere() -> None:
    """Not Python's hash, which may change with its version: SHA-512 of a text, as `random` documents it."""
    seed_step(3, 1, 4, 1)
    assert torch.initial_seed() == 979893197177846


def test_one_process_leaves_gradients_alone() -> None:
    weight = torch.zeros(2, requires_grad=True)
    weight.grad = torch.tensor([1.0, 2.0])
    sum_gradients([weight], Accelerator(cpu=True))
    assert weight.grad.tolist() == [1.0, 2.0]


class Quadratic:
    """Half the squared distance of an embedding from each of its targets, so the gradient is the distance."""

    extra: nn.Module | None = None

    def __init__(self, embedding: nn.Embedding) -> None:
        self.embedding = embedding

    def steps(self, epoch: int) -> Sequence[Sequence[Tensor]]:
        return [[torch.zeros(2, 2)]]

    def count(self, batch: Tensor) -> float:
        return 1.0

    def num_tokens(self, batch: Tensor) -> int:
        return 2

    def backward(self, batches: Sequence[Tensor], scale: float) -> float:
        total = torch.stack([(self.embedding.weight - batch).square().sum() / 2 for batch in batches]).sum()
        (total * scale).backward()
        return float(total.detach())


START = [[3.0, 0.0], [1.0, -1.0]]
TARGETS = (torch.tensor([[0.0, 0.0], [1.0, -1.0]]), torch.tensor([[0.0, -8.0], [1.0, -1.0]]))


def fgm_gradient(epsilon: float, earlier: float = 0.0) -> tuple[Tensor, float, Tensor]:
    """Gradient, loss and weight after a step of `Quadratic` with FGM, scaled by 2."""
    embedding = nn.Embedding.from_pretrained(torch.tensor(START), freeze=False)
    embedding.weight.grad = torch.full((2, 2), earlier) if earlier else None
    adversarial = Adversarial(Quadratic(embedding), embedding, epsilon, Accelerator(cpu=True))
    loss = adversarial.backward(TARGETS, 2.0)
    assert embedding.weight.grad is not None
    return embedding.weight.grad, loss, embedding.weight.detach()


def test_fgm_adds_the_gradient_at_the_moved_point() -> None:
    """Both targets together: g = 2 * (6, 8) in the first row, |g| = 20. Moved by 5 g / |g| = (3, 4), the gradient of
    each of the two grows by 2 * (3, 4), so both passes have (12, 16) + (12, 16) + (12, 16).
    """
    gradient, loss, _ = fgm_gradient(5.0)
    torch.testing.assert_close(gradient, torch.tensor([[36.0, 48.0], [0.0, 0.0]]))
    assert loss == pytest.approx(9 / 2 + 73 / 2)
    assert fgm_gradient(1e-9)[0][0].tolist() == pytest.approx([24.0, 32.0])


def test_fgm_leaves_the_weights_as_they_were() -> None:
    assert torch.equal(fgm_gradient(0.1)[2], torch.tensor(START))


def test_fgm_moves_by_its_own_gradient_alone() -> None:
    """What another objective left in the gradient stays there and is no part of the direction."""
    alone, beside = fgm_gradient(5.0)[0], fgm_gradient(5.0, earlier=100.0)[0]
    torch.testing.assert_close(beside, alone + 100.0)


def test_fgm_at_a_minimum_moves_nothing() -> None:
    embedding = nn.Embedding.from_pretrained(TARGETS[0].clone(), freeze=False)
    assert Adversarial(Quadratic(embedding), embedding, 5.0, Accelerator(cpu=True)).backward(TARGETS[:1], 1.0) == 0.0
    assert embedding.weight.grad is not None
    assert not embedding.weight.grad.any()


def test_fgm_is_else_the_objective_it_wraps() -> None:
    embedding = nn.Embedding(2, 2)
    plain = Quadratic(embedding)
    adversarial = Adversarial(plain, embedding, 1.0, Accelerator(cpu=True))
    assert (adversarial.count(TARGETS[0]), adversarial.num_tokens(TARGETS[0])) == (1.0, 2)
    assert len(adversarial.steps(0)) == 1
    assert adversarial.extra is None


def set_all(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(value)


def test_averaged_weights_by_hand() -> None:
    """From 1, updates with 2, 4, 8: the share that stays is 1/10, 2/11, 3/12, and no more than the decay, here 0.2."""
    model = nn.BatchNorm1d(3)
    set_all(model, 1)
    average = AveragedWeights(model, 0.2)
    expected = 1.0
    for value, stays in ((2, 1 / 10), (4, 2 / 11), (8, 0.2)):
        set_all(model, value)
        average.update(model)
        expected = stays * expected + (1 - stays) * value
        for name in ("weight", "bias", "running_mean", "running_var"):
            torch.testing.assert_close(average.weights[name], torch.full((3,), expected))
        assert int(average.weights["num_batches_tracked"]) == value
    assert expected == pytest.approx(7.12363636)


def test_averaged_weights_are_applied_and_taken_back(model: TextModel) -> None:
    average = AveragedWeights(model, 0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    average.update(model)
    before = copy.deepcopy(model.state_dict())
    with average.applied(model):
        assert all(torch.equal(tensor, average.weights[name]) for name, tensor in model.state_dict().items())
        assert not torch.equal(model.state_dict()["spans.dense.weight"], before["spans.dense.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_are_taken_back_after_an_error(model: TextModel) -> None:
    average = AveragedWeights(model, 0.9)
    set_all(model, 3.0)
    with pytest.raises(RuntimeError), average.applied(model):
        model.load_state_dict({})
    assert all((tensor == 3.0).all() for tensor in model.state_dict().values())


def test_averaged_weights_come_back_from_a_snapshot(run_folder: Path, tmp_path: Path) -> None:
    setup = small_setup(run_folder, "regularisation.ema=0.5")
    accelerator = Accelerator(cpu=True)
    state, other = new_state(setup, accelerator), new_state(setup, accelerator)
    assert state.average is not None
    assert other.average is not None
    set_all(state.model, 2.0)
    state.average.update(state.model)
    state.save(tmp_path / "snapshot.pt", "mark")
    other.restore(tmp_path / "snapshot.pt", "mark")
    for one in (state, other):
        assert one.average is not None
        set_all(one.model, 7.0)
        one.average.update(one.model)
    assert other.average.num_updates == 2
    assert all(torch.equal(tensor, other.average.weights[name]) for name, tensor in state.average.weights.items())


def test_averaged_weights_are_what_is_measured_and_kept(run_folder: Path) -> None:
    setup = small_setup(run_folder, "regularisation.ema=0.9", "epochs=1")
    state = new_state(setup, Accelerator(cpu=True))
    list(train(setup, state, Accelerator(cpu=True)))
    assert state.average is not None
    assert all(torch.equal(tensor, state.average.weights[name]) for name, tensor in state.best_weights.items())
    kept = state.best_weights["spans.dense.weight"]
    assert not torch.equal(kept, state.model.state_dict()["spans.dense.weight"])


def old_loop(setup: Setup) -> tuple[dict[str, Tensor], list[float]]:
    """Weights and losses of a run of spans alone, written out: nothing weighted, wrapped, averaged or measured."""
    model = setup.build_model()
    objective = SpansObjective(setup, model, Accelerator(cpu=True))
    optimizer = build_optimizer(model.encoder, nn.ModuleList([model.spans]), setup.run.optimizer)  # type: ignore[list-item]
    losses = []
    for epoch in range(setup.run.epochs):
        model.train()
        steps = objective.steps(epoch)
        for index, step in enumerate(steps):
            set_learning_rate(optimizer, (epoch + index / len(steps)) / setup.run.epochs, setup.run.optimizer)
            seed_step(setup.run.seed, epoch, index, 0)
            scale = 1.0 / sum(sum(map(sum, (example.annotated for example in batch))) for batch in step)
            summed = 0.0
            for batch in step:
                total = objective.loss(batch)
                (total * scale).backward()
                summed += float(total.detach())
            nn.utils.clip_grad_norm_(model.parameters(), setup.run.optimizer.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(scale * summed)
    return model.state_dict(), losses


def test_a_run_of_spans_alone_is_the_old_loop_bit_for_bit(run_folder: Path) -> None:
    setup = small_setup(run_folder, "batch.accumulate=2", "data.join=0.3")
    state = new_state(setup, Accelerator(cpu=True))
    reports = list(train(setup, state, Accelerator(cpu=True)))
    weights, losses = old_loop(setup)
    assert [report.loss for report in reports if report.finished is None] == losses
    assert all(torch.equal(tensor, weights[name]) for name, tensor in state.model.state_dict().items())
    assert len(losses) > 4


GOLDEN = [7.4263164, 7.2103166, 5.5595876, 6.5826781, 5.0460952]


def test_the_losses_of_the_loop_before_there_were_several_objectives(run_folder: Path) -> None:
    """`GOLDEN` was computed once with that loop (commit ec5e3fb), so none of today's parts can move it along.

    From the random weights of then: nothing was smaller for being added to the residual.
    """
    setup = small_setup(run_folder, "batch.accumulate=2", "data.join=0.3")
    state = new_state(setup, Accelerator(cpu=True))
    encoder = cast(Any, state.model.encoder)
    with torch.no_grad():
        for layer in encoder.layers:
            layer.attention.output.weight *= (2 * encoder.num_layers) ** 0.5
            layer.feed_out.weight *= (2 * encoder.num_layers) ** 0.5
    reports = list(train(setup, state, Accelerator(cpu=True)))
    assert [report.loss for report in reports if report.finished is None] == pytest.approx(GOLDEN, rel=1e-4)


@pytest.mark.parametrize("setting", ["r_drop=1.0", "fgm=1.0"])
def test_each_switch_moves_the_weights_elsewhere(run_folder: Path, setting: str) -> None:
    """The twin of the test above."""
    setup = small_setup(run_folder, "epochs=1", f"regularisation.{setting}")
    state = new_state(setup, Accelerator(cpu=True))
    list(train(setup, state, Accelerator(cpu=True)))
    weights, _ = old_loop(small_setup(run_folder, "epochs=1"))
    assert not torch.equal(state.model.state_dict()["spans.dense.weight"], weights["spans.dense.weight"])
