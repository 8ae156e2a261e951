"""Latent codes and the decoder that sees them alone: U1 to U12 of UniVAE, in fp64, on four layers of 16.

`one_sequence` is the layout of the article, text and copy end to end under a mask a layer, written out from the masks'
definition; ours, an encoder pass and a decoder pass with caches, must be the same numbers.

Shapes: B texts, L tokens, S size of a code, T tokens written, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ner_service.errors import ConfigError
from ner_service.model.batch import Batch, CausalMask, Mask, PaddingMask, UniLMMask, pack, pad, pad_targets
from ner_service.model.config import (
    EncoderConfig,
    Heads,
    HuggingFaceConfig,
    LanguageModelConfig,
    LatentConfig,
    ModelConfig,
    RoFormerConfig,
    RoFormerV2Config,
)
from ner_service.model.latent import FIRST_POSITION
from ner_service.model.rotary import rotary_table
from ner_service.model.text_model import TextModel

SIZES = {"vocab_size": 20, "hidden_size": 16, "num_layers": 4, "num_heads": 2, "intermediate_size": 24}
ENCODERS: dict[str, EncoderConfig] = {
    "roformer": RoFormerConfig(**SIZES),
    "roformer_v2": RoFormerV2Config(**SIZES),
}
TEXT = (2, 9, 5, 17, 4, 11, 8, 3)
OTHER = (2, 9, 5, 16, 4, 11, 8, 3)
LONGER = (2, 9, 5, 17, 4, 11, 8, 12, 13, 6, 6, 10, 3)
WRITTEN = (2, 7, 14, 5, 18, 6)
PAD = 0


def model_of(kind: str, **latent: object) -> TextModel:
    """Random weights, wide enough that what is seen changes logits by whole numbers."""
    config = LatentConfig(**{"num_latents": 2, "size": 4, **latent})
    heads = Heads(language_model=LanguageModelConfig(), latent=config)
    torch.manual_seed(0)
    model = TextModel(ModelConfig(encoder=ENCODERS[kind], heads=heads), num_labels=0).double().eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture(params=ENCODERS)
def model(request: pytest.FixtureRequest) -> TextModel:
    return model_of(request.param).requires_grad_(False)


def codes_of(model: TextModel, *texts: Sequence[int]) -> list[Tensor]:
    return [latent.z_Bd for latent in model.latent.encode(model.encoder, pad(texts, PAD))]


def logits_of(model: TextModel, codes: Sequence[Tensor], *written: Sequence[int], mask: Mask | None = None) -> Tensor:
    """Logits [B, T, V] of our decoder, or under another mask than its own."""
    batch = replace(pad_targets(written, PAD, first_position=FIRST_POSITION), mask=mask or CausalMask())
    hidden_BTD = model.encoder(batch, model.latent.caches(model.encoder, codes))
    return model.language_model(hidden_BTD, model.encoder.token_embedding.weight)


@dataclass(frozen=True, slots=True)
class WrittenMask(UniLMMask):
    """Any mask, cell by cell."""

    allowed: Tensor

    def allowed_BLL(self) -> Tensor:
        return self.allowed


@dataclass(frozen=True, slots=True)
class Found:
    """What one pass over text and copy gives: the text's last states, its codes, the copy's logits [T, V]."""

    states_LD: Tensor
    codes: list[Tensor]
    logits_TV: Tensor


def one_sequence(
    model: TextModel,
    text: Sequence[int],
    written: Sequence[int] = WRITTEN,
    *,
    codes: Sequence[Tensor] | None = None,
    first_position: int = FIRST_POSITION,
    in_place: bool = False,
) -> Found:
    """Slot, text and copy as one row. M_ij = [s_i = s_j][c_j <= c_i], and in latent layers the copy sees the slot.

    `in_place` puts the code where the article has it, at the text's position 0, in place of a slot.
    """
    encoder, start = model.encoder, 1 + len(text)
    segment_L = torch.tensor([0] * start + [1] * len(written))
    position_L = torch.tensor([0, *range(len(text)), *range(first_position, first_position + len(written))])
    row = torch.tensor([[PAD, *text, *written]])
    order_L = segment_L.cumsum(0)
    independent_LL = (segment_L[:, None] == segment_L) & (order_L <= order_L[:, None])
    independent_LL[1:, 0] = False
    latent_LL = independent_LL.clone()
    latent_LL[start:, 1 if in_place else 0] = True
    mask = WrittenMask(segment_L, segment_L, independent_LL[None])
    order_BL = position_L[None]
    batch = Batch(
        token_ids_BL=row,
        order_BL=order_BL,
        position_BLP=order_BL[..., None],
        mask=mask,
        lengths=(),
        segment_BL=segment_L[None],
    )
    hidden = encoder.embed(batch)
    table = rotary_table(batch.order_BL, encoder.head_size, torch.float64)
    used = []
    for number, layer in enumerate(encoder.layers):
        index = number - model.latent.first_layer
        if index >= 0:
            latent = model.latent.posteriors[index](model.latent.down[index](hidden[:, 1]))
            used.append(latent.z_Bd if codes is None else codes[index])
            hidden = hidden.clone()
            hidden[:, 1 if in_place else 0] = model.latent.up[index](used[-1])
        hidden = layer(hidden, table, replace(mask, allowed=(independent_LL if index < 0 else latent_LL)[None]))
    logits_TV = model.language_model(hidden[0, start:], encoder.token_embedding.weight)
    return Found(hidden[0, 1:start], used, logits_TV)


def difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def test_two_passes_are_the_articles_one_pass(model: TextModel) -> None:
    """Both the codes and the logits; a decoder that sees no code gives others."""
    expected = one_sequence(model, TEXT)
    codes = codes_of(model, TEXT)
    for ours, theirs in zip(codes, expected.codes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(logits_of(model, codes, WRITTEN)[0], expected.logits_TV, rtol=0, atol=1e-11)
    nothing = [torch.zeros_like(code_BS) for code_BS in codes]
    assert difference(logits_of(model, nothing, WRITTEN)[0], expected.logits_TV) > 0.1


def test_u1_with_the_codes_forced_the_text_is_not_seen(model: TextModel) -> None:
    codes = codes_of(model, TEXT)
    first, second = (one_sequence(model, text, codes=codes) for text in (TEXT, OTHER))
    assert difference(first.logits_TV, second.logits_TV) == 0.0
    assert difference(first.states_LD, second.states_LD) > 0.1
    torch.testing.assert_close(logits_of(model, codes, WRITTEN)[0], first.logits_TV, rtol=0, atol=1e-11)


def test_u2_with_the_codes_free_it_is(model: TextModel) -> None:
    """The twin of U1 and U3."""
    assert difference(one_sequence(model, TEXT).logits_TV, one_sequence(model, OTHER).logits_TV) > 0.1
    first, second = (logits_of(model, codes_of(model, text), WRITTEN) for text in (TEXT, OTHER))
    assert difference(first, second) > 0.1


def test_u3_codes_of_one_text_forced_on_another_write_as_the_first(model: TextModel) -> None:
    first = one_sequence(model, TEXT)
    forced = one_sequence(model, OTHER, codes=first.codes)
    assert difference(forced.logits_TV, first.logits_TV) == 0.0
    assert difference(one_sequence(model, OTHER).logits_TV, first.logits_TV) > 0.1


def test_every_code_is_seen(model: TextModel) -> None:
    codes = codes_of(model, TEXT)
    before = logits_of(model, codes, WRITTEN)
    for layer, other_BS in enumerate(codes_of(model, OTHER[::-1])):
        changed = [*codes[:layer], other_BS, *codes[layer + 1 :]]
        assert difference(logits_of(model, changed, WRITTEN), before) > 0.1


@pytest.mark.parametrize("place", range(len(WRITTEN)))
def test_u4_what_is_written_later_is_not_seen(model: TextModel, place: int) -> None:
    changed = [*WRITTEN]
    changed[place] = 15
    first, second = one_sequence(model, TEXT), one_sequence(model, TEXT, changed)
    assert difference(first.states_LD, second.states_LD) == 0.0
    ours = [logits_of(model, codes_of(model, TEXT), written)[0] for written in (WRITTEN, changed)]
    for before_TV, after_TV in (ours, (first.logits_TV, second.logits_TV)):
        changes_T = (before_TV - after_TV).abs().amax(-1)
        assert (changes_T[:place] == 0).all()
        assert (changes_T[place:] > 1e-3).all()


def test_u5_codes_do_not_depend_on_what_is_written(model: TextModel) -> None:
    first, second = one_sequence(model, TEXT), one_sequence(model, TEXT, WRITTEN[::-1])
    for one, other, third in zip(first.codes, second.codes, one_sequence(model, OTHER).codes, strict=True):
        assert difference(one, other) == 0.0
        assert difference(one, third) > 1e-3


def test_u6_token_by_token_with_caches_is_the_whole_row(model: TextModel) -> None:
    """In training mode without noise: dropout is the only other thing that the mode turns on."""
    codes = codes_of(model, TEXT, OTHER)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in model.encoder.layers:
        layer.attention.dropout = 0.0
    model.train()
    whole = logits_of(model, codes, WRITTEN, WRITTEN)
    model.eval()
    caches = model.latent.caches(model.encoder, codes)
    for place, token in enumerate(WRITTEN):
        batch = pad_targets([[token], [token]], PAD, first_position=FIRST_POSITION + place)
        step_B1V = model.language_model(model.encoder(batch, caches), model.encoder.token_embedding.weight)
        torch.testing.assert_close(step_B1V[:, 0], whole[:, place], rtol=0, atol=1e-11)
    assert difference(whole[0], whole[1]) > 0.1


def test_u6_a_step_at_the_wrong_position_is_seen(model: TextModel) -> None:
    codes = codes_of(model, TEXT)
    caches = model.latent.caches(model.encoder, codes)
    model.encoder(pad_targets([WRITTEN[:1]], PAD, first_position=FIRST_POSITION), caches)
    late = model.encoder(pad_targets([WRITTEN[1:2]], PAD, first_position=FIRST_POSITION + 5), caches)
    logits_V = model.language_model(late[0, 0], model.encoder.token_embedding.weight)
    assert difference(logits_V, logits_of(model, codes, WRITTEN)[0, 1]) > 1e-3


def test_u7_codes_do_not_depend_on_padding(model: TextModel) -> None:
    """Nor on neighbours, in rows or packed. Padding that could be read would change them."""
    alone = codes_of(model, TEXT)
    padded = codes_of(model, TEXT, LONGER)
    packed = [latent.z_Bd for latent in model.latent.encode(model.encoder, pack([LONGER, TEXT]))]
    read = codes_of(model, (*TEXT, *[PAD] * 5))
    for one, row, packed_row, wrong in zip(alone, padded, packed, read, strict=True):
        torch.testing.assert_close(row[:1], one, rtol=0, atol=1e-12)
        torch.testing.assert_close(packed_row[1:], one, rtol=0, atol=1e-12)
        assert difference(wrong, one) > 1e-3


def test_u8_the_length_of_the_text_does_not_leak(model: TextModel) -> None:
    """With the copy behind the text it does; from our first position it does not."""
    codes = codes_of(model, TEXT)

    def leak(*first_positions: int) -> float:
        logits = [
            one_sequence(model, text, codes=codes, first_position=first).logits_TV
            for text, first in zip((TEXT, LONGER), first_positions, strict=True)
        ]
        return difference(*logits)

    assert len(LONGER) == len(TEXT) + 5
    assert leak(len(TEXT), len(LONGER)) > 0.1
    assert leak(FIRST_POSITION, FIRST_POSITION) < 1e-12


def test_u9_padding_behind_what_is_written_is_not_seen(model: TextModel) -> None:
    codes = codes_of(model, TEXT)
    twice = [code_BS.expand(2, -1) for code_BS in codes]
    alone = logits_of(model, codes, WRITTEN)
    padded = logits_of(model, twice, WRITTEN, (*WRITTEN, *WRITTEN))
    torch.testing.assert_close(padded[:1, : len(WRITTEN)], alone, rtol=0, atol=1e-12)
    assert difference(padded[0, len(WRITTEN) :], padded[1, len(WRITTEN) :]) > 1e-3


def test_u9_must_fail_without_the_causal_mask(model: TextModel) -> None:
    """Padding that every token may look at moves the logits before it."""
    codes, everything = codes_of(model, TEXT), PaddingMask(None)
    alone = logits_of(model, codes, WRITTEN, mask=everything)
    padded = logits_of(model, codes, (*WRITTEN, PAD, PAD), mask=everything)
    changes_T = (padded[0, : len(WRITTEN)] - alone[0]).abs().amax(-1)
    assert (changes_T > 1e-3).all()


@pytest.mark.parametrize("kind", ENCODERS)
def test_u10_without_latent_layers_nothing_of_the_text_is_seen(kind: str) -> None:
    model = model_of(kind, num_latents=0).requires_grad_(False)
    first, second = one_sequence(model, TEXT), one_sequence(model, LONGER)
    assert first.codes == codes_of(model, TEXT) == []
    assert difference(first.logits_TV, second.logits_TV) < 1e-12
    torch.testing.assert_close(logits_of(model, [], WRITTEN)[0], first.logits_TV, rtol=0, atol=1e-11)


def gradient_at_the_text(model: TextModel, *, detached: bool) -> Tensor | None:
    """The gradient of the loss of writing, at the token embeddings that the encoder's pass reads."""
    read: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: object, output: Tensor) -> None:
        output.retain_grad()
        read.append(output)

    handle = model.encoder.token_embedding.register_forward_hook(keep)
    codes = [code_BS.detach() if detached else code_BS for code_BS in codes_of(model, TEXT)]
    logits_TV = logits_of(model, codes, WRITTEN[:-1])[0]
    functional.cross_entropy(logits_TV, torch.tensor(WRITTEN[1:])).backward()
    handle.remove()
    assert len(read) == 2
    return read[0].grad


