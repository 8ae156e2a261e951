"""Encoders with two axes: the oracles T-8 and T-11 on hidden states. Texts are read as with one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ner_service.model.batch import Batch, pack, pad
from ner_service.model.config import RoFormerConfig, RoFormerV2Config
from ner_service.model.encoders import build_encoder
from ner_service.model.rotary_encoder import RotaryEncoder

TEXTS = ([5, 9, 2, 17, 4, 11, 8], [3, 7, 2, 6], [12])
SIZES = {"vocab_size": 20, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24}
CONFIGS = (RoFormerConfig(**SIZES), RoFormerV2Config(**SIZES))  # type: ignore[arg-type]

# The first text on a page: two columns of three words under a special token.
PLACES = ((0.0, 0.0), (1.0, 1.0), (20.0, 1.0), (1.0, 2.5), (20.0, 2.5), (1.0, 4.0), (20.0, 4.0))


def encoder(config: RoFormerConfig | RoFormerV2Config, num_axes: int) -> RotaryEncoder:
    """With the same random weights for any number of axes."""
    torch.manual_seed(0)
    built = build_encoder(replace(config, num_axes=num_axes))  # type: ignore[arg-type]
    for parameter in built.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    assert isinstance(built, RotaryEncoder)
    return built.eval().requires_grad_(False)


def batches(texts: Sequence[Sequence[int]], places: Sequence[object] | None = None) -> list[Batch]:
    return [pad(texts, 0, positions=places), pack(texts, positions=places)]  # type: ignore[arg-type]


def read(model: RotaryEncoder, places: Sequence[tuple[float, float]] | None) -> Tensor:
    """Hidden states of the first text at such places."""
    found: Tensor = model(pad(TEXTS[:1], 0, positions=[places]))
    return found[0]


@pytest.mark.parametrize("config", CONFIGS)
def test_t8_texts_are_read_to_the_bit_as_with_one_axis(config: RoFormerConfig | RoFormerV2Config) -> None:
    one, two = encoder(config, 1), encoder(config, 2)
    diagonals = [tuple((float(n), float(n)) for n in range(len(text))) for text in TEXTS]
    for plain, placed in zip(batches(TEXTS), batches(TEXTS, diagonals), strict=True):
        assert plain.position_BLP.shape[-1] == 1
        assert placed.position_BLP.shape[-1] == 2
        expected = one(plain)
        assert torch.equal(two(plain), expected)
        for own, other in zip(placed.texts(two(placed)), plain.texts(expected), strict=True):
            assert torch.equal(own, other)


@pytest.mark.parametrize("config", CONFIGS)
def test_t8_a_text_beside_a_page_is_read_as_alone(config: RoFormerConfig | RoFormerV2Config) -> None:
    two = encoder(config, 2)
    for mixed, plain in zip(batches(TEXTS, [PLACES, None, None]), batches(TEXTS), strict=True):
        beside, alone = mixed.texts(two(mixed)), plain.texts(two(plain))
        assert torch.equal(beside[1], alone[1])
        assert torch.equal(beside[2], alone[2])
        assert (beside[0] - alone[0]).abs().max() > 1e-2, "the twin: where a page's tokens stand is read"


@pytest.mark.parametrize("config", CONFIGS)
def test_t11_columns_swapped_are_another_page_and_a_shift_is_none(config: RoFormerConfig | RoFormerV2Config) -> None:
    two = encoder(config, 2).double()
    here = read(two, PLACES)
    shifted = [(x + 3.75, y + 11.5) for x, y in PLACES]
    torch.testing.assert_close(read(two, shifted), here, rtol=0, atol=1e-12)
    swapped = [PLACES[0], *((21.0 - x, y) for x, y in PLACES[1:])]
    assert (read(two, swapped) - here).abs().max() > 1e-2


@pytest.mark.parametrize("config", CONFIGS)
def test_padded_packed_and_alone_are_the_same_on_pages(config: RoFormerConfig | RoFormerV2Config) -> None:
    two = encoder(config, 2).double()
    places = [PLACES, PLACES[:4], None]
    alone = [two(pad([text], 0, positions=[own]))[0] for text, own in zip(TEXTS, places, strict=True)]
    for batch in batches(TEXTS, places):
        for found_LD, expected_LD in zip(batch.texts(two(batch)), alone, strict=True):
            torch.testing.assert_close(found_LD, expected_LD, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", CONFIGS)
def test_with_one_axis_a_page_is_the_text_of_its_words(config: RoFormerConfig | RoFormerV2Config) -> None:
    one = encoder(config, 1)
    assert torch.equal(read(one, PLACES), read(one, None))


@pytest.mark.parametrize("config", CONFIGS)
def test_heads_need_as_many_pairs_for_each_axis(config: RoFormerConfig | RoFormerV2Config) -> None:
    assert replace(config, hidden_size=12, num_heads=2).num_axes == 1
    with pytest.raises(
        ValueError, match="hidden_size 12 over num_heads 2 with num_axes 2: expected heads of a width that 4"
    ):
        replace(config, hidden_size=12, num_heads=2, num_axes=2)
