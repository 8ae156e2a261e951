"""The arm for foreign encoders gives the hidden states of transformers' own model."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from ner_service.errors import ConfigError
from ner_service.model.batch import pack, pad
from ner_service.model.config import HuggingFaceConfig, longest_text
from ner_service.model.encoders import build_encoder
from ner_service.model.encoders.huggingface import HuggingFaceEncoder

SMALL: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "pad_token_id": 1,
}
ENCODERS = {
    "bert": SMALL,
    "roberta": {**SMALL, "max_position_embeddings": 40},
    "modernbert": {
        **SMALL,
        "global_attn_every_n_layers": 2,
        "local_attention": 4,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
}
TEXTS = ([5, 9, 2, 17, 4, 11, 8], [3, 7, 2], [12])


def encoder(model_type: str) -> HuggingFaceEncoder:
    torch.manual_seed(0)
    config = HuggingFaceConfig(model_type=model_type, config=ENCODERS[model_type])
    return HuggingFaceEncoder(config).eval().requires_grad_(False)


@pytest.mark.parametrize("model_type", list(ENCODERS))
def test_hidden_states_equal_those_of_transformers(model_type: str) -> None:
    ours = encoder(model_type)
    foreign = AutoModel.from_config(AutoConfig.for_model(model_type, **ENCODERS[model_type])).eval()
    foreign.load_state_dict({name.removeprefix("model."): tensor for name, tensor in ours.state_dict().items()})
    batch = pad(TEXTS, pad_id=1)
    with torch.no_grad():
        expected = foreign(input_ids=batch.token_ids_BL, attention_mask=batch.valid_BL().long()).last_hidden_state
    assert torch.equal(ours(batch), expected)
    assert ours.hidden_size == expected.shape[-1]


@pytest.mark.parametrize("model_type", list(ENCODERS))
def test_padding_and_neighbours_do_not_change_hidden_states(model_type: str) -> None:
    ours = encoder(model_type)
    batch = pad(TEXTS, pad_id=1)
    for token_ids, hidden_LD in zip(TEXTS, batch.texts(ours(batch)), strict=True):
        torch.testing.assert_close(hidden_LD, ours(pad([token_ids], 1))[0], rtol=0, atol=1e-5)


def test_packed_batches_are_refused() -> None:
    with pytest.raises(TypeError, match="padded"):
        encoder("bert")(pack(TEXTS))


def test_an_encoder_with_a_decoder_is_refused() -> None:
    config = HuggingFaceConfig(model_type="t5", config={"vocab_size": 30, "d_model": 16, "num_layers": 1})
    with pytest.raises(ConfigError, match=r"model\.encoder\.model_type: found 't5'"):
        HuggingFaceEncoder(config)


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ner_service.model.encoders.huggingface", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'ner-service\[huggingface\]'"):
        build_encoder(HuggingFaceConfig(model_type="bert"))


@pytest.mark.parametrize(
    "model_type", ["bert", "roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "data2vec-text"]
)
def test_the_longest_text_is_read_and_one_token_more_is_not(model_type: str) -> None:
    config = {**SMALL, "max_position_embeddings": 40, "pad_token_id": 1}
    if model_type == "longformer":
        config["attention_window"] = 4
    foreign = HuggingFaceConfig(model_type=model_type, config=config)
    longest = longest_text(foreign)
    assert longest == (40 if model_type == "bert" else 38)
    ours = HuggingFaceEncoder(foreign).eval().requires_grad_(False)
    assert ours(pad([[5] * longest], pad_id=1)).shape == (1, longest, 16)
    with pytest.raises((IndexError, RuntimeError)):
        ours(pad([[5] * (longest + 1)], pad_id=1))
