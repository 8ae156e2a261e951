"""docs/runs.md has every key of a run, with the value that it has where it is left out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ner_service.model.config import HeadConfig, RoFormerConfig
from ner_service.records import structure
from ner_service.types import WindowLimits
from training import config
from training.config import RunConfig

TEXT = (Path(__file__).parents[1] / "docs/runs.md").read_text(encoding="utf-8")
REFERENCE = "\n".join(re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL))
TABLES = {
    "data": config.DataConfig,
    "tokenizer": config.TokenizerConfig,
    "model": config.ModelSection,
    "model.head": HeadConfig,
    "window": WindowLimits,
    "batch": config.BatchConfig,
    "optimizer": config.OptimizerConfig,
    "regularisation": config.RegularisationConfig,
    "objectives": config.ObjectivesConfig,
    "objectives.univae": config.UniVAEConfig,
    "objectives.similarity": config.SimilarityConfig,
    "objectives.masked_language_model": config.MaskedLanguageModelConfig,
    "objectives.distillation": config.DistillationConfig,
}


def table(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    for key in name.split("."):
        value = value[key]
    return dict(value)


def every_key() -> dict[str, Any]:
    """The reference with the keys that are off."""
    return tomllib.loads(re.sub(r"^# (?=\w+ = )", "", REFERENCE, flags=re.MULTILINE))


@pytest.mark.parametrize(("name", "kind"), TABLES.items(), ids=TABLES)
def test_every_key_of_a_table_and_no_other(name: str, kind: type) -> None:
    assert table(every_key(), name).keys() == {field.name for field in fields(kind)}


def test_every_key_of_a_run_and_of_its_encoder() -> None:
    assert every_key().keys() == {field.name for field in fields(RunConfig)}
    encoder = {field.name for field in fields(RoFormerConfig)} - {"vocab_size"}
    assert table(every_key(), "model.encoder").keys() == encoder


def test_the_values_are_those_of_keys_left_out() -> None:
    shown = tomllib.loads(REFERENCE)
    sizes = ("hidden_size", "num_layers", "num_heads", "intermediate_size")
    encoder = shown["model"]["encoder"]
    shown["model"]["encoder"] = bare = {key: encoder[key] for key in sizes}
    with_vocabulary = [structure(RoFormerConfig, {**value, "vocab_size": 9}) for value in (encoder, bare)]
    assert with_vocabulary[0] == with_vocabulary[1]
    objectives = {"univae": {}, "similarity": {}, "masked_language_model": {}, "distillation": {"teacher": "teacher"}}
    least = {
        "name": shown["name"],
        "data": {"train": shown["data"]["train"]},
        "model": {"encoder": bare},
        "objectives": objectives,
    }
    assert structure(RunConfig, shown) == structure(RunConfig, least)
