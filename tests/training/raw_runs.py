"""Runs of `ner-train pretrain` that are small enough for a test: a gzipped text file, pairs, and a teacher."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from ner_service.bundle import Bundle, Manifest
from ner_service.model.config import Heads, ModelConfig, RoFormerConfig
from ner_service.model.text_model import TextModel
from training.config import load_run
from training.preparation import prepare
from training.sample import CHINESE, ENGLISH, sample_documents

# Two ways of asking the same.
QUESTIONS = (
    ("{person}什么时候到{place}？", "{person}几点钟能到{place}？"),
    ("{person}还住在{place}吗？", "{person}搬离{place}了没有？"),
    ("When does {person} reach {place}?", "At what time will {person} be in {place}?"),
    ("Does {person} still live in {place}?", "Has {person} moved away from {place}?"),
)

RUN = """\
name = "raw"
device = "cpu"
epochs = 2

[data]
texts = ["texts.txt.gz"]
pairs = ["pairs.jsonl"]
round_lines = 40
dev_fraction = 0.2

[tokenizer]
vocab_size = 400

[model.encoder]
kind = "roformer"
hidden_size = 32
num_layers = 2
num_heads = 2
intermediate_size = 64
"""

MIXES = {
    "masked_language_model": ("objectives.masked_language_model.weight=1.0",),
    "univae": ("objectives.univae.latent.num_latents=1",),
    "similarity": ("objectives.similarity.size=8", "objectives.similarity.batch_pairs=16"),
    "distillation": (
        "objectives.distillation.teacher=teacher",
        "objectives.distillation.weight=0.01",  # states of random weights hardly differ from token to token
        "tokenizer.file=teacher/tokenizer.json",
    ),
}
MIXES["all"] = tuple(setting for mix in list(MIXES.values()) for setting in mix)


def write_raw_run(folder: Path, num_texts: int = 100) -> Path:
    """A run, its texts and its pairs in a new folder; the path of the run."""
    folder.mkdir(parents=True)
    with gzip.open(folder / "texts.txt.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"{document.text}\n" for document in sample_documents(num_texts))
    lines = (json.dumps({"a": first, "b": second}, ensure_ascii=False) for first, second in question_pairs())
    (folder / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "run.toml").write_text(RUN, encoding="utf-8")
    write_teacher(folder)
    return folder / "run.toml"


def write_teacher(folder: Path) -> None:
    """An encoder twice as deep as that of the run, with random weights, and the tokenizer that the run would train."""
    setup = prepare(load_run(folder / "run.toml", MIXES["masked_language_model"]), folder, folder)
    assert isinstance(setup.config.encoder, RoFormerConfig)
    torch.manual_seed(1)
    model = TextModel(ModelConfig(encoder=replace(setup.config.encoder, num_layers=4), heads=Heads()), 0)
    manifest = Manifest(name="teacher", labels=(), thresholds={}, model=model.config)
    Bundle(manifest=manifest, tokenizer=setup.tokenizer, weights=dict(model.state_dict())).save(folder / "teacher")


def question_pairs() -> Iterator[tuple[str, str]]:
    """Every person and every place in every pair of questions: no sentence twice."""
    for first, second in QUESTIONS:
        words = CHINESE if "？" in first else ENGLISH
        for person, place in product(words["person"], words["place"]):
            yield first.format(person=person, place=place), second.format(person=person, place=place)


def set_raw_options(*settings: str) -> list[str]:
    """`--set` options."""
    return [part for setting in settings for part in ("--set", setting)]
