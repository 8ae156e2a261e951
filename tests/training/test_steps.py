"""Schedules, parameter groups, the randomness of a step."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from ner_service.bundle import Bundle
from ner_service.model.text_model import TextModel
from training.config import OptimizerConfig
from training.steps import build_optimizer, schedule_factor, seed_step, set_learning_rate, sum_gradients

LINEAR = OptimizerConfig(warmup_fraction=0.2)
COSINE = OptimizerConfig(warmup_fraction=0.2, schedule="cosine")


@pytest.mark.parametrize(
    ("config", "progress", "factor"),
    [
        (LINEAR, 0.0, 0.0),
        (LINEAR, 0.05, 0.25),
        (LINEAR, 0.2, 1.0),
        (LINEAR, 0.4, 0.75),
        (LINEAR, 1.0, 0.0),
        (COSINE, 0.1, 0.5),
        (COSINE, 0.2, 1.0),
        (COSINE, 0.4, 0.8535533905932737),  # (1 + cos(pi / 4)) / 2
        (COSINE, 0.6, 0.5),
        (COSINE, 1.0, 0.0),
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
