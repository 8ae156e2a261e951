"""Our RoFormer against transformers' on random weights, and its layouts against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import RoFormerConfig as ForeignConfig
from transformers import RoFormerModel as ForeignModel

from ner_service.model.batch import Batch, pack, pad
from ner_service.model.encoders.roformer import RoFormer
from ner_service.model.rotary import rotary_table
from training.checkpoints.huggingface import roformer_config, roformer_weights

TEXTS = ([5, 9, 2, 17, 4, 11, 8], [3, 7, 2], [12])


def foreign_model(*, embedding_size: int = 16, rotary_value: bool = False, activation: str = "gelu") -> ForeignModel:
    config = ForeignConfig(
        vocab_size=20,
        embedding_size=embedding_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        hidden_act=activation,
        rotary_value=rotary_value,
    )
    torch.manual_seed(0)
    model = ForeignModel(config)
    model.eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def our_model(foreign: ForeignModel) -> RoFormer:
    model = RoFormer(roformer_config(foreign.config))
    model.load_state_dict(roformer_weights(foreign.state_dict()))
    return model.eval().requires_grad_(False)


def shifted(batch: Batch, shift: int) -> Batch:
    return replace(batch, order_BL=batch.order_BL + shift)


@pytest.mark.parametrize("rotary_value", [False, True])
@pytest.mark.parametrize(("embedding_size", "activation"), [(16, "gelu"), (8, "relu")])
def test_r6_hidden_states_equal_those_of_transformers(embedding_size: int, activation: str, rotary_value: bool) -> None:
    foreign = foreign_model(embedding_size=embedding_size, activation=activation, rotary_value=rotary_value)
    ours = our_model(foreign)
    batch = pad(TEXTS, 0)
    with torch.no_grad():
        expected = foreign(input_ids=batch.token_ids_BL, attention_mask=batch.valid_BL().long()).last_hidden_state
    for text, expected_LD in zip(batch.texts(ours(batch)), batch.texts(expected), strict=True):
        torch.testing.assert_close(text, expected_LD, rtol=0, atol=1e-5)


def test_r6_finds_values_that_are_turned_or_not() -> None:
    foreign = foreign_model()
    ours = RoFormer(replace(roformer_config(foreign.config), rotary_value=True))
    ours.load_state_dict(roformer_weights(foreign.state_dict()))
    batch = pad(TEXTS[:1], 0)
    with torch.no_grad():
        expected = foreign(input_ids=batch.token_ids_BL).last_hidden_state
        assert (ours.eval()(batch) - expected).abs().max() > 1e-3


def test_r6_angles_are_those_of_the_foreign_table() -> None:
    """Transformers keeps all sines of a position, then all cosines."""
    table_PK = foreign_model().encoder.embed_positions.weight
    assert table_PK[0].tolist() == [0.0] * 4 + [1.0] * 4
    ours = rotary_table(torch.arange(32), 8, torch.float32)
    torch.testing.assert_close(torch.cat([ours.imag, ours.real], -1), table_PK.detach(), rtol=0, atol=1e-6)
    angles = torch.tensor([10000.0 ** (-pair / 4) for pair in range(4)])
    torch.testing.assert_close(table_PK[1, :4].detach(), angles.sin(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rotary_value", [False, True])
def test_packed_padded_and_alone_are_the_same(rotary_value: bool) -> None:
    model = our_model(foreign_model(embedding_size=8, rotary_value=rotary_value)).double()
    padded, packed = pad(TEXTS, 0), pack(TEXTS)
    in_rows, in_one_row = padded.texts(model(padded)), packed.texts(model(packed))
    for token_ids, row_LD, packed_LD in zip(TEXTS, in_rows, in_one_row, strict=True):
        alone_LD = model(pad([token_ids], 0))[0]
        torch.testing.assert_close(row_LD, alone_LD, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(packed_LD, alone_LD, rtol=1e-12, atol=1e-12)


def test_a_neighbour_that_could_be_seen_would_change_the_answer() -> None:
    """The twin: one text whose tokens are those of all three gives its first tokens other hidden states."""
    model = our_model(foreign_model()).double()
    together = model(pad([[token for ids in TEXTS for token in ids]], 0))[0]
    assert (together[:7] - model(pad(TEXTS[:1], 0))[0]).abs().max() > 1e-3


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_r7_hidden_states_do_not_change_with_a_shift(layout: str) -> None:
    model = our_model(foreign_model()).double()
    batch = pad(TEXTS, 0) if layout == "padded" else pack(TEXTS)
    for near, far in zip(batch.texts(model(batch)), batch.texts(model(shifted(batch, 500))), strict=True):
        torch.testing.assert_close(near, far, rtol=0, atol=1e-9)


def test_r8_turned_values_make_hidden_states_depend_on_absolute_positions() -> None:
    model = our_model(foreign_model(rotary_value=True)).double()
    batch = pad(TEXTS, 0)
    assert (model(batch) - model(shifted(batch, 500))).abs().max() > 1e-2


def test_there_is_no_longest_position() -> None:
    """Transformers' table of this model ends at position 31."""
    model = our_model(foreign_model())
    assert model(pad([[1] * 100], 0)).isfinite().all()


def test_dropout_is_for_training_alone() -> None:
    model = our_model(foreign_model())
    batch = pad(TEXTS, 0)

    def changes() -> bool:
        first: Tensor = model(batch)
        return not torch.equal(first, model(batch))

    assert not changes()
    model.train()
    assert changes()
