"""Copies that part, and copies that never do (oracle B-7)."""

from __future__ import annotations

import pytest
import torch

from ner_service.bundle import Bundle
from ner_service.model.text_model import TextModel
from tests.training.enlargement.models import ENCODERS, ROFORMER, SPANS, bundle_of, layers_of, model_of, random_batches
from training.enlargement import Plan, Symmetry, enlarge
from training.enlargement.symmetry import SPREAD, Layout, tiled, wide_map, zero_sum

INNER = "encoder.layers.0.feed_in.weight"


def learn(bundle: Bundle, kind: type[torch.optim.Optimizer], num_steps: int) -> TextModel:
    """The bundle's model after some steps on the scores of random texts, without dropout."""
    model = model_of(bundle)
    optimizer = kind(model.parameters(), lr=0.01)  # type: ignore[call-arg]
    for _ in range(num_steps):
        for batch in random_batches(bundle):
            grid = model(batch)
            grid[grid > -torch.inf].sub(1.0).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def apart(model: TextModel, bundle: Bundle) -> float:
    """By how much the two halves of the hidden states differ."""
    with torch.no_grad():
        halves = [model.encoder(batch).chunk(2, dim=-1) for batch in random_batches(bundle)]
    return max(float((first - second).abs().max()) for first, second in halves)


def inner_apart(model: TextModel) -> float:
    """By how much the two halves of a feed-forward's inner units read differently."""
    first, second = model.state_dict()[INNER].chunk(2)
    return float((first - second).abs().max())


