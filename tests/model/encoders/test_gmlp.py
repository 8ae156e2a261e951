"""gMLP against its definition, its first state (N4), and what a convolution is (N6)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ner_service.model.batch import pad
from ner_service.model.config import GMLPConfig
from ner_service.model.encoders.gmlp import EPSILON, GMLP

SIZES: dict[str, Any] = {"vocab_size": 30, "hidden_size": 12, "num_layers": 2, "intermediate_size": 20}
TEXT = [5, 9, 2, 17, 4, 11, 8]


def model(*, kernel_size: int = 5, attention_size: int = 0, num_layers: int = 2, std: float | None = 0.5) -> GMLP:
    """Random weights of a deviation, or the first ones."""
    torch.manual_seed(0)
    sizes = {**SIZES, "num_layers": num_layers}
    built = GMLP(GMLPConfig(**sizes, kernel_size=kernel_size, attention_size=attention_size)).double().eval()
    for parameter in built.parameters() if std else ():
        nn.init.normal_(parameter, std=std)
    return built.requires_grad_(False)


def norm(hidden_LD: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = hidden_LD - hidden_LD.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attended(normed_LD: Tensor, weights: dict[str, Tensor], size: int) -> Tensor:
    query, key, value = (normed_LD @ weights["attention.query_key_value.weight"].T).split(size, -1)
    mixed = (query @ key.T / size**0.5).softmax(-1) @ value
    return mixed @ weights["attention.output.weight"].T + weights["attention.output.bias"]


def block(hidden_LD: Tensor, weights: dict[str, Tensor], kernel_size: int, attention_size: int) -> Tensor:
    """Token by token x_i + V(Z1_i . (b + sum over k of w_k . z_(i + k - reach) (+ attention)))."""
    normed_LD = norm(hidden_LD, weights, "norm")
    inner = functional.gelu(normed_LD @ weights["feed_in.weight"].T + weights["feed_in.bias"])
    plain, gating = inner.split(inner.shape[1] // 2, -1)
    gating, length = norm(gating, weights, "gate_norm"), len(hidden_LD)
    gates = []
    for token in range(length):
        gate = weights["gate.bias"].clone()
        for place in range(kernel_size):
            other = token + place - kernel_size // 2
            if 0 <= other < length:
                gate += weights["gate.weight"][:, 0, 0, place] * gating[other]
        gates.append(gate)
    gate_LE = torch.stack(gates)
    if attention_size:
        gate_LE = gate_LE + attended(normed_LD, weights, attention_size)
    return hidden_LD + (plain * gate_LE) @ weights["feed_out.weight"].T + weights["feed_out.bias"]


@pytest.mark.parametrize("attention_size", [0, 4])
@pytest.mark.parametrize("kernel_size", [1, 5, 31])
def test_hidden_states_equal_the_definition(kernel_size: int, attention_size: int) -> None:
    built = model(kernel_size=kernel_size, attention_size=attention_size)
    weights = built.state_dict()
    expected = norm(weights["token_embedding.weight"][TEXT], weights, "embedding_norm")
    for layer in range(2):
        start = f"layers.{layer}."
        own = {name.removeprefix(start): tensor for name, tensor in weights.items() if name.startswith(start)}
        expected = block(expected, own, kernel_size, attention_size)
    expected = norm(expected, weights, "norm")
    torch.testing.assert_close(built(pad([TEXT], 0))[0], expected, rtol=0, atol=1e-10)


def influence(built: GMLP, changed: int) -> Tensor:
    """How far the state of each token moves, over that of the changed one."""
    other = [*TEXT[:changed], 20, *TEXT[changed + 1 :]]
    moved_L = (built(pad([other], 0)) - built(pad([TEXT], 0)))[0].norm(dim=-1)
    return moved_L / moved_L[changed]


@pytest.mark.parametrize("changed", [0, 3, 6])
def test_n4_at_first_a_token_hears_next_to_nothing_of_others(changed: int) -> None:
    moved_L = influence(model(kernel_size=31, num_layers=1, std=None), changed)
    others = [token for token in range(len(TEXT)) if token != changed]
    assert 0 < float(moved_L[others].max()) <= 1e-3


def test_n4_finds_an_open_gate_and_attention() -> None:
    """The twins: a gate whose filter is random, and a tiny attention, which is not closed at first."""
    opened = model(kernel_size=31, num_layers=1, std=None)
    nn.init.normal_(opened.layers[0].gate.weight, std=0.5)
    for built in (opened, model(num_layers=1, attention_size=4, std=None)):
        assert float(influence(built, 3)[:3].max()) > 1e-2


def test_n4_the_filter_starts_near_0_and_the_bias_at_1() -> None:
    gate = model(kernel_size=31, std=None).layers[0].gate
    assert 0 < float(gate.weight.abs().max()) <= EPSILON / 31
    assert torch.equal(gate.bias, torch.ones_like(gate.bias))


def shifted(by: int, built: GMLP) -> tuple[Tensor, Tensor]:
    """States of the same content in a long text and further on in it, far from both ends."""
    before, after = [1] * 20, [2] * 20
    length = len(TEXT)
    near = built(pad([[*before, *TEXT, *after]], 0))[0, 20 : 20 + length]
    far = built(pad([[*before, *[1] * by, *TEXT, *after]], 0))[0, 20 + by : 20 + by + length]
    return near, far


@pytest.mark.parametrize("by", [1, 6])
def test_n6_content_further_on_has_the_same_states(by: int) -> None:
    near, far = shifted(by, model())
    torch.testing.assert_close(near, far, rtol=0, atol=1e-11)


def test_n6_near_an_end_it_has_not() -> None:
    """The twin: beyond the end are zeros, which is how a gate knows of it."""
    built = model()
    inside = built(pad([[*[1] * 20, *TEXT, *[2] * 20]], 0))[0, 20:27]
    at_the_end = built(pad([[*[1] * 20, *TEXT]], 0))[0, 20:27]
    assert (inside - at_the_end).abs().max() > 1e-2


@pytest.mark.parametrize(("attention_size", "reaches"), [(0, False), (4, True)])
def test_a_filter_of_5_reaches_2_tokens_a_layer_and_attention_all(attention_size: int, reaches: bool) -> None:
    moved_L = influence(model(kernel_size=5, attention_size=attention_size), 0)
    assert (moved_L[:5] > 1e-6).all()
    assert bool((moved_L[5:] > 1e-6).all()) == bool((moved_L[5:] > 0).any()) == reaches


@pytest.mark.parametrize("attention_size", [0, 3])
def test_parameters_are_those_of_its_sizes(attention_size: int) -> None:
    width, inner, kernel = SIZES["hidden_size"], SIZES["intermediate_size"], 5
    half = inner // 2
    layer = 2 * width + (width + 1) * inner + 2 * half + half * (kernel + 1) + (half + 1) * width
    if attention_size:
        layer += 3 * width * attention_size + (attention_size + 1) * half
    expected = SIZES["vocab_size"] * width + 2 * width + SIZES["num_layers"] * layer + 2 * width
    built = model(attention_size=attention_size)
    assert sum(parameter.numel() for parameter in built.parameters()) == expected
