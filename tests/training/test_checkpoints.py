"""Checkpoints saved by transformers, read from a folder: no network, no name of any hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerFast, RoFormerConfig, RoFormerModel

from ner_service.bundle import Bundle
from ner_service.errors import ConfigError
from ner_service.model.batch import pad
from ner_service.model.config import HuggingFaceConfig
from ner_service.model.config import RoFormerConfig as OurConfig
from ner_service.model.encoders import build_encoder
from tests.conftest import SENTENCES
from training.checkpoints.huggingface import load_checkpoint, roformer_weights

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "layer_norm_eps": 1e-6,
}


def save(model: PreTrainedModel, bundle: Bundle, folder: Path) -> Path:
    """The model with the tiny bundle's tokenizer, as transformers saves them."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(bundle.tokenizer.to_json()),
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def roformer(bundle: Bundle, **changes: object) -> RoFormerModel:
    torch.manual_seed(0)
    config = RoFormerConfig(**{**SIZES, "vocab_size": bundle.tokenizer.vocab_size, "embedding_size": 8, **changes})
    model = RoFormerModel(config)
    model.eval()
    return model


def bert(bundle: Bundle) -> BertModel:
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SIZES, vocab_size=bundle.tokenizer.vocab_size))
    model.eval()
    return model


@pytest.mark.parametrize("architecture", [roformer, bert])
def test_an_encoder_is_read_from_a_folder(architecture: Any, tiny_bundle: Bundle, tmp_path: Path) -> None:
    foreign = architecture(tiny_bundle)
    loaded = load_checkpoint(str(save(foreign, tiny_bundle, tmp_path / "checkpoint")))
    assert isinstance(loaded.config, OurConfig if architecture is roformer else HuggingFaceConfig)
    encodings = [loaded.tokenizer.encode(text) for text in SENTENCES]
    assert encodings == [tiny_bundle.tokenizer.encode(text) for text in SENTENCES]
    encoder = build_encoder(loaded.config)
    encoder.load_state_dict(loaded.weights)
    batch = pad([encoding.token_ids for encoding in encodings], loaded.tokenizer.pad_id)
    with torch.no_grad():
        found = encoder.eval()(batch)
        expected = foreign(input_ids=batch.token_ids_BL, attention_mask=batch.valid_BL().long()).last_hidden_state
    for ours, theirs in zip(batch.texts(found), batch.texts(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert not torch.allclose(found[0], build_encoder(loaded.config).eval()(batch)[0], atol=1e-2)


def test_the_configuration_of_a_roformer_is_kept(tiny_bundle: Bundle, tmp_path: Path) -> None:
    foreign = roformer(tiny_bundle, rotary_value=True, hidden_act="relu", hidden_dropout_prob=0.2)
    config = load_checkpoint(str(save(foreign, tiny_bundle, tmp_path / "checkpoint"))).config
    assert config == OurConfig(
        vocab_size=tiny_bundle.tokenizer.vocab_size,
        embedding_size=8,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=24,
        activation="relu",
        dropout=0.2,
        attention_dropout=0.1,
        num_token_types=2,
        layer_norm_eps=1e-6,
        rotary_value=True,
    )


def test_a_foreign_configuration_builds_the_same_encoder_again(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """What the manifest keeps is JSON and enough: no name of a folder or a hub is in it."""
    config = load_checkpoint(str(save(bert(tiny_bundle), tiny_bundle, tmp_path / "checkpoint"))).config
    assert isinstance(config, HuggingFaceConfig)
    assert json.loads(json.dumps(config.config)) == config.config
    assert str(tmp_path) not in json.dumps(config.config)


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.start_from: '/nowhere/at/all' is neither a bundle nor a checkpoint"):
        load_checkpoint("/nowhere/at/all")


def rename_weights(folder: Path, change: Callable[[str], str | None]) -> None:
    """Write a checkpoint's weights under other names; those of no name are left out."""
    weights = load_file(folder / "model.safetensors")
    renamed = {name: tensor for old, tensor in weights.items() if (name := change(old)) is not None}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("architecture", [roformer, bert])
@pytest.mark.parametrize(
    ("change", "first"),
    [
        (lambda name: None if "layer.1." in name else name, "encoder.layer.1.attention.output.LayerNorm.bias"),
        (lambda name: f"backbone.{name}", "embeddings.LayerNorm.bias"),
    ],
)
def test_weights_that_are_not_there_are_named(
    architecture: Any, change: Callable[[str], str | None], first: str, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """Left alone, transformers goes on with random numbers in their place."""
    folder = save(architecture(tiny_bundle), tiny_bundle, tmp_path / "checkpoint")
    rename_weights(folder, change)
    with pytest.raises(ConfigError, match=rf"lacks \d+ weights, '{first}' first, expected all of its encoder's"):
        load_checkpoint(str(folder))


def test_layers_that_the_configuration_knows_nothing_of_are_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = save(bert(tiny_bundle), tiny_bundle, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}), encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"has 16 weights, 'encoder\.layer\.1\..*' first, that its config\.json leaves"
    ):
        load_checkpoint(str(folder))


def test_weights_of_a_kind_that_the_model_leaves_out_are_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """As those of relative positions, which transformers no longer reads; the same words of the configuration."""
    folder = save(bert(tiny_bundle), tiny_bundle, tmp_path / "checkpoint")
    extra = "encoder.layer.0.attention.self.distance_embedding.weight"
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "bert.embeddings.position_ids": torch.arange(4)}, folder / "model.safetensors")
    load_checkpoint(str(folder))
    save_file({**weights, extra: torch.zeros(3, 4)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=f"has 1 weights, '{extra}' first"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(("key", "value"), [("position_embedding_type", "relative_key_query"), ("is_decoder", True)])
def test_an_encoder_of_another_kind_is_refused(key: str, value: object, tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = save(bert(tiny_bundle), tiny_bundle, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, key: value}), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{key}: found {str(value).lower() if value is True else repr(value)}"):
        load_checkpoint(str(folder))


def test_a_pooler_and_the_head_of_another_task_are_none_of_ours(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = save(bert(tiny_bundle), tiny_bundle, tmp_path / "checkpoint")
    rename_weights(folder, lambda name: name.replace("pooler.dense", "classifier"))
    expected = load_checkpoint(str(save(bert(tiny_bundle), tiny_bundle, tmp_path / "whole"))).weights
    found = load_checkpoint(str(folder)).weights
    for name in [name for name in expected if "pooler" not in name]:
        assert torch.equal(found[name], expected[name])


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x80\x04nothing"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_weights_are_a_fault_of_the_checkpoint(
    file: str, content: bytes, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    folder = save(bert(tiny_bundle), tiny_bundle, tmp_path / "checkpoint")
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(content)
    with pytest.raises(ConfigError, match="is neither a bundle nor a checkpoint at hand"):
        load_checkpoint(str(folder))


def test_weights_of_another_size_are_a_fault_of_the_checkpoint(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = save(bert(tiny_bundle), tiny_bundle, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 32}), encoding="utf-8")
    with pytest.raises(ConfigError, match="is neither a bundle nor a checkpoint at hand"):
        load_checkpoint(str(folder))


def test_a_folder_without_a_tokenizer_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Left alone, transformers goes on with five special tokens and reads every text as unknown."""
    folder = save(bert(tiny_bundle), tiny_bundle, tmp_path / "checkpoint")
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"has no tokenizer; expected a tokenizer\.json or a vocabulary"):
        load_checkpoint(str(folder))


def test_a_tokenizer_of_another_model_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = save(roformer(tiny_bundle, vocab_size=40), tiny_bundle, tmp_path / "checkpoint")
    with pytest.raises(ConfigError, match=f"has {tiny_bundle.tokenizer.vocab_size} tokens, expected at most the 40"):
        load_checkpoint(str(folder))


def test_an_activation_that_we_do_not_have_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = save(roformer(tiny_bundle, hidden_act="silu"), tiny_bundle, tmp_path / "checkpoint")
    with pytest.raises(ConfigError, match="hidden_act: found 'silu', expected 'gelu' or 'relu'"):
        load_checkpoint(str(folder))


def test_a_weight_without_a_place_is_refused(tiny_bundle: Bundle) -> None:
    weights = roformer(tiny_bundle).state_dict()
    for name in ("pooler.dense.weight", "encoder.layer.0.extra.weight", "encoder.layer.0.attention.self.extra.weight"):
        with pytest.raises(ConfigError, match=f"found weight '{name}'"):
            roformer_weights({**weights, name: torch.zeros(1)})


def test_an_encoder_without_layers_is_one(tiny_bundle: Bundle) -> None:
    weights = roformer_weights(roformer(tiny_bundle, num_hidden_layers=0).state_dict())
    assert {name.split(".")[0] for name in weights} >= {"token_embedding", "type_embedding", "embedding_norm"}
    assert not any(name.startswith("layers.") for name in weights)
