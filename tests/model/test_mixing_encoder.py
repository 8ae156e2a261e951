"""What all encoders that do not attend under a mask have in common: a text is read as if it were alone (N1, N2, N7)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from ner_service.model import mixing_encoder
from ner_service.model.batch import Batch, pack, pad, pad_pairs, pad_targets
from ner_service.model.config import EncoderConfig, FNetConfig, GMLPConfig, HyperMixerConfig
from ner_service.model.encoders import build_encoder, packs
from ner_service.model.mixing_encoder import MixingEncoder, over_texts, sinusoids
from ner_service.records import structure, unstructure
from tests.strategies import token_rows

DOCUMENTATION = Path(__file__).parents[2] / "docs/attention_free.md"

SIZES: dict[str, Any] = {"vocab_size": 20, "hidden_size": 16, "num_layers": 2, "intermediate_size": 24}
CONFIGS: dict[str, EncoderConfig] = {
    "gmlp": GMLPConfig(**SIZES, kernel_size=5),
    "amlp": GMLPConfig(**SIZES, kernel_size=5, attention_size=4),
    "fnet": FNetConfig(**SIZES),
    "hypermixer": HyperMixerConfig(**SIZES, num_heads=2, mixing_size=12),
}
TEXTS = ([5, 9, 2, 17, 4, 11, 8], [3, 7, 2], [12])


def encoder(kind: str, std: float = 0.5) -> MixingEncoder:
    """Weights so wide that what a token tells another is not small."""
    torch.manual_seed(0)
    built = cast(MixingEncoder, build_encoder(CONFIGS[kind])).double().eval().requires_grad_(False)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=std)
    return built


def furthest(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def alone(model: MixingEncoder) -> list[Tensor]:
    return [model(pad([token_ids], 0))[0] for token_ids in TEXTS]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_n1_n7_in_company_a_text_has_the_states_that_it_has_alone(kind: str, layout: str) -> None:
    model = encoder(kind)
    batch = pad(TEXTS, 0) if layout == "padded" else pack(TEXTS)
    for text, expected in zip(batch.texts(model(batch)), alone(model), strict=True):
        torch.testing.assert_close(text, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", CONFIGS)
def test_n1_padding_that_is_read_changes_states(kind: str) -> None:
    """The twin: the same ids, filled up beforehand, so that nothing says which of them are none."""
    model = encoder(kind)
    filled = [[*token_ids, *[0] * (7 - len(token_ids))] for token_ids in TEXTS]
    for row_LD, expected in zip(model(pad(filled, 0))[1:], alone(model)[1:], strict=True):
        assert furthest(row_LD[: len(expected)], expected) > 1e-2


@pytest.mark.parametrize("kind", ["gmlp", "amlp", "hypermixer"])
def test_n1_zeros_that_stand_before_a_norm_are_no_use(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin of zeros immediately before the mixing: the bias of a LayerNorm revives those of the embeddings."""
    model = encoder(kind)
    expected, batch, embed = alone(model), pad(TEXTS, 0), model.embed
    monkeypatch.setattr(mixing_encoder, "_zero_padding", lambda tensor, valid_BL: tensor)
    monkeypatch.setattr(model, "embed", lambda batch: embed(batch).masked_fill(~batch.valid_BL()[..., None], 0.0))
    for text, expected_LD in zip(batch.texts(model(batch))[1:], expected[1:], strict=True):
        assert furthest(text, expected_LD) > 1e-2


@pytest.mark.parametrize("kind", CONFIGS)
def test_n7_a_neighbour_in_one_row_that_is_read_changes_states(kind: str) -> None:
    """The twin of packed rows: the texts as one."""
    model = encoder(kind)
    together = model(pad([[token for token_ids in TEXTS for token in token_ids]], 0))[0]
    assert furthest(together[7:10], alone(model)[1]) > 1e-2


@pytest.mark.parametrize("kind", CONFIGS)
def test_n1_in_single_precision(kind: str) -> None:
    model = encoder(kind, std=0.2).float()
    for batch in (pad(TEXTS, 0), pack(TEXTS)):
        for text, expected in zip(batch.texts(model(batch)), alone(model), strict=True):
            torch.testing.assert_close(text, expected, rtol=0, atol=1e-5)


