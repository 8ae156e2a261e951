"""What each stage of similar sentences comes to; the losses of a teacher and of labels.

Shapes: N rows, L tokens, E and F widths of the vectors.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ner_service.bundle import Bundle
from ner_service.errors import ConfigError, MissingHeadError
from ner_service.model.batch import pad
from ner_service.recognizer import Recognizer
from tests.training.objectives.similarity.paired import (
    LABELLED,
    TEXTS,
    Case,
    case,
    gradient_of,
    gradient_of_one_graph,
    paired_batch,
    parameters,
    relative,
    rows_of,
)
from training.config import SimilarityConfig
from training.data.raw import RawCorpus
from training.objectives.similarity.teacher import sentence_vectors

DROPOUT = 0.2
WHOLE = SimilarityConfig()


# ---- what is learnt


def train(trained: Case, num_epochs: int, lr: float = 3e-3) -> list[float]:
    """The loss of each epoch's first step."""
    optimizer = torch.optim.AdamW(parameters(trained), lr=lr)
    losses = []
    for epoch in range(num_epochs):
        for number, step in enumerate(trained.objective.steps(epoch)):
            told = trained.objective.backward(step, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if number == 0:
                losses.append(told)
    return losses


def cosines(trained: Case) -> Tensor:
    """Of all of `TEXTS`, as they are served: [N, N]."""
    trained.model.eval()
    with torch.no_grad():
        token_ids = [encoding.token_ids for encoding in trained.setup.tokenizer.encode_batch(TEXTS)]
        unit_NE = functional.normalize(trained.model.embed(pad(token_ids, 0)), dim=-1)
    return unit_NE @ unit_NE.T


def num_nearest(trained: Case) -> int:
    """How many of `TEXTS` have their paraphrase as nearest neighbour."""
    nearest_N = (cosines(trained) - 2 * torch.eye(len(TEXTS))).argmax(-1)
    return int((nearest_N == (torch.arange(len(TEXTS)) ^ 1)).sum())


@pytest.mark.parametrize("generation", [0.0, 1.0])
def test_contrast_makes_paraphrases_nearest_neighbours(generation: float) -> None:
    trained = case(SimilarityConfig(size=32, generation=generation, chunk_pairs=4), dropout=0.1, dtype=torch.float32)
    assert num_nearest(trained) < len(TEXTS) * 3 // 4
    trained.model.train()
    losses = train(trained, 45)
    assert losses[-1] < 0.6 * losses[0]
    assert num_nearest(trained) == len(TEXTS)


def test_generation_learns_to_write_the_other_sentence() -> None:
    """The most likely token after each one is the right one, for most."""
    trained = case(SimilarityConfig(noise=0.0), dtype=torch.float32)
    train(trained, 120, lr=1e-2)
    rows = rows_of(trained.objective.steps(0)[0])
    batch = paired_batch(rows)
    assert trained.model.language_model is not None
    assert batch.segment_BL is not None
    target_NL = batch.segment_BL[:, 1:].bool()
    with torch.no_grad():
        before = trained.objective.encoder(batch)[:, :-1][target_NL]
        guessed = trained.model.language_model(before, trained.objective.encoder.token_embedding.weight).argmax(-1)
    assert (guessed == batch.token_ids_BL[:, 1:][target_NL]).double().mean() > 0.75


def test_views_of_texts_keep_sentences_apart() -> None:
    """Without any pair: views that differ by dropout alone are told from those of other sentences."""
    config = SimilarityConfig(size=32, generation=0.0, noise=0.0)
    trained = case(config, raw=RawCorpus(fixed=TEXTS), dropout=0.1, dtype=torch.float32)
    num = len(TEXTS)
    before = float((cosines(trained).sum() - num) / (num * num - num))
    trained.model.train()
    train(trained, 40)
    assert float((cosines(trained).sum() - num) / (num * num - num)) < before - 0.1


# ---- distillation


@pytest.fixture(scope="module")
def teacher(tiny_embedding_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers") / "teacher"
    tiny_embedding_bundle.save(folder)
    return folder


def distilled(teacher: Path, **settings: object) -> SimilarityConfig:
    return SimilarityConfig(stage="distillation", teacher=str(teacher), **settings)  # type: ignore[arg-type]


def teacher_cosines(folder: Path) -> Tensor:
    unit_NF = torch.from_numpy(sentence_vectors(Recognizer.load(folder, "cpu"), TEXTS))
    return unit_NF @ unit_NF.T


def test_distillation_pulls_the_cosines_to_those_of_the_teacher(teacher: Path) -> None:
    expected = teacher_cosines(teacher)
    assert expected.std() > 0.1
    trained = case(distilled(teacher, size=32, generation=0.0, noise=0.0), dtype=torch.float32)
    before = (cosines(trained) - expected).square().mean()
    train(trained, 80)
    assert (cosines(trained) - expected).square().mean() < 0.1 * before


def test_the_distillation_loss_is_the_formula(teacher: Path) -> None:
    """The teacher reads clean sources, whatever the noise; 100 times the mean over all pairs of rows."""
    trained = case(distilled(teacher, generation=0.0, noise=1.0))
    batch = trained.objective.steps(0)[0]
    rows = rows_of(batch)
    unit_NE = functional.normalize(trained.model.embed(pad([row.source for row in rows], 0)), dim=-1)
    order = [TEXTS.index(row.sentence) for row in rows]
    expected = 100 * (unit_NE @ unit_NE.T - teacher_cosines(teacher)[order][:, order]).square().mean()
    assert trained.objective.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("chunk_pairs", [3, 32])
def test_distillation_in_chunks_has_the_gradient_of_one_graph(teacher: Path, chunk_pairs: int) -> None:
    trained = case(distilled(teacher, chunk_pairs=chunk_pairs), dropout=DROPOUT)
    batch = trained.objective.steps(0)[0]
    torch.manual_seed(3)
    expected, loss = gradient_of_one_graph(trained, batch)
    torch.manual_seed(3)
    found, told = gradient_of(trained, batch)
    assert relative(found, expected) < 1e-10
    assert told == pytest.approx(loss, rel=1e-10)


def test_a_teacher_without_vectors_is_refused(tiny_bundle_folder: Path) -> None:
    with pytest.raises(MissingHeadError, match="no 'embedding' head"):
        case(distilled(tiny_bundle_folder))


# ---- labels


def test_labels_are_learnt() -> None:
    config = SimilarityConfig(stage="supervised", size=32, chunk_pairs=4, batch_pairs=8)
    trained = case(config, raw=RawCorpus(all_pairs=LABELLED), dtype=torch.float32)
    losses = train(trained, 30, lr=1e-2)
    assert losses[0] > 0.5
    assert losses[-1] < 0.1
    [near, far] = [
        [float(cosines(trained)[TEXTS.index(p.first), TEXTS.index(p.second)]) for p in LABELLED if p.label == label]
        for label in (1.0, 0.0)
    ]
    assert sum(near) / len(near) > sum(far) / len(far)


def test_the_label_loss_is_the_formula() -> None:
    trained = case(SimilarityConfig(stage="supervised", noise=1.0), raw=RawCorpus(all_pairs=LABELLED))
    batch = trained.objective.steps(0)[0]
    labels = {(pair.first, pair.second): int(pair.label or 0) for pair in LABELLED}
    rows, total = rows_of(batch), 0.0
    assert trained.objective.extra is not None
    for first, second in zip(rows[0::2], rows[1::2], strict=True):
        u, v = (
            trained.model.embed(pad([trained.setup.tokenizer.encode(row.sentence).token_ids], 0))[0]
            for row in (first, second)
        )
        logits = trained.objective.extra(torch.cat([u, v, (u - v).abs()]))
        total -= float(logits.log_softmax(0)[labels[first.sentence, second.sentence]].detach())
    assert trained.objective.loss(batch).item() == pytest.approx(total / (len(rows) // 2), rel=1e-10)
    assert not any(row.target for row in rows)


def test_only_labels_need_parameters_of_their_own() -> None:
    assert case(WHOLE).objective.extra is None
    extra = case(SimilarityConfig(stage="supervised", size=8), raw=RawCorpus(all_pairs=LABELLED)).objective.extra
    assert extra is not None
    assert {name: tuple(parameter.shape) for name, parameter in extra.named_parameters()} == {"weight": (2, 24)}


# ---- a foreign encoder


def test_a_foreign_encoder_learns_vectors() -> None:
    trained = case(SimilarityConfig(generation=0.0, chunk_pairs=3), foreign=True, dtype=torch.float32)
    losses = train(trained, 30)
    assert losses[-1] < 0.7 * losses[0]


def test_a_foreign_encoder_in_chunks_has_the_gradient_of_one_graph() -> None:
    trained = case(SimilarityConfig(generation=0.0, chunk_pairs=3), foreign=True, dropout=DROPOUT)
    batch = trained.objective.steps(0)[0]
    torch.manual_seed(3)
    expected, _ = gradient_of_one_graph(trained, batch)
    torch.manual_seed(3)
    assert relative(gradient_of(trained, batch)[0], expected) < 1e-10


def test_a_foreign_encoder_writes_nothing() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.similarity\.generation: found the encoder HuggingFaceEncoder"):
        case(WHOLE, foreign=True)
