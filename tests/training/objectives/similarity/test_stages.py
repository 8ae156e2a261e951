"""What each stage of similar sentences comes to; the losses of a teacher and of labels.

Shapes: N rows, L tokens, E and F widths of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ner_service.bundle import Bundle
from ner_service.errors import ConfigError, MissingHeadError
from ner_service.model.batch import pad
from ner_service.recognizer import Recognizer
from tests.training.cached_steps import relative
from tests.training.objectives.similarity.paired import (
    INFERRED,
    LABELLED,
    TEXTS,
    Case,
    case,
    gradient_of,
    gradient_of_one_graph,
    paired_batch,
    parameters,
    rows_of,
)
from training.config import SimilarityConfig
from training.data.pairs import INFERENCES, Pair
from training.data.raw import RawCorpus
from training.objectives.similarity import objective as objective_module
from training.objectives.similarity.objective import within_kind
from training.objectives.similarity.rows import Chunk

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
    losses = train(trained, 60)
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
    unit_NF = torch.from_numpy(Recognizer.load(folder, "cpu").vectors(TEXTS))
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
    """Similarity is told by the first two logits."""
    trained = case(SimilarityConfig(stage="supervised", noise=1.0), raw=RawCorpus(all_pairs=LABELLED))
    batch = trained.objective.steps(0)[0]
    labels = {(pair.first, pair.second): int(pair.alike) for pair in LABELLED}
    rows, total = rows_of(batch), 0.0
    assert trained.objective.extra is not None
    for first, second in zip(rows[0::2], rows[1::2], strict=True):
        u, v = (
            trained.model.embed(pad([trained.setup.tokenizer.encode(row.sentence).token_ids], 0))[0]
            for row in (first, second)
        )
        logits = trained.objective.extra(torch.cat([u, v, (u - v).abs()]))[:2]
        total -= float(logits.log_softmax(0)[labels[first.sentence, second.sentence]].detach())
    assert trained.objective.loss(batch).item() == pytest.approx(total / (len(rows) // 2), rel=1e-10)
    assert not any(row.target for row in rows)


BOTH = RawCorpus(all_pairs=(*LABELLED, *INFERRED))


def is_inference(batch: Sequence[Chunk]) -> bool:
    """The kind of a batch; all of its pairs are of it."""
    [kind] = {label >= 2 for chunk in batch for label in chunk.labels}
    return kind


def test_kinds_take_turns() -> None:
    """16 pairs of similarity in 4 batches or more, 9 of inference in fewer, which come round again."""
    config = SimilarityConfig(stage="supervised", batch_pairs=4, chunk_pairs=3)
    steps = case(config, raw=BOTH).objective.steps(0)
    kinds = [is_inference(step) for step in steps]
    assert len(kinds) >= 8
    assert kinds == [False, True] * (len(kinds) // 2)


def test_contrast_does_not_part_the_kinds() -> None:
    """Must fail otherwise: pairs that are alike are one kind, whatever they were labelled with."""
    raw = RawCorpus(all_pairs=(*LABELLED, *INFERRED))
    [step] = case(WHOLE, raw=raw).objective.steps(0)
    assert sorted(label for chunk in step for label in chunk.labels) == [1] * 8 + [2] * 3


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("masked", [True, False])
def test_a_pair_moves_only_the_classes_of_its_kind(
    inference: bool, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unmasked is the must-fail twin."""
    if not masked:
        monkeypatch.setattr(objective_module, "within_kind", lambda logits_PC, label_P: logits_PC)
    trained = case(SimilarityConfig(stage="supervised"), raw=BOTH)
    [step] = [step for step in trained.objective.steps(0) if is_inference(step) == inference][:1]
    gradient_of(trained, step)
    assert trained.objective.extra is not None
    [weight] = trained.objective.extra.parameters()
    assert weight.grad is not None
    own = slice(2, None) if inference else slice(0, 2)
    other = slice(0, 2) if inference else slice(2, None)
    assert weight.grad[own].abs().amax(-1).min() > 1e-4
    assert (weight.grad[other].abs().max() == 0.0) == masked


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_logits_of_the_other_kind_are_as_good_as_impossible(dtype: torch.dtype) -> None:
    logits_PC = torch.arange(10, dtype=dtype).reshape(2, 5)
    least = torch.finfo(dtype).min
    found = within_kind(logits_PC, torch.tensor([1, 4]))
    assert found.tolist() == [[0, 1, least, least, least], [least, least, 7, 8, 9]]
    assert found.softmax(-1)[0, 2:].tolist() == [0, 0, 0]
    assert found.softmax(-1)[1, :2].tolist() == [0, 0]


def test_the_loss_of_inference_is_over_its_three_classes() -> None:
    trained = case(SimilarityConfig(stage="supervised"), raw=RawCorpus(all_pairs=INFERRED))
    [step] = trained.objective.steps(0)
    assert trained.objective.extra is not None
    total = 0.0
    for pair in INFERRED:
        u, v = (
            trained.model.embed(pad([trained.setup.tokenizer.encode(sentence).token_ids], 0))[0]
            for sentence in (pair.first, pair.second)
        )
        logits = trained.objective.extra(torch.cat([u, v, (u - v).abs()]))[2:]
        assert isinstance(pair.label, str)
        total -= float(logits.log_softmax(0)[INFERENCES.index(pair.label)].detach())
    assert trained.objective.loss(step).item() == pytest.approx(total / len(INFERRED), rel=1e-10)


def num_right(trained: Case, pairs: Sequence[Pair]) -> int:
    """How many pairs have their own label as the most likely one of their kind."""
    trained.model.eval()
    count = 0
    for chunk in trained.objective._chunks(pairs, ""):
        with torch.no_grad():
            vectors_NE = trained.model.embed(pad([row.source for row in chunk.rows], 0))
            u, v = vectors_NE[0::2], vectors_NE[1::2]
            assert trained.objective.extra is not None
            logits_PC = trained.objective.extra(torch.cat([u, v, (u - v).abs()], -1))
        label_P = torch.tensor(chunk.labels)
        count += int((within_kind(logits_PC, label_P).argmax(-1) == label_P).sum())
    return count


def test_both_kinds_are_learnt() -> None:
    config = SimilarityConfig(stage="supervised", size=32, batch_pairs=8, chunk_pairs=8)
    trained = case(config, raw=BOTH, dtype=torch.float32)
    kinds: tuple[Sequence[Pair], ...] = (LABELLED, INFERRED)
    assert all(num_right(trained, pairs) < len(pairs) for pairs in kinds)
    trained.model.train()
    train(trained, 30, lr=1e-2)
    assert [num_right(trained, pairs) for pairs in kinds] == [len(LABELLED), len(INFERRED)]


def test_only_labels_need_parameters_of_their_own() -> None:
    assert case(WHOLE).objective.extra is None
    extra = case(SimilarityConfig(stage="supervised", size=8), raw=RawCorpus(all_pairs=LABELLED)).objective.extra
    assert extra is not None
    assert {name: tuple(parameter.shape) for name, parameter in extra.named_parameters()} == {"weight": (5, 24)}


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
