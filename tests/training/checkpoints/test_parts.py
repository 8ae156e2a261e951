"""Layers, rows and the scale of a foreign encoder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import BertModel

from ner_service.errors import ConfigError
from ner_service.model.config import HuggingFaceConfig
from tests.training.checkpoints.model_file import LAYERS, PIECES, POSITIONS, SPARE_ROWS, forward
from training.checkpoints.bert import as_roformer
from training.checkpoints.huggingface import ForeignEncoder
from training.checkpoints.parts import hidden_states, keep_layers, keep_rows, num_layers, num_rows, standardise

TEXTS = ("the reading in 北京", "在 A19!", "abc def (gh)", "读ab 在the", "北京。」")


@pytest.fixture(params=["original", "roformer"])
def encoder(request: pytest.FixtureRequest, foreign: ForeignEncoder) -> ForeignEncoder:
    """The model file's, as it is and as RoFormer."""
    return foreign if request.param == "original" else as_roformer(foreign)


def flat(encoder: ForeignEncoder, texts: tuple[str, ...] = TEXTS) -> Tensor:
    """Hidden states of all tokens, [N, D]."""
    return torch.cat(hidden_states(encoder, texts, 24))


def test_layers_are_counted_from_one(foreign: ForeignEncoder, bert: BertModel) -> None:
    kept = keep_layers(foreign, [1, 3])
    layers = bert.encoder.layer
    try:
        bert.encoder.layer = torch.nn.ModuleList([layers[0], layers[2]])
        expected = [forward(bert, foreign.tokenizer.encode(text).token_ids) for text in TEXTS]
    finally:
        bert.encoder.layer = layers
    torch.testing.assert_close(flat(kept), torch.cat(expected), rtol=0, atol=1e-6)
    assert num_layers(kept) == 2
    assert not torch.allclose(flat(keep_layers(foreign, [1, 2])), torch.cat(expected), atol=1e-2)


def test_both_kinds_lose_the_same_layers(foreign: ForeignEncoder) -> None:
    """Made a RoFormer before or after, the outcome is one."""
    before, after = keep_layers(as_roformer(foreign), [2, 3]), as_roformer(keep_layers(foreign, [2, 3]))
    assert before.config == after.config
    torch.testing.assert_close(before.weights, after.weights, rtol=0, atol=0)


@pytest.mark.parametrize("layers", [[], [0], [4], [2, 1], [1, 1], [-1, 2]])
def test_layers_that_are_not_there_are_refused(encoder: ForeignEncoder, layers: list[int]) -> None:
    with pytest.raises(ConfigError, match=rf"found .*, expected some of 1 to {LAYERS}, in order and each once"):
        keep_layers(encoder, layers)


def test_rows_are_kept_in_the_order_given(encoder: ForeignEncoder) -> None:
    token_ids = [0, 1, 2, 3, 9, 40]
    kept = keep_rows(encoder, encoder.tokenizer, token_ids)
    [words] = [name for name in encoder.weights if name.endswith(("word_embeddings.weight", "token_embedding.weight"))]
    torch.testing.assert_close(kept.weights[words], encoder.weights[words][token_ids], rtol=0, atol=0)
    assert (num_rows(encoder), num_rows(kept)) == (len(PIECES) + SPARE_ROWS, 6)


def test_each_dimension_gets_mean_0_and_deviation_1(encoder: ForeignEncoder) -> None:
    found = flat(standardise(encoder, TEXTS, 24))
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(32), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.std(dim=0, correction=0), torch.ones(32), rtol=0, atol=1e-4)
    before = flat(encoder)
    assert before.mean(dim=0).abs().max() > 0.1
    assert (before.std(dim=0, correction=0) - 1).abs().max() > 0.1


def test_nothing_but_the_last_layer_norm_changes(encoder: ForeignEncoder) -> None:
    """So the hidden states of any text are those before, shifted and stretched by dimension."""
    scaled = standardise(encoder, TEXTS, 24)
    changed = {name for name, tensor in encoder.weights.items() if not torch.equal(tensor, scaled.weights[name])}
    assert {name.rsplit(".", 1)[1] for name in changed} == {"weight", "bias"}
    assert len(changed) == 2
    before, after = flat(encoder, ("fed in gab",)), flat(scaled, ("fed in gab",))
    over = flat(encoder)
    expected = (before - over.mean(dim=0)) / over.std(dim=0, correction=0)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-4)


def test_a_single_token_has_no_scale(encoder: ForeignEncoder) -> None:
    with pytest.raises(ConfigError, match="found 1 texts that leave a hidden dimension as it is, expected more texts"):
        standardise(encoder, ["a"], max_tokens=1)


def test_longer_texts_are_cut(encoder: ForeignEncoder) -> None:
    assert [len(state) for state in hidden_states(encoder, ["ab", "abcdefgh" * 40], 24)] == [4, 24]


def test_texts_are_cut_to_what_the_encoder_can_read(foreign: ForeignEncoder) -> None:
    """BERT's positions end; RoFormer's do not."""
    texts = ["abcdefgh" * 40]
    assert [len(state) for state in hidden_states(foreign, texts, 128)] == [POSITIONS]
    assert [len(state) for state in hidden_states(as_roformer(foreign), texts, 128)] == [128]


def test_parts_of_another_architecture_are_not_known(foreign: ForeignEncoder) -> None:
    other = replace(foreign, config=HuggingFaceConfig(model_type="roberta"))
    with pytest.raises(ConfigError, match="type 'roberta', expected 'bert' or 'roformer' to change its parts"):
        keep_layers(other, [1])
