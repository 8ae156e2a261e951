"""BERT's weights in our RoFormer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertModel

from ner_service.errors import ConfigError
from ner_service.model.batch import pad
from ner_service.model.config import HuggingFaceConfig, RoFormerConfig
from ner_service.model.encoders import build_encoder
from ner_service.model.rotary_encoder import RotaryEncoder
from tests.training.checkpoints.model_file import HEADS, INNER, LAYERS, TYPES, WIDTH, forward
from training.checkpoints.bert import as_roformer
from training.checkpoints.huggingface import ForeignEncoder

TOKEN = 7


def states(foreign: ForeignEncoder, token_ids: tuple[int, ...]) -> Tensor:
    encoder = build_encoder(foreign.config)
    encoder.load_state_dict(foreign.weights)
    with torch.no_grad():
        return encoder.eval()(pad([token_ids], 0))[0]  # type: ignore[no-any-return]


def by_hand(bert: BertModel, token: int) -> Tensor:
    """One token alone attends to itself: values pass, whatever queries, keys and rotation are."""
    weights = {name: tensor.double() for name, tensor in bert.state_dict().items()}

    def linear(hidden: Tensor, name: str) -> Tensor:
        return functional.linear(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(hidden: Tensor, name: str) -> Tensor:
        return functional.layer_norm(hidden, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)

    hidden = weights["embeddings.word_embeddings.weight"][token]
    hidden = hidden + weights["embeddings.token_type_embeddings.weight"][0]
    hidden = norm(hidden + weights["embeddings.position_embeddings.weight"].mean(dim=0), "embeddings.LayerNorm")
    for index in range(LAYERS):
        layer = f"encoder.layer.{index}"
        values = linear(hidden, f"{layer}.attention.self.value")
        hidden = norm(hidden + linear(values, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        inner = functional.gelu(linear(hidden, f"{layer}.intermediate.dense"))
        hidden = norm(hidden + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return hidden


def test_one_token_is_read_as_by_hand(foreign: ForeignEncoder, bert: BertModel) -> None:
    [found] = states(as_roformer(foreign), (TOKEN,)).double()
    torch.testing.assert_close(found, by_hand(bert, TOKEN), rtol=0, atol=1e-5)
    assert not torch.allclose(found, by_hand(bert, TOKEN + 1), atol=1e-2)


def test_queries_and_keys_are_in_their_places(foreign: ForeignEncoder, bert: BertModel) -> None:
    """A token that stands twice: where positions all are the mean, BERT gives both what it gives the token alone.

    Rotation turns equal tokens apart, but their values are the same: so with us as well.
    """
    twice = states(as_roformer(foreign), (TOKEN, TOKEN))
    torch.testing.assert_close(twice[0], twice[1], rtol=0, atol=1e-6)
    parts = [bert.state_dict()[f"encoder.layer.1.attention.self.{part}.weight"] for part in ("query", "key", "value")]
    laid = as_roformer(foreign).weights["layers.1.attention.query_key_value.weight"]
    torch.testing.assert_close(laid, torch.cat(parts), rtol=0, atol=1e-7)


def test_without_rotation_it_is_bert_with_the_mean_position(
    foreign: ForeignEncoder, bert: BertModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every head in its place: with angles of 0 all of attention is BERT's."""
    whole = RotaryEncoder._table
    monkeypatch.setattr(RotaryEncoder, "_table", lambda self, positions: whole(self, positions * 0))
    token_ids = (0, 9, TOKEN, 30, 9, 2)
    positions = bert.embeddings.position_embeddings.weight
    kept = positions.detach().clone()
    with torch.no_grad():
        positions.copy_(kept.mean(dim=0).expand_as(kept))
        expected = forward(bert, token_ids)
        positions.copy_(kept)
    torch.testing.assert_close(states(as_roformer(foreign), token_ids), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(forward(bert, token_ids), expected, atol=1e-2)


def test_the_mean_position_is_in_every_row_of_types(foreign: ForeignEncoder, bert: BertModel) -> None:
    weights = bert.state_dict()
    mean = weights["embeddings.position_embeddings.weight"].mean(dim=0)
    found = as_roformer(foreign).weights["type_embedding.weight"]
    assert found.shape == (TYPES, WIDTH)
    torch.testing.assert_close(found, weights["embeddings.token_type_embeddings.weight"] + mean, rtol=0, atol=1e-6)


def test_the_configuration_is_that_of_the_bert(foreign: ForeignEncoder) -> None:
    config = as_roformer(foreign).config
    assert isinstance(config, RoFormerConfig)
    assert (config.num_heads, config.num_layers, config.intermediate_size) == (HEADS, LAYERS, INNER)
    assert (config.hidden_size, config.embedding_size, config.layer_norm_eps) == (WIDTH, WIDTH, 1e-12)
    assert (config.activation, config.rotary_value, config.num_token_types) == ("gelu", False, TYPES)


def test_a_roformer_stays_what_it_is(foreign: ForeignEncoder) -> None:
    roformer = as_roformer(foreign)
    assert as_roformer(roformer) is roformer


def test_another_architecture_is_refused(foreign: ForeignEncoder) -> None:
    other = replace(foreign, config=HuggingFaceConfig(model_type="electra"))
    with pytest.raises(ConfigError, match="type 'electra', expected 'bert' or 'roformer' to make a RoFormer of"):
        as_roformer(other)


def test_an_activation_that_we_do_not_have_is_refused(foreign: ForeignEncoder) -> None:
    assert isinstance(foreign.config, HuggingFaceConfig)
    config = replace(foreign.config, config={**foreign.config.config, "hidden_act": "gelu_new"})
    with pytest.raises(ConfigError, match="found 'gelu_new', expected 'gelu' or 'relu'"):
        as_roformer(replace(foreign, config=config))
