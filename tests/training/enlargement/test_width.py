"""Factors of the wide weights, place by place, and what goes wrong with others (oracles B-2, B-4, B-6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from ner_service.bundle import Bundle
from ner_service.model.attention import RotaryAttention
from ner_service.model.batch import Batch
from ner_service.model.config import Heads
from ner_service.model.rotary import rotary_table
from ner_service.model.text_model import TextModel
from tests.training.enlargement.models import (
    ENCODERS,
    ROFORMER,
    bundle_of,
    hidden_error,
    layers_of,
    model_of,
    random_batches,
    with_encoder,
    with_weights,
)
from training.enlargement import Plan, Scheme, enlarge
from training.enlargement.symmetry import Layout, tiled, wide_map
from training.enlargement.width import fused, stuffed

K = 2
ATTENTION = "encoder.layers.{}.attention."


def seen(model: TextModel, batch: Batch) -> dict[str, Tensor]:
    """What every part of the encoder gives, by the part's name."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, inputs, output: found.update({name: output.detach()})

    for name, part in model.encoder.named_modules():
        if isinstance(part, nn.Linear | nn.LayerNorm | nn.RMSNorm | nn.Embedding | RotaryAttention):
            part.register_forward_hook(keep(name))
    with torch.no_grad():
        model.encoder(batch)
    return found