@given(rows=token_rows(20))
@settings(max_examples=25)
@pytest.mark.parametrize("kind", CONFIGS)
def test_n7_layouts_agree_whatever_the_lengths(kind: str, rows: list[list[int]]) -> None:
    model = encoder(kind)
    padded, packed = pad(rows, 0), pack(rows)
    in_rows, in_one_row = padded.texts(model(padded)), packed.texts(model(packed))
    for token_ids, row_LD, packed_LD in zip(rows, in_rows, in_one_row, strict=True):
        expected = model(pad([token_ids], 0))[0]
        torch.testing.assert_close(row_LD, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(packed_LD, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", CONFIGS)
def test_n2_what_stands_in_the_padding_is_irrelevant(kind: str) -> None:
    model = encoder(kind)
    assert model.token_embedding.weight[19].abs().max() < 10
    clean, garbage = pad(TEXTS, 0), pad(TEXTS, 19)
    expected = clean.texts(model(clean))
    model.token_embedding.weight[19] = torch.linspace(-1e3, 2e3, 16)
    for text, same in zip(garbage.texts(model(garbage)), expected, strict=True):
        torch.testing.assert_close(text, same, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", CONFIGS)
def test_n2_must_fail_where_the_padding_is_read(kind: str) -> None:
    """The twin: the same garbage as tokens of the texts."""
    model = encoder(kind)
    filled = [[*token_ids, *[19] * (7 - len(token_ids))] for token_ids in TEXTS]
    expected = [row_LD.clone() for row_LD in model(pad(filled, 0))]
    model.token_embedding.weight[19] = torch.linspace(-1e3, 2e3, 16)
    for row_LD, other, token_ids in zip(model(pad(filled, 0))[1:], expected[1:], TEXTS[1:], strict=True):
        assert furthest(row_LD[: len(token_ids)], other[: len(token_ids)]) > 1e-2


@pytest.mark.parametrize("kind", ["gmlp", "fnet", "hypermixer"])
def test_n2_not_even_what_is_no_number(kind: str) -> None:
    """A product with a mask of zeros would let it through."""
    model = encoder(kind)
    model.token_embedding.weight[19] = torch.nan
    batch = pad(TEXTS, 19)
    for text, expected in zip(batch.texts(model(batch)), alone(model), strict=True):
        torch.testing.assert_close(text, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_token_hears_of_the_others(kind: str) -> None:
    """The twin of all of the above: encoders that mix nothing would pass. Far tokens too, but for the convolution."""
    model = encoder(kind)
    other = [6, *TEXTS[0][1:]]
    change_L = (model(pad([other], 0)) - model(pad(TEXTS[:1], 0)))[0].abs().amax(-1)
    assert (change_L[:3] > 1e-3).all()
    assert (change_L > 1e-3).all() or kind == "gmlp"


@pytest.mark.parametrize("kind", CONFIGS)
def test_states_are_what_enters_each_layer_and_what_leaves_the_last(kind: str) -> None:
    model = encoder(kind)
    batch = pad(TEXTS, 0)
    states = list(model.states(batch))
    assert len(states) == model.num_layers + 1 == len(model.layers) + 1
    assert torch.equal(states[0], model.embed(batch))
    assert torch.equal(states[-1], model(batch))
    context = model.context(batch)
    assert torch.equal(states[1], model.layers[0](states[0], batch, *context))
    assert torch.equal(states[2], model.norm(model.layers[1](states[1], batch, *context)))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    ("batch", "mask"), [(pad_targets([[1, 2]], 0), "Causal"), (pad_pairs([([1], [2])], 0), "UniLM")]
)
def test_masks_other_than_of_whole_texts_are_refused(kind: str, batch: Batch, mask: str) -> None:
    model = encoder(kind)
    with pytest.raises(TypeError, match=f"{type(model).__name__} reads whole texts.*found a {mask}Mask"):
        model(batch)


@pytest.mark.parametrize("kind", CONFIGS)
def test_packed_batches_are_read_and_no_text_is_too_long(kind: str) -> None:
    assert packs(CONFIGS[kind])
    assert encoder(kind)(pack([[1] * 700, [2] * 3])).isfinite().all()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_training_in_bf16_reaches_every_weight(kind: str, layout: str) -> None:
    torch.manual_seed(0)
    model = build_encoder(CONFIGS[kind])
    batch = pad(TEXTS, 0) if layout == "padded" else pack(TEXTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden_BLD = model(batch)
    hidden_BLD.float()[..., 0].square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.bfloat16, 0.15), (torch.float16, 0.02)])
def test_half_precision_is_near_single(kind: str, dtype: torch.dtype, allowed: float) -> None:
    model = encoder(kind, std=0.2).float()
    batch = pack(TEXTS)
    expected = model(batch)
    found = model.to(dtype)(batch)
    assert found.dtype == dtype
    assert furthest(found.float(), expected) < allowed * float(expected.abs().max())


@pytest.mark.parametrize("kind", CONFIGS)
def test_dropout_is_for_training_alone(kind: str) -> None:
    model = encoder(kind)
    batch = pad(TEXTS, 0)
    assert torch.equal(model(batch), model(batch))
    model.train()
    assert not torch.equal(model(batch), model(batch))


def test_the_sections_of_the_documentation_are_read() -> None:
    sections = re.findall(r"```toml\n(.*?)```", DOCUMENTATION.read_text(encoding="utf-8"), re.DOTALL)
    tables = [tomllib.loads(section)["model"]["encoder"] for section in sections]
    assert [table["kind"] for table in tables] == ["gmlp", "fnet", "hypermixer"]
    for table in tables:
        config: object = structure(EncoderConfig, {**table, "vocab_size": 20})  # type: ignore[arg-type]
        assert unstructure(config).items() >= table.items()


def test_over_texts_zeros_padding_and_keeps_texts_apart() -> None:
    seen: list[Tensor] = []

    def add_up(tensor_BLD: Tensor) -> Tensor:
        seen.append(tensor_BLD)
        return tensor_BLD.sum(1, keepdim=True).expand_as(tensor_BLD)

    padded, packed = pad(TEXTS, 19), pack(TEXTS)
    sums = [float(sum(token_ids)) for token_ids in TEXTS]
    for batch, shapes in ((padded, [(3, 7, 1)]), (packed, [(1, 7, 1), (1, 3, 1), (1, 1, 1)])):
        seen.clear()
        mixed = over_texts(add_up, batch, batch.token_ids_BL[..., None].double())
        assert [tuple(tensor.shape) for tensor in seen] == shapes
        assert [float(text[0, 0]) for text in batch.texts(mixed)] == sums


def test_sinusoids_are_cosines_and_sines_of_rotary_angles() -> None:
    """Vaswani et al.: position p over 10000^(2t/D), here cosine before sine."""
    found = sinusoids(pack(TEXTS), 6, torch.float64)[0]
    position_L = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 0], dtype=torch.float64)
    for pair in range(3):
        angle_L = position_L / 10000.0 ** (2 * pair / 6)
        torch.testing.assert_close(found[:, 2 * pair], angle_L.cos(), rtol=0, atol=1e-12)
        torch.testing.assert_close(found[:, 2 * pair + 1], angle_L.sin(), rtol=0, atol=1e-12)
