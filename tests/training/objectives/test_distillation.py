"""Distillation: its loss by hand, what it leaves alone, and which teachers it refuses."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from ner_service.bundle import Bundle, Manifest
from ner_service.errors import ConfigError
from ner_service.model.batch import pad
from ner_service.model.config import EncoderConfig, Heads, HuggingFaceConfig, ModelConfig, RoFormerConfig
from ner_service.model.encoders import Encoder
from ner_service.model.text_model import TextModel
from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import LabelSet
from training.config import DataConfig, DistillationConfig, ModelSection, RunConfig
from training.data.alignment import ALONE, Passage, Reading
from training.data.raw import RawCorpus
from training.data.sources import Corpus
from training.data.tokenizer_training import train_tokenizer
from training.objectives.distillation import DistillationObjective
from training.preparation import Setup

TEXTS = (
    "The ferry to Lune was late, and nobody minded.",
    "渡船晚了半个钟头，岸上的人都不着急。",
    "Mirek keeps bees behind the school.",
    "学校后面的山坡上养着蜜蜂。",
    "It rained on the market at Oster until noon.",
)
RAW = RawCorpus(fixed=TEXTS, dev_fraction=0.3)
WORDS = ("ferry market bees", "school bees ferry noon", "market noon school", "noon ferry rain", "rain market")
NO_MERGES = 151
"""Room for the special tokens, ASCII and its letters inside words: 5, 94 and 52."""


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_tokenizer(TEXTS, vocab_size=300, min_frequency=1)


def roformer(tokenizer: TextTokenizer, num_layers: int, hidden_size: int = 16) -> RoFormerConfig:
    return RoFormerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=2,
        intermediate_size=2 * hidden_size,
        dropout=0.0,
        attention_dropout=0.0,
    )


def bert(tokenizer: TextTokenizer, num_layers: int, max_positions: int = 64) -> HuggingFaceConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": num_layers, "num_attention_heads": 2, "intermediate_size": 32}
    return HuggingFaceConfig(
        model_type="bert",
        config={**sizes, "vocab_size": tokenizer.vocab_size, "max_position_embeddings": max_positions},
    )


def save_teacher(folder: Path, config: EncoderConfig, tokenizer: TextTokenizer, seed: int = 1) -> TextModel:
    """A bundle of an encoder with random weights; its model, for comparison."""
    torch.manual_seed(seed)
    model = TextModel(ModelConfig(encoder=config, heads=Heads()), 0).eval()
    manifest = Manifest(name="teacher", labels=(), thresholds={}, model=model.config)
    Bundle(manifest=manifest, tokenizer=tokenizer, weights=dict(model.state_dict())).save(folder / "teacher")
    return model


def setup_of(
    folder: Path,
    tokenizer: TextTokenizer,
    num_layers: int = 2,
    weights: dict[str, Tensor] | None = None,
    raw: RawCorpus = RAW,
) -> Setup:
    run = RunConfig(
        name="small", data=DataConfig(texts=("in memory",)), model=ModelSection(encoder={"kind": "roformer"})
    )
    return Setup(
        run=run,
        corpus=Corpus(labels=LabelSet(()), train=(), dev=(), sha256="", raw=raw),
        tokenizer=tokenizer,
        config=ModelConfig(encoder=roformer(tokenizer, num_layers), heads=Heads()),
        weights=weights or {},
        folder=folder,
    )


def objective_of(setup: Setup, **config: object) -> tuple[DistillationObjective, TextModel]:
    model = setup.build_model()
    settings = DistillationConfig(teacher="teacher", batch_tokens=96, max_tokens=32, **config)  # type: ignore[arg-type]
    return DistillationObjective(setup, model, Accelerator(cpu=True), settings), model


def rows(tokenizer: TextTokenizer) -> list[array[int]]:
    return [array("i", encoding.token_ids) for encoding in tokenizer.encode_batch(TEXTS[:3])]


def passages(tokenizer: TextTokenizer) -> list[Passage]:
    """The same rows for both, every token a part."""
    readings = (Reading(row, array("i", range(len(row)))) for row in rows(tokenizer))
    return [Passage(reading, reading) for reading in readings]


def states(model: TextModel, row: array[int]) -> list[Tensor]:
    """The hidden states [L, D] that leave each layer, for one text alone."""
    return [state_BLD[0] for state_BLD in cast(Encoder, model.encoder).states(pad([row], 0))][1:]


@pytest.mark.parametrize("kind", [roformer, bert])
def test_the_loss_is_the_formula(
    tmp_path: Path, tokenizer: TextTokenizer, kind: type[RoFormerConfig] | type[HuggingFaceConfig]
) -> None:
    teacher = save_teacher(tmp_path, kind(tokenizer, 4), tokenizer)  # type: ignore[call-arg, misc]
    objective, model = objective_of(setup_of(tmp_path, tokenizer))
    measured = [
        torch.cat([states(teacher, array("i", ids))[layer] for ids in _learnt(objective)]).std(0) for layer in (1, 3)
    ]
    by_hand = 0.0
    for row in rows(tokenizer):
        own, others = states(model, row), states(teacher, row)
        for weight, number, layer in ((1, 0, 1), (2, 1, 3)):
            error = ((own[number] - others[layer]) / measured[number]) ** 2
            by_hand += weight / 3 * float(error.detach().sum()) / 16
    assert float(objective.loss(passages(tokenizer)).detach()) == pytest.approx(by_hand, rel=1e-4)


def test_a_teacher_may_read_words_where_the_run_reads_letters(tmp_path: Path) -> None:
    """By hand: each word's mean state against that of the teacher's only token for it, and the special tokens'."""
    letters, words = (train_tokenizer(WORDS, vocab_size=size, min_frequency=1) for size in (NO_MERGES, 300))
    teacher = save_teacher(tmp_path, roformer(words, 2), words)
    objective, model = objective_of(setup_of(tmp_path, letters, raw=RawCorpus(fixed=WORDS, dev_fraction=0.3)))
    (passage, *_) = (one for step in objective.steps(0) for batch in step for one in batch)
    text = next(text for text in WORDS if tuple(words.encode(text).token_ids) == tuple(passage.other.token_ids))
    spelt = [1, *map(len, text.split()), 1]
    assert (len(passage.own.token_ids), len(passage.other.token_ids)) == (sum(spelt), len(spelt))
    assert passage.own.num_parts == len(spelt) < sum(spelt)
    by_hand = 0.0
    for weight, layer in ((1, 0), (2, 1)):
        own = states(model, passage.own.token_ids)[layer].split(spelt)
        others = states(teacher, passage.other.token_ids)[layer]
        for of_letters, of_word in zip(own, others, strict=True):
            error = ((of_letters.mean(0) - of_word) / objective.deviations[layer]) ** 2
            by_hand += weight / 3 * float(error.detach().mean())
    assert float(objective.loss([passage]).detach()) == pytest.approx(by_hand, rel=1e-4)