@pytest.mark.parametrize("encoder", ["roformer", "roformer_v2"])
@pytest.mark.parametrize("symmetry", ["shares", "noise"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_copies_part_at_the_first_step(encoder: str, symmetry: Symmetry, kind: type[torch.optim.Optimizer]) -> None:
    """B-7: before it they are the same."""
    large = enlarge(bundle_of(ENCODERS[encoder], SPANS), Plan(width_factor=2, symmetry=symmetry))
    assert apart(model_of(large), large) < 1e-9
    assert apart(learn(large, kind, 1), large) > 1e-4


@pytest.mark.parametrize("encoder", ["roformer", "roformer_v2"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_equal_copies_stay_equal(encoder: str, kind: type[torch.optim.Optimizer]) -> None:
    """B-7's control: equal weights have equal gradients, although the model learns."""
    large = enlarge(bundle_of(ENCODERS[encoder], SPANS), Plan(width_factor=2, symmetry="equal"))
    before, after = model_of(large), learn(large, kind, 5)
    assert apart(after, large) < 1e-7
    assert inner_apart(after) < 1e-7
    assert (after.state_dict()[INNER] - before.state_dict()[INNER]).abs().max() > 1e-4


def test_shares_that_are_one_number_a_copy_do_not_part_at_once_under_adam() -> None:
    """B-7's twin: 0.3 and 0.7 of every weight scale gradients by a factor, and Adam, unlike SGD, divides it away."""
    large = enlarge(bundle_of(ROFORMER, SPANS), Plan(width_factor=2, symmetry="equal"))
    share = torch.tensor([0.6, 1.4], dtype=torch.float64)
    for name, weight in large.weights.items():
        if weight.dim() == 2 and ("layers" in name or "spans.dense" in name):
            weight *= share.repeat_interleave(weight.shape[1] // 2)
    assert apart(model_of(large), large) < 1e-9
    assert inner_apart(learn(large, torch.optim.SGD, 1)) > 1e-4
    # Of a step of 0.01, Adam's epsilon of 1e-8 beside the smallest gradients is what is left.
    assert inner_apart(learn(large, torch.optim.Adam, 1)) < 1e-4
    shared = enlarge(bundle_of(ROFORMER, SPANS), Plan(width_factor=2))
    before, after = model_of(shared).state_dict()[INNER], learn(shared, torch.optim.Adam, 1).state_dict()[INNER]
    first, second = (after - before).chunk(2)
    assert (first - second).abs().max() == pytest.approx(0.02, rel=0.01)  # one up, the other down


def test_new_slots_learn_at_once() -> None:
    """B-7: random keys give the queries of new slots a gradient, and random values what would read them."""
    large = enlarge(bundle_of(ROFORMER, SPANS), Plan(width_factor=2, scheme="wider_heads", symmetry="equal"))
    new = torch.tensor([False, False, True, True]).repeat(8)  # pairs 1, 3, ... of each head
    before, after = (layers_of(model)[1].attention for model in (model_of(large), learn(large, torch.optim.SGD, 1)))
    query, key, value = before.query_key_value.weight.detach().chunk(3)  # type: ignore[union-attr, operator]
    assert not query[new].any()
    assert float(key[new].std()) == pytest.approx(float(key[~new].std()), rel=0.5)
    assert float(value[new].std()) == pytest.approx(float(value[~new].std()), rel=0.5)
    assert not before.output.weight[:, new].any()  # type: ignore[union-attr, index]
    assert after.query_key_value.weight.chunk(3)[0][new].abs().max() > 1e-7  # type: ignore[union-attr, operator]
    assert after.output.weight[:, new].abs().max() > 1e-5  # type: ignore[union-attr, index]


def test_slots_with_nothing_on_either_side_never_learn() -> None:
    """The twin: where queries and keys are both 0, each has the other as its gradient's factor."""
    large = enlarge(bundle_of(ROFORMER, SPANS), Plan(width_factor=2, scheme="wider_heads"))
    new = torch.tensor([False, False, True, True]).repeat(8)
    name = "encoder.layers.1.attention.query_key_value.weight"
    large.weights[name][32:64][new] = 0.0
    query, key, _ = learn(large, torch.optim.SGD, 3).state_dict()[name].chunk(3)
    assert not query[new].any()
    assert not key[new].any()


def test_what_sums_to_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    like_OI = torch.empty(400, 3 * 50, dtype=torch.float64)
    drawn_OI = zero_sum(like_OI, 3, generator)
    assert drawn_OI.unflatten(1, (3, 50)).sum(1).abs().max() < 1e-12
    assert float(drawn_OI.std()) == pytest.approx(1.0, abs=0.02)
    assert not zero_sum(like_OI, 1, generator).any()


@pytest.mark.parametrize("symmetry", ["shares", "noise"])
def test_how_far_apart_weights_begin(symmetry: Symmetry) -> None:
    """Half a weight for shares, half of what weights are like for noise; a weight of 0 has no shares, but noise."""
    generator = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(200, 100, generator=generator, dtype=torch.float64)
    weight_OI[0] = 0.0
    wide = wide_map(weight_OI, tiled(100, 2, 1.0), tiled(200, 1, 1.0), symmetry, generator)
    off = wide - weight_OI.repeat(1, 2) / 2
    assert float(off.std()) == pytest.approx(SPREAD * float(weight_OI.std()) / 2, rel=0.05)
    assert bool(wide[0].any()) == (symmetry == "noise")


def test_new_inputs_are_not_read_and_new_outputs_are_0() -> None:
    layout = Layout(torch.tensor([0, 0, 1, 0]), torch.tensor([2.0, 0.0, 2.0, 0.0], dtype=torch.float64))
    weight_OI = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    generator = torch.Generator()
    assert wide_map(weight_OI, layout, tiled(2, 1, 1.0), "noise", generator).tolist() == [
        [0.5, 0.0, 1.0, 0.0],
        [1.5, 0.0, 2.0, 0.0],
    ]
    assert wide_map(weight_OI, tiled(2, 1, 1.0), layout, "noise", generator).tolist() == [
        [2.0, 4.0],
        [0.0, 0.0],
        [6.0, 8.0],
        [0.0, 0.0],
    ]
