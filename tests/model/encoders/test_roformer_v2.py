"""RoFormerV2 against a plain reference written from its definition, with matrices of rotation and no fused kernel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ner_service.model.batch import pack, pad
from ner_service.model.config import RoFormerV2Config
from ner_service.model.encoders.roformer_v2 import RoFormerV2

CONFIG = RoFormerV2Config(vocab_size=20, hidden_size=12, num_layers=2, num_heads=3, intermediate_size=20)
TEXTS = ([5, 9, 2, 17, 4, 11, 8], [3, 7, 2], [12])


def model() -> RoFormerV2:
    torch.manual_seed(0)
    built = RoFormerV2(CONFIG).double().eval()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return built.requires_grad_(False)


def norm(hidden_LD: Tensor) -> Tensor:
    return hidden_LD / (hidden_LD.pow(2).mean(-1, keepdim=True) + CONFIG.layer_norm_eps).sqrt()


def mean_norm(hidden_LD: Tensor) -> Tensor:
    return norm(hidden_LD - hidden_LD.mean(-1, keepdim=True))


def turned(vector_K: Tensor, position: int) -> Tensor:
    width = len(vector_K)
    found = torch.empty_like(vector_K)
    for pair in range(width // 2):
        angle = position * 10000.0 ** (-2 * pair / width)
        x, y = vector_K[2 * pair], vector_K[2 * pair + 1]
        found[2 * pair] = math.cos(angle) * x - math.sin(angle) * y
        found[2 * pair + 1] = math.sin(angle) * x + math.cos(angle) * y
    return found


def attended(hidden_LD: Tensor, fused_weight: Tensor, output_weight: Tensor) -> Tensor:
    length, width = hidden_LD.shape
    size = width // CONFIG.num_heads
    queries, keys, values = ((hidden_LD @ weight.T).split(size, -1) for weight in fused_weight.chunk(3))
    mixed = []
    for query, key, value in zip(queries, keys, values, strict=True):
        query = torch.stack([turned(query[i], i) for i in range(length)])
        key = torch.stack([turned(key[i], i) for i in range(length)])
        mixed.append((query @ key.T / math.sqrt(size)).softmax(-1) @ value)
    return torch.cat(mixed, -1) @ output_weight.T


def reference(weights: dict[str, Tensor], token_ids: list[int], normalise: object = norm) -> Tensor:
    """No bias, RMSNorm without gain, ReLU; token and type embeddings are summed and normalised."""
    assert callable(normalise)
    hidden_LD: Tensor = normalise(weights["token_embedding.weight"][token_ids] + weights["type_embedding.weight"][0])
    for layer in range(CONFIG.num_layers):
        own = {name.removeprefix(f"layers.{layer}."): tensor for name, tensor in weights.items()}
        attention = (own["attention.query_key_value.weight"], own["attention.output.weight"])
        hidden_LD = normalise(hidden_LD + attended(hidden_LD, *attention))
        fed_LD = (hidden_LD @ own["feed_in.weight"].T).clamp(min=0) @ own["feed_out.weight"].T
        hidden_LD = normalise(hidden_LD + fed_LD)
    return hidden_LD


@pytest.mark.parametrize("token_ids", TEXTS)
def test_hidden_states_equal_the_definition(token_ids: list[int]) -> None:
    built = model()
    found = built(pad([token_ids], 0))[0]
    torch.testing.assert_close(found, reference(built.state_dict(), token_ids), rtol=1e-11, atol=1e-11)


def test_a_norm_that_subtracts_the_mean_is_another_model() -> None:
    built = model()
    found = built(pad([TEXTS[0]], 0))[0]
    assert (found - reference(built.state_dict(), TEXTS[0], mean_norm)).abs().max() > 1e-2


def test_parameters_are_embeddings_and_six_matrices_a_layer() -> None:
    width, inner = CONFIG.hidden_size, CONFIG.intermediate_size
    expected = (CONFIG.vocab_size + CONFIG.num_token_types) * width
    expected += CONFIG.num_layers * (4 * width * width + 2 * width * inner)
    names = [name for name, _ in model().named_parameters()]
    assert sum(parameter.numel() for parameter in model().parameters()) == expected
    assert not [name for name in names if "bias" in name or "norm" in name]


def test_parameter_count_of_the_published_small_model() -> None:
    """6 layers of 384 over 12,000 characters: 15,225,600, a figure of the published checkpoint."""
    config = RoFormerV2Config(vocab_size=12_000, hidden_size=384, num_layers=6, num_heads=6, intermediate_size=1536)
    assert sum(parameter.numel() for parameter in RoFormerV2(config).parameters()) == 15_225_600


def test_packed_padded_and_alone_are_the_same() -> None:
    built = model()
    padded, packed = pad(TEXTS, 0), pack(TEXTS)
    in_rows, in_one_row = padded.texts(built(padded)), packed.texts(built(packed))
    for token_ids, row_LD, packed_LD in zip(TEXTS, in_rows, in_one_row, strict=True):
        alone_LD = built(pad([token_ids], 0))[0]
        torch.testing.assert_close(row_LD, alone_LD, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(packed_LD, alone_LD, rtol=1e-12, atol=1e-12)