def test_long_texts_are_cut_and_a_teacher_reads_what_it_can(tmp_path: Path) -> None:
    letters, words = (train_tokenizer(WORDS, vocab_size=size, min_frequency=1) for size in (NO_MERGES, 300))
    long = tuple(" ".join(times * WORDS) for times in range(3, 7))
    save_teacher(tmp_path, bert(letters, 4, max_positions=32), letters)
    setup = setup_of(tmp_path, words, raw=RawCorpus(fixed=long, dev_fraction=0.5))
    objective, _ = objective_of(setup)
    cuts = [one for step in objective.steps(0) for batch in step for one in batch]
    learnt = setup.corpus.raw.texts(0)
    assert len(cuts) > len(learnt) > 0
    inner = [token for one in cuts for token in one.own.token_ids[1:-1]]
    assert sorted(inner) == sorted(token for text in learnt for token in words.encode(text).token_ids[1:-1])
    assert {len(one.other.token_ids) for one in cuts} == {32}, "of its letters so many"
    assert all(one.own.parts[-1] == ALONE for one in cuts), "it has not read the end"


def _learnt(objective: DistillationObjective) -> list[tuple[int, ...]]:
    """The tokens of the texts to learn from, those long enough in pieces as they are learnt."""
    return [tuple(one.own.token_ids) for step in objective.steps(0) for batch in step for one in batch]