@pytest.mark.parametrize("posterior", ["vmf", "gaussian", "none"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_u11_the_codes_are_the_only_way_back_to_the_text(kind: str, posterior: str) -> None:
    model = model_of(kind, posterior=posterior)
    assert gradient_at_the_text(model, detached=True) is None
    gradient = gradient_at_the_text(model, detached=False)
    assert gradient is not None
    assert (gradient[0].abs().amax(-1) > 0).all()


def test_u12_the_texts_states_are_those_of_a_plain_pass(model: TextModel) -> None:
    """Bit for bit in ours. Codes put in the text itself, as in the article, would change its states."""
    batch = pad([TEXT], PAD)
    seen: list[Tensor] = []
    handle = model.encoder.layers[-2].register_forward_hook(lambda module, inputs, output: seen.append(output))
    plain = model.encoder(batch)
    codes = [latent.z_Bd for latent in model.latent.encode(model.encoder, batch)]
    handle.remove()
    assert torch.equal(seen[0], seen[1])
    noised = [functional.normalize(code_BS + 1.0, dim=-1) for code_BS in codes]
    for used in (codes, noised):
        beside = one_sequence(model, TEXT, codes=used)
        torch.testing.assert_close(beside.states_LD, plain[0], rtol=0, atol=1e-11)
    inside = one_sequence(model, TEXT, codes=noised, in_place=True)
    assert difference(inside.states_LD, plain[0]) > 1e-2


@pytest.mark.parametrize("posterior", ["vmf", "gaussian"])
def test_codes_are_samples_in_training_and_centres_else(posterior: str) -> None:
    model = model_of("roformer", posterior=posterior).requires_grad_(False)
    model.latent.train()
    first, second = codes_of(model, TEXT, OTHER), codes_of(model, TEXT, OTHER)
    assert all(difference(one, other) > 1e-3 for one, other in zip(first, second, strict=True))
    model.eval()
    first, second = codes_of(model, TEXT, OTHER), codes_of(model, TEXT, OTHER)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_codes_of_the_prior_are_drawn_layer_by_layer(model: TextModel) -> None:
    first, second = model.latent.prior(3, torch.Generator().manual_seed(1))
    assert first.shape == second.shape == (3, 4)
    assert difference(first, second) > 1e-2
    again = model.latent.prior(3, torch.Generator().manual_seed(1))
    assert torch.equal(again[0], first)
    assert torch.equal(again[1], second)


def test_a_code_in_the_first_layer_is_refused() -> None:
    """What enters it at position 0 is the same for every text."""
    with pytest.raises(ConfigError, match=r"num_latents: found 4, expected fewer than the encoder's 4 layers"):
        model_of("roformer", num_latents=4)


def test_a_foreign_encoder_is_refused() -> None:
    foreign = HuggingFaceConfig(
        model_type="bert", config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    )
    heads = Heads(latent=LatentConfig(num_latents=1))
    with pytest.raises(ConfigError, match=r"heads\.latent: found the encoder HuggingFaceEncoder"):
        TextModel(ModelConfig(encoder=foreign, heads=heads), num_labels=0)
