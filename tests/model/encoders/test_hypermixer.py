"""HyperMixer against its definition, head by head and token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ner_service.model.batch import pad
from ner_service.model.config import HyperMixerConfig
from ner_service.model.encoders.hypermixer import HyperMixer
from ner_service.model.mixing_encoder import sinusoids

SIZES: dict[str, Any] = {"vocab_size": 20, "hidden_size": 12, "num_layers": 2, "intermediate_size": 20}
MIXING = 24
TEXT = [5, 9, 2, 17, 4, 11, 8]


def model(num_heads: int = 3) -> HyperMixer:
    torch.manual_seed(0)
    config = HyperMixerConfig(**SIZES, num_heads=num_heads, mixing_size=MIXING)
    built = HyperMixer(config).double().eval().requires_grad_(False)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.5)
    return built


def norm(hidden_LD: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = hidden_LD - hidden_LD.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def mixed(
    hidden_LD: Tensor, told_LD: Tensor, weights: dict[str, Tensor], num_heads: int, *, interleaved: bool
) -> Tensor:
    """W2 GELU(W1^T x): column d of a head is W2 GELU(sum over tokens of x_id times row i of W1)."""
    size = hidden_LD.shape[1] // num_heads
    heads = []
    for head in range(num_heads):
        own = slice(head, None, num_heads) if interleaved else slice(head * size, (head + 1) * size)
        w1_LN, w2_LN = (
            functional.gelu(told_LD[:, own] @ weights[f"mixing.{net}.first_HKJ"][head])
            @ weights[f"mixing.{net}.second_HJN"][head]
            for net in ("gather", "spread")
        )
        heads.append(w2_LN @ functional.gelu(w1_LN.T @ hidden_LD[:, own]))
    return norm(torch.cat(heads, -1), weights, "mixing.norm")


def reference(built: HyperMixer, token_ids: list[int], num_heads: int, *, interleaved: bool = False) -> Tensor:
    """The definition; interleaved, a head has every so-manieth channel, which is a mistake."""
    weights = built.state_dict()
    hidden_LD = norm(weights["token_embedding.weight"][token_ids], weights, "embedding_norm")
    position_LD = sinusoids(pad([token_ids], 0), SIZES["hidden_size"], torch.float64)[0]
    for layer in range(SIZES["num_layers"]):
        start = f"layers.{layer}."
        own = {name.removeprefix(start): tensor for name, tensor in weights.items() if name.startswith(start)}
        normed_LD = norm(hidden_LD, own, "mixing_norm")
        hidden_LD = hidden_LD + mixed(normed_LD, normed_LD + position_LD, own, num_heads, interleaved=interleaved)
        inner = functional.gelu(norm(hidden_LD, own, "feed_norm") @ own["feed_in.weight"].T + own["feed_in.bias"])
        hidden_LD = hidden_LD + inner @ own["feed_out.weight"].T + own["feed_out.bias"]
    return norm(hidden_LD, weights, "norm")


@pytest.mark.parametrize("num_heads", [1, 3, 6])
@pytest.mark.parametrize("token_ids", [TEXT, [4], [6, 6, 6]])
def test_hidden_states_equal_the_definition(num_heads: int, token_ids: list[int]) -> None:
    built = model(num_heads)
    found = built(pad([token_ids], 0))[0]
    torch.testing.assert_close(found, reference(built, token_ids, num_heads), rtol=0, atol=1e-10)


@pytest.mark.parametrize("num_heads", [3, 6])
def test_heads_of_other_channels_are_another_model(num_heads: int) -> None:
    built = model(num_heads)
    mistake = reference(built, TEXT, num_heads, interleaved=True)
    assert (built(pad([TEXT], 0))[0] - mistake).abs().max() > 1e-2


@pytest.mark.parametrize("with_positions", [True, False])
def test_without_positions_the_order_of_tokens_would_be_lost(with_positions: bool, monkeypatch: Any) -> None:
    built = model()
    if not with_positions:
        monkeypatch.setattr(built, "context", lambda batch: (torch.zeros(12, dtype=torch.float64),))
    forwards, backwards = built(pad([TEXT], 0))[0], built(pad([TEXT[::-1]], 0))[0].flip(0)
    assert torch.allclose(forwards, backwards, rtol=0, atol=1e-10) != with_positions


def test_parameters_are_those_of_its_sizes() -> None:
    """Of two networks and H heads a layer: D^2 / H + D M / H weights each."""
    width, inner, heads = SIZES["hidden_size"], SIZES["intermediate_size"], 3
    layer = 2 * (width * width + width * MIXING) // heads + 6 * width + (width + 1) * inner + (inner + 1) * width
    expected = SIZES["vocab_size"] * width + 4 * width + SIZES["num_layers"] * layer
    assert sum(parameter.numel() for parameter in model(heads).parameters()) == expected