def test_a_copy_has_nothing_to_learn_and_another_has(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    teacher = save_teacher(tmp_path, roformer(tokenizer, 2), tokenizer)
    copied, _ = objective_of(setup_of(tmp_path, tokenizer, weights=dict(teacher.state_dict())))
    fresh, _ = objective_of(setup_of(tmp_path, tokenizer))
    assert copied.dev_loss() == pytest.approx(0.0, abs=1e-8)
    assert fresh.dev_loss() > 0.1


def test_nothing_is_dropped_and_dropout_comes_back(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    teacher = save_teacher(tmp_path, roformer(tokenizer, 2), tokenizer)
    setup = setup_of(tmp_path, tokenizer, weights=dict(teacher.state_dict()))
    dropping = replace(roformer(tokenizer, 2), dropout=0.5, attention_dropout=0.5)
    objective, model = objective_of(replace(setup, config=replace(setup.config, encoder=dropping)))
    model.train()
    assert float(objective.loss(passages(tokenizer)).detach()) == pytest.approx(0.0, abs=1e-6)
    row = rows(tokenizer)[0]
    assert not torch.equal(states(model, row)[-1], states(model, row)[-1]), "the others still drop"


def test_layers_may_be_named(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    save_teacher(tmp_path, roformer(tokenizer, 6), tokenizer)
    evenly, _ = objective_of(setup_of(tmp_path, tokenizer, num_layers=3))
    named, _ = objective_of(setup_of(tmp_path, tokenizer, num_layers=3), layers=(1, 3, 6))
    assert (evenly.layers, named.layers) == ((2, 4, 6), (1, 3, 6))
    assert float(evenly.loss(passages(tokenizer)).detach()) != float(named.loss(passages(tokenizer)).detach())


def test_token_embeddings_of_the_teacher_stay_and_others_learn(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    teacher = save_teacher(tmp_path, roformer(tokenizer, 2), tokenizer)
    shared = {"encoder.token_embedding.weight": teacher.state_dict()["encoder.token_embedding.weight"]}
    setup = setup_of(tmp_path, tokenizer)
    fresh, own = objective_of(setup)
    model = setup.build_model()
    model.load_state_dict(shared, strict=False)
    config = DistillationConfig(teacher="teacher", max_tokens=32)
    shares = DistillationObjective(setup, model, Accelerator(cpu=True), config)
    for objective in (fresh, shares):
        objective.backward([passages(tokenizer)], 1.0)
    assert cast(Encoder, model.encoder).token_embedding.weight.grad is None
    assert cast(Encoder, own.encoder).token_embedding.weight.grad is not None
    assert all(parameter.grad is None for parameter in shares.teacher.parameters())


def test_batches_add_up_whatever_their_padding(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    save_teacher(tmp_path, roformer(tokenizer, 4), tokenizer)
    objective, _ = objective_of(setup_of(tmp_path, tokenizer))
    together = float(objective.loss(passages(tokenizer)).detach())
    assert len({len(row) for row in rows(tokenizer)}) > 1
    assert sum(float(objective.loss([one]).detach()) for one in passages(tokenizer)) == pytest.approx(
        together, rel=1e-4
    )


def test_learns(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    save_teacher(tmp_path, roformer(tokenizer, 4), tokenizer)
    objective, model = objective_of(setup_of(tmp_path, tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = objective.dev_loss()
    for epoch in range(30):
        for step in objective.steps(epoch):
            objective.backward(step, 1.0 / sum(map(objective.count, step)))
            optimizer.step()
            optimizer.zero_grad()
    assert objective.dev_loss() < 0.8 * before


def test_teachers_that_do_not_fit_are_refused(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    setup = setup_of(tmp_path, tokenizer)
    save_teacher(tmp_path, roformer(tokenizer, 4, hidden_size=24), tokenizer)
    with pytest.raises(ConfigError, match="found hidden states 24 wide, expected 16"):
        objective_of(setup)
    save_teacher(tmp_path, roformer(tokenizer, 4), tokenizer)
    with pytest.raises(ConfigError, match=r"found \[2, 5\], expected one of the teacher's 4 layers for each of 2"):
        objective_of(setup, layers=(2, 5))
    save_teacher(tmp_path, bert(tokenizer, 4, max_positions=31), tokenizer)
    with pytest.raises(ConfigError, match="found one that reads 31 tokens, expected max_tokens = 32 or more"):
        objective_of(setup)
    save_teacher(tmp_path, roformer(tokenizer, 1), tokenizer)
    with pytest.raises(ConfigError, match=r"found \[0, 1\], expected one of the teacher's 1 layers"):
        objective_of(setup)


@pytest.mark.parametrize("layers", [(2, 1), (1, 1), (0, 2), ()])
def test_layers_rise_from_1(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"layers: found .*, expected rising numbers from 1 on"):
        DistillationConfig(teacher="teacher", layers=layers)


def test_nothing_to_learn_or_to_measure_is_refused(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    save_teacher(tmp_path, roformer(tokenizer, 4), tokenizer)
    setup = setup_of(tmp_path, tokenizer)
    for share, match in ((0.0, "found no text held out"), (0.999999, "found no text in the first epoch")):
        corpus = replace(setup.corpus, raw=RawCorpus(fixed=TEXTS, dev_fraction=share))
        with pytest.raises(ConfigError, match=match):
            objective_of(replace(setup, corpus=corpus))
