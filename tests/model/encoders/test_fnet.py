"""FNet against transformers' on random weights, and its transform against the matrices it stands for (N3, N5)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import FNetConfig as ForeignConfig
from transformers import FNetModel

from ner_service.model.batch import pad
from ner_service.model.config import FNetConfig
from ner_service.model.encoders.fnet import FNet, fourier, mix
from ner_service.model.mixing_encoder import sinusoids

SIZES: dict[str, Any] = {"vocab_size": 20, "hidden_size": 16, "num_layers": 2, "intermediate_size": 24}
TEXT = [5, 9, 2, 17, 4, 11, 8]

NAMES = {
    "embeddings.word_embeddings": "token_embedding",
    "embeddings.LayerNorm": "embedding_norm",
    "embeddings.projection": "embedding_projection",
    "encoder.layer.{}.fourier.output.LayerNorm": "layers.{}.mixing_norm",
    "encoder.layer.{}.intermediate.dense": "layers.{}.feed_in",
    "encoder.layer.{}.output.dense": "layers.{}.feed_out",
    "encoder.layer.{}.output.LayerNorm": "layers.{}.feed_norm",
}


def model() -> FNet:
    torch.manual_seed(0)
    built = FNet(FNetConfig(**SIZES)).double().eval().requires_grad_(False)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.5)
    return built


def foreign_model(ours: FNet) -> FNetModel:
    """Transformers' model with our weights; its table of positions holds our sinusoids, its types nothing."""
    config = ForeignConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=24,
        hidden_act="gelu",
        max_position_embeddings=32,
    )
    foreign = FNetModel(config).double().eval().requires_grad_(False)
    weights, own = foreign.state_dict(), ours.state_dict()
    for theirs, our in NAMES.items():
        for layer in range(2):
            for part in ("weight", "bias"):
                if f"{our.format(layer)}.{part}" in own:
                    weights[f"{theirs.format(layer)}.{part}"] = own[f"{our.format(layer)}.{part}"]
    table = sinusoids(pad([[0] * 32], 0), 16, torch.float64)[0]
    weights["embeddings.position_embeddings.weight"] = table * own["position_scale"]
    weights["embeddings.token_type_embeddings.weight"] = torch.zeros(4, 16, dtype=torch.float64)
    foreign.load_state_dict(weights)
    return foreign


def trigonometric(length: int) -> tuple[Tensor, Tensor]:
    """C and S with cos and sin of 2 pi j k / n."""
    numbers = torch.arange(length, dtype=torch.float64)
    angle = 2 * math.pi / length * numbers[:, None] * numbers
    return angle.cos(), angle.sin()


def real_form(hidden_LD: Tensor) -> Tensor:
    """C_L h C_D - S_L h S_D."""
    (cos_L, sin_L), (cos_D, sin_D) = map(trigonometric, hidden_LD.shape)
    return cos_L @ hidden_LD @ cos_D - sin_L @ hidden_LD @ sin_D


def test_hidden_states_equal_those_of_transformers() -> None:
    ours = model()
    expected = foreign_model(ours)(input_ids=torch.tensor([TEXT])).last_hidden_state
    torch.testing.assert_close(ours(pad([TEXT], 0)), expected, rtol=0, atol=1e-9)


def test_padding_changes_states_of_transformers_and_not_ours() -> None:
    """What is published reads the padding: the twin of N1."""
    ours = model()
    foreign, batch = foreign_model(ours), pad([TEXT, [1] * 12], 0)
    expected = ours(pad([TEXT], 0))[0]
    theirs = foreign(input_ids=batch.token_ids_BL).last_hidden_state[0, :7]
    assert (theirs - expected).abs().max() > 1e-2
    torch.testing.assert_close(ours(batch)[0, :7], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 30, 101])
@pytest.mark.parametrize("width", [2, 16, 22])
def test_n3_a_transform_is_that_of_cosines_less_that_of_sines(length: int, width: int) -> None:
    hidden_LD = torch.randn(length, width, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
    expected = torch.fft.fft2(hidden_LD).real
    torch.testing.assert_close(fourier(hidden_LD), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(fourier(hidden_LD), real_form(hidden_LD), rtol=0, atol=1e-9)
    in_single = fourier(hidden_LD.float()).double()
    assert (in_single - expected).norm() < 1e-5 * expected.norm()


def test_n3_finds_a_sum_in_the_place_of_the_difference() -> None:
    """The twin: with the sign of the sines turned it is another transform."""
    hidden_LD = torch.randn(7, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (cos_L, sin_L), (cos_D, sin_D) = map(trigonometric, hidden_LD.shape)
    wrong = cos_L @ hidden_LD @ cos_D + sin_L @ hidden_LD @ sin_D
    assert (fourier(hidden_LD) - wrong).abs().max() > 1


def test_n3_zeros_behind_a_text_make_another_transform() -> None:
    """The twin of the transform over a text's own length: relative error above one half."""
    hidden_LD = torch.randn(7, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    filled = fourier(nn.functional.pad(hidden_LD, (0, 0, 0, 5)))[:7]
    assert (filled - fourier(hidden_LD)).norm() > 0.5 * fourier(hidden_LD).norm()


def test_n5_a_constant_sequence_has_its_first_row_alone() -> None:
    constant = torch.linspace(-1, 2, 16, dtype=torch.float64).expand(9, 16)
    found = fourier(constant)
    assert found[0].abs().max() > 1
    assert found[1:].abs().max() < 1e-12
    changed = constant.clone()
    changed[4] += 1.0
    assert fourier(changed)[1:].abs().max() > 1e-2


def test_padding_is_0_after_mixing() -> None:
    batch = pad([TEXT, [3, 1]], 0)
    mixed = mix(torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0)), batch)
    assert mixed.shape == (2, 7, 16)
    assert not mixed[1, 2:].any()
    assert mixed[1, :2].all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_transformed_in_single(dtype: torch.dtype) -> None:
    """2,000 tokens of 40 add up to more than fp16 holds; after the LayerNorm they fit again."""
    hidden_LD = torch.full((2000, 16), 40.0, dtype=dtype)
    found = fourier(hidden_LD)
    assert found.dtype == torch.float32
    assert float(found[0, 0]) == 2000 * 16 * 40 > torch.finfo(torch.float16).max
    assert fourier(hidden_LD.double()).dtype == torch.float64
    built = FNet(FNetConfig(**SIZES)).to(dtype).eval().requires_grad_(False)
    assert built(pad([[3] * 2000], 0)).isfinite().all()


def test_states_depend_on_where_a_token_stands() -> None:
    """Tokens that are all alike are told apart by their positions; with none they are not, but for the first."""
    ours = model()
    same = pad([[3] * 6], 0)
    assert (ours.embed(same)[0, 1:] - ours.embed(same)[0, :-1]).abs().amax(-1).min() > 1e-2
    ours.position_scale.zero_()
    states = ours(same)[0]
    torch.testing.assert_close(states[2:], states[1:-1], rtol=0, atol=1e-10)


def test_parameters_are_those_of_its_sizes() -> None:
    width, inner = SIZES["hidden_size"], SIZES["intermediate_size"]
    layer = 4 * width + (width + 1) * inner + (inner + 1) * width
    expected = SIZES["vocab_size"] * width + width + 2 * width + (width + 1) * width + SIZES["num_layers"] * layer
    assert sum(parameter.numel() for parameter in model().parameters()) == expected
