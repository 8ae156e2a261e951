"""New layers that change nothing (oracle B-8)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ner_service.bundle import Bundle
from ner_service.model.config import Heads
from tests.training.enlargement.models import (
    ENCODERS,
    EVERY_HEAD,
    ROFORMER,
    bundle_of,
    hidden_error,
    layers_of,
    model_of,
    random_batches,
    with_weights,
)
from training.enlargement import Plan, enlarge
from training.enlargement.depth import num_above


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize("num_layers", [3, 4, 7])
def test_deeper_is_the_same(encoder: object, num_layers: int) -> None:
    """B-8: both recipes; what is off is of the size of epsilon, here 1e-12."""
    small = bundle_of(encoder, Heads())  # type: ignore[arg-type]
    large = enlarge(small, Plan(num_layers=num_layers))
    assert len(layers_of(model_of(large))) == num_layers
    assert hidden_error(small, large) < 1e-9


def naively(small: Bundle, at: int) -> Bundle:
    """A layer with output maps of 0 put in after layer `at`, gains and biases left where they are."""
    large = enlarge(small, Plan(num_layers=3))
    weights = dict(large.weights)
    for norm in ("weight", "bias"):
        for layer, source in ((at, small.weights), (at + 1, {})):
            name = f"encoder.layers.{layer}.feed_norm.{norm}"
            weights[name] = source.get(name, torch.full((16,), float(norm == "weight"), dtype=torch.float64))
    return replace(large, weights=weights)


def test_a_layer_put_in_naively_is_not() -> None:
    """B-8's twin: the new layer's norms undo gain and bias of the layer below."""
    small = bundle_of(ROFORMER, Heads())
    assert hidden_error(small, naively(small, at=1)) > 0.1


def test_output_maps_that_are_not_0_are_not() -> None:
    """B-8's twin: it is the zeros that make the layer a bystander."""
    small = bundle_of(ROFORMER, Heads())
    large = enlarge(small, Plan(num_layers=3))
    for name in ("attention.output.weight", "feed_out.weight"):
        key = f"encoder.layers.2.{name}"
        assert not large.weights[key].any()
        noisy = {**large.weights, key: torch.randn(large.weights[key].shape, dtype=torch.float64)}
        assert hidden_error(small, replace(large, weights=noisy)) > 0.1


def test_epsilon_is_what_is_off() -> None:
    """Norms of what is normalised divide by sqrt(v / (v + eps) + eps): at 1e-3 that shows."""
    small = bundle_of(replace(ROFORMER, layer_norm_eps=1e-3), Heads())
    assert 5e-5 < hidden_error(small, enlarge(small, Plan(num_layers=3))) < 1e-1


@pytest.mark.parametrize(
    ("num_new", "num_free", "expected"),
    [(4, 4, [1, 1, 1, 1]), (2, 4, [0, 1, 0, 1]), (5, 2, [2, 3]), (1, 3, [0, 0, 1]), (0, 2, [0, 0])],
)
def test_new_layers_are_spread(num_new: int, num_free: int, expected: list[int]) -> None:
    found = [num_above(index, num_new, num_free) for index in range(num_free + 2)]
    assert found == [*expected, 0, 0]


def test_the_layers_of_codes_stay_the_last() -> None:
    """What a code is read from, and the layer that it is shown to, are those of the small model."""
    small = bundle_of(replace(ROFORMER, num_layers=3), EVERY_HEAD)
    large = enlarge(small, Plan(num_layers=6))
    for name in ("attention.query_key_value.weight", "feed_norm.weight"):
        old, new = (bundle.weights[f"encoder.layers.{at}.{name}"] for bundle, at in ((small, 2), (large, 5)))
        assert torch.equal(old, new)
    assert all(torch.equal(large.weights[name], tensor) for name, tensor in small.weights.items() if "latent" in name)


def test_a_new_layer_learns() -> None:
    """Its output maps have a gradient at once, and what they read the one that comes through them: 0."""
    large = enlarge(bundle_of(ROFORMER, Heads()), Plan(num_layers=3))
    model = model_of(large).train()
    model.encoder(next(random_batches(large)))[..., 0].square().sum().backward()
    new = layers_of(model)[2]
    gradients = {
        name: float(parameter.grad.abs().max())
        for name, parameter in new.named_parameters()
        if parameter.grad is not None
    }
    assert gradients["attention.output.weight"] > 1e-3
    assert gradients["feed_out.weight"] > 1e-3
    assert gradients["attention.query_key_value.weight"] == gradients["feed_in.weight"] == 0.0


def test_a_new_layer_of_a_wide_model_reads_what_is_normalised() -> None:
    """Below it gains are 1, where those of old layers are 1 / sqrt(k) times what they were."""
    small = bundle_of(ROFORMER, Heads())
    large = enlarge(small, Plan(width_factor=2, num_layers=3))
    gain = large.weights["encoder.layers.1.feed_norm.weight"]
    assert torch.equal(gain, torch.ones_like(gain))
    assert hidden_error(small, large) < 1e-9
    assert hidden_error(small, with_weights(large, "layers.2.feed_norm.weight", 2**0.5)) > 0.05