def probabilities(model: TextModel, batch: Batch, layer: int) -> Tensor:
    """Attention's probabilities [B, H, L, L] of a layer, without a mask."""
    attention = cast(RotaryAttention, layers_of(model)[layer].attention)
    with torch.no_grad():
        *_, hidden_BLD = list(zip(range(layer + 1), model.encoder.states(batch), strict=False))[-1]  # type: ignore[operator]
        width = hidden_BLD.shape[-1] // attention.num_heads
        table = rotary_table(batch.order_BL, width, hidden_BLD.dtype)
        query, key, _ = attention._project(hidden_BLD, table)
        found: Tensor = (query @ key.transpose(-1, -2) / width**0.5).softmax(-1)
    return found


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_part_by_part(encoder: Any) -> None:
    """B-2: embeddings, norms and what attention and feed-forward give carry c, inner states do not."""
    small = bundle_of(encoder, Heads())
    large = enlarge(small, Plan(width_factor=K))
    c = 1.0 if encoder.kind == "roformer_v2" else K**-0.5
    for batch in random_batches(small):
        narrow, wide = (seen(model_of(bundle), batch) for bundle in (small, large))
        assert narrow.keys() == wide.keys()
        for name, expected in narrow.items():
            if "query_key_value" in name:
                query_key, value = expected.split([2 * 16, 16], dim=-1)
                query, key = query_key.chunk(2, dim=-1)
                parts = [(query, 1.0), (key, 1.0), (value, c)]
                expected = torch.cat([factor * part.repeat(1, 1, K) for part, factor in parts], dim=-1)
            elif name.endswith("feed_in"):
                expected = expected.repeat(1, 1, K)
            else:
                expected = c * expected.repeat(*[1] * (expected.dim() - 1), K)
            torch.testing.assert_close(wide[name], expected, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("scheme", ["more_heads", "wider_heads"])
@pytest.mark.parametrize("encoder", ["roformer", "roformer_v2"])
def test_attention_looks_where_it_looked(encoder: str, scheme: Scheme) -> None:
    """B-2: probabilities are the same, head by head."""
    small = bundle_of(ENCODERS[encoder], Heads())
    large = enlarge(small, Plan(width_factor=3, scheme=scheme))
    batch = next(random_batches(small))
    for layer in range(2):
        expected = probabilities(model_of(small), batch, layer)
        found = probabilities(model_of(large), batch, layer)
        expected = expected.repeat(1, 3 if scheme == "more_heads" else 1, 1, 1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("word", "factor", "at_least"),
    [
        ("feed_out.bias", K**-0.5, 0.05),  # the article's 1/2 for 1 / sqrt(2)
        ("feed_out.weight", K**0.5, 0.05),
        ("attention.output.bias", K**0.5, 0.05),
        ("query_key_value.bias", K**-0.5, 0.01),
        ("embedding_norm.weight", K**0.5, 0.05),
        ("token_embedding", K**0.5, 1e-4),
    ],
)
def test_another_factor_is_not_exact(word: str, factor: float, at_least: float) -> None:
    """B-4: b2 times 1/2, and others. Of embeddings, which are normalised, the ratio to those of types counts."""
    small = bundle_of(ROFORMER, Heads())
    large = enlarge(small, Plan(width_factor=K))
    assert hidden_error(small, large) < 1e-9
    assert hidden_error(small, with_weights(large, word, factor)) > at_least


@pytest.mark.parametrize("encoder", ["roformer", "roformer_v2"])
def test_wider_heads_without_the_fourth_root(encoder: str) -> None:
    """B-4: without k^(1/4) in queries and keys the divisor sqrt(K) is too large."""
    small = bundle_of(ENCODERS[encoder], Heads())
    large = enlarge(small, Plan(width_factor=K, scheme="wider_heads"))
    weights = dict(large.weights)
    for name in [name for name in weights if "query_key_value" in name]:
        query_key, value = weights[name].tensor_split([len(weights[name]) * 2 // 3])
        weights[name] = torch.cat([query_key / K**0.25, value])
    assert hidden_error(small, large) < 1e-9
    assert hidden_error(small, replace(large, weights=weights)) > 0.01


@pytest.mark.parametrize("encoder", ["roformer", "roformer_v2"])
def test_tiled_under_as_many_heads(encoder: str) -> None:
    """B-4: the weights of more heads, read as fewer wide ones, mix heads with one another."""
    small = bundle_of(ENCODERS[encoder], Heads())
    large = enlarge(small, Plan(width_factor=K))
    assert hidden_error(small, with_encoder(large, num_heads=2)) > 0.1


def test_epsilon_follows_the_scale() -> None:
    """B-4: the same epsilon of 1e-3 is an error of its size. RoFormerV2 keeps scale and epsilon."""
    small = bundle_of(replace(ROFORMER, layer_norm_eps=1e-3), Heads())
    large = enlarge(small, Plan(width_factor=K))
    assert hidden_error(small, large) < 1e-9
    assert 1e-4 < hidden_error(small, with_encoder(large, layer_norm_eps=1e-3)) < 1e-1
    second = bundle_of(replace(ENCODERS["roformer_v2"], layer_norm_eps=1e-3), Heads())
    assert hidden_error(second, enlarge(second, Plan(width_factor=K))) < 1e-9
    halved = with_encoder(enlarge(second, Plan(width_factor=K)), layer_norm_eps=5e-4)
    assert hidden_error(second, halved) > 1e-5


def arranged(small: Bundle, source: Sequence[int]) -> Bundle:
    """As many heads, each twice as wide, whose channels hold those of the narrow head that `source` names.

    Repeated queries and keys over sqrt(2) keep their product, the divisor's growth takes 2^(1/4) of each.
    """
    head_size = len(source) // K
    places = torch.tensor([[head * head_size + place for place in source] for head in range(2)]).flatten()

    def layout(scale: float) -> Layout:
        return Layout(places, torch.full(places.shape, scale, dtype=torch.float64), K)

    query_key, value, hidden = layout(K**-0.25), layout(K**-0.5), tiled(16, K, K**-0.5)
    large = with_encoder(enlarge(small, Plan(width_factor=K, symmetry="equal")), num_heads=2)
    weights, generator = dict(large.weights), torch.Generator()
    for index in range(2):
        into, out = ATTENTION.format(index) + "query_key_value.", ATTENTION.format(index) + "output.weight"
        outputs = fused((query_key, query_key, value), 16)
        weights[f"{into}weight"] = wide_map(small.weights[f"{into}weight"], hidden, outputs, "equal", generator)
        weights[f"{into}bias"] = small.weights[f"{into}bias"][outputs.source] * outputs.scale
        weights[out] = wide_map(small.weights[out], value, hidden, "equal", generator)
    return replace(large, weights=weights)


@pytest.mark.parametrize(
    "source",
    [
        [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7],  # A0, channel by channel
        [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7],  # A1, pair by pair
        [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7],  # A3, head by head
    ],
)
def test_repeated_within_a_head_turns_at_another_speed(source: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """B-4: no way of repeating channels within a head is exact under the standard angles; all are without angles."""
    small = bundle_of(ROFORMER, Heads())
    large = arranged(small, source)
    assert hidden_error(small, large) > 0.01

    def still(position_BLP: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        return torch.ones(*position_BLP.shape[:2], width // 2, dtype=torch.complex128)

    monkeypatch.setattr("ner_service.model.rotary_encoder.rotary_table_of_axes", still)
    assert hidden_error(small, large) < 1e-9


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_stuffed_pairs_turn_as_fast_as_before(factor: int) -> None:
    """Pair t of the narrow head and pair k t of the wide one have the same angle, to the last bit."""
    layout = stuffed(1, 8, factor, 1.0)
    held = layout.scale > 0
    position = torch.arange(100)
    narrow = rotary_table(position, 8, torch.float64)
    wide = rotary_table(position, 8 * factor, torch.float64)
    assert torch.equal(wide[:, held[::2]], narrow)
    assert layout.source[held].tolist() == list(range(8))


@pytest.mark.parametrize("symmetry", ["shares", "noise", "equal"])
@pytest.mark.parametrize(
    ("c_in", "c_out", "copies"), [(1.0, 1.0, 2), (0.5, 3.0, 2), (3**-0.5, 3**-0.5, 3), (2.0, 0.1, 4)]
)
def test_the_general_rule_on_one_map(symmetry: Any, c_in: float, c_out: float, copies: int) -> None:
    """B-6: weight c_out / (c_in k), however it is shared out."""
    generator = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    reads, gives = tiled(7, copies, c_in), tiled(5, copies, c_out)
    wide = wide_map(weight_OI, reads, gives, symmetry, generator)
    text_I = torch.randn(7, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(wide @ (c_in * text_I.repeat(copies)), c_out * (weight_OI @ text_I).repeat(copies))
    if symmetry == "equal":
        torch.testing.assert_close(wide, (c_out / (c_in * copies) * weight_OI).repeat(copies, copies))
    else:
        assert (wide - wide.roll(7, 1)).abs().max() > 0.01
