"""The objective of similar sentences: its losses, its gradient in chunks and processes, and what it comes to. In fp64.

Shapes: N rows, L tokens, D hidden, E width of a vector, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ner_service.bundle import Bundle
from ner_service.errors import ConfigError, MissingHeadError
from ner_service.model.batch import Batch, PaddingMask, pad, pad_pairs
from ner_service.recognizer import Recognizer
from tests.training.launch import launch
from tests.training.objectives.similarity.paired import (
    PAIRS,
    SHARED,
    TEXTS,
    Case,
    case,
    gradient_of,
    gradient_of_one_graph,
    parameters,
)
from training.config import SimilarityConfig
from training.data.pairs import Pair
from training.data.raw import RawCorpus
from training.losses import pair_contrast
from training.objectives.similarity.rows import Chunk, Row
from training.objectives.similarity.teacher import sentence_vectors

DROPOUT = 0.2
WHOLE = SimilarityConfig()
LABELLED = tuple(Pair(pair.first, pair.second, 1.0) for pair in PAIRS) + tuple(
    Pair(PAIRS[i].first, PAIRS[i - 1].second, 0.0) for i in range(len(PAIRS))
)


def chunked(config: SimilarityConfig, num_pairs: int) -> SimilarityConfig:
    return replace(config, chunk_pairs=num_pairs)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def rows_of(batch: Sequence[Chunk]) -> list[Row]:
    return [row for chunk in batch for row in chunk.rows]


# ---- S1, S2: who sees whom


def paired_batch(rows: Sequence[Row]) -> Batch:
    return pad_pairs([(row.source, row.target) for row in rows], 0)


def fully_seen(batch: Batch) -> Batch:
    """The same rows, every token seen by every other."""
    return replace(batch, mask=PaddingMask(batch.valid_BL()))


@pytest.fixture
def read() -> tuple[Case, list[Row]]:
    trained = case(WHOLE)
    trained.model.eval()
    return trained, rows_of(trained.objective.steps(0)[0])


def test_s1_the_vector_is_that_of_the_source_alone(read: tuple[Case, list[Row]]) -> None:
    trained, rows = read
    alone_NE = trained.model.embed(pad([row.source for row in rows], 0))
    torch.testing.assert_close(trained.model.embed(paired_batch(rows)), alone_NE, rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(trained.objective._encode(step_of(trained), None).vectors_NE, alone_NE)


def step_of(trained: Case) -> Chunk:
    """The only chunk of the first step."""
    chunk: Chunk
    [chunk] = trained.objective.steps(0)[0]
    return chunk


def test_s1_must_fail_where_the_source_sees_the_target(read: tuple[Case, list[Row]]) -> None:
    trained, rows = read
    alone_NE = trained.model.embed(pad([row.source for row in rows], 0))
    assert (trained.model.embed(fully_seen(paired_batch(rows))) - alone_NE).abs().max() > 1e-2


@pytest.mark.parametrize("at", [0, 3])
def test_s2_no_token_sees_what_is_written_after_it(read: tuple[Case, list[Row]], at: int) -> None:
    trained, rows = read
    row = max(rows, key=lambda row: len(row.target))
    changed = replace(row, target=(*row.target[:at], (row.target[at] + 1) % 50, *row.target[at + 1 :]))
    start = len(row.source) + at

    def logits(of: Row, shape: Callable[[Batch], Batch]) -> Tensor:
        assert trained.model.language_model is not None
        hidden_LD = trained.objective.encoder(shape(paired_batch([of])))[0]
        logits_LV: Tensor = trained.model.language_model(hidden_LD, trained.objective.encoder.token_embedding.weight)
        return logits_LV.detach()

    moved_L = (logits(changed, lambda batch: batch) - logits(row, lambda batch: batch)).abs().amax(-1)
    assert moved_L[:start].max() < 1e-12
    assert moved_L[start:].min() > 1e-4
    seen_L = (logits(changed, fully_seen) - logits(row, fully_seen)).abs().amax(-1)
    assert seen_L[:start].min() > 1e-5  # the must-fail twin


# ---- the loss


def written_out(trained: Case, batch: Sequence[Chunk], generation: float) -> float:
    """The formula, row by row and token by token, without padding."""
    rows = rows_of(batch)
    vectors = [functional.normalize(trained.model.embed(pad([row.source], 0))[0], dim=0) for row in rows]
    scores = [[trained.objective.config.scale * float(u @ v) for v in vectors] for u in vectors]
    contrast = 0.0
    for i, line in enumerate(scores):
        others = torch.tensor([score for j, score in enumerate(line) if j != i], dtype=torch.float64)
        contrast += float(others.logsumexp(0)) - line[i ^ 1]
    written, count = 0.0, 0
    for row in rows if generation else []:
        for number, token in enumerate(row.target):
            seen = pad_pairs([(row.source, row.target[:number])], 0)
            hidden_D = trained.objective.encoder(seen)[0, -1]
            assert trained.model.language_model is not None
            logits = trained.model.language_model(hidden_D[None], trained.objective.encoder.token_embedding.weight)[0]
            written -= float(logits.log_softmax(0)[token])
            count += 1
    return contrast / len(rows) + generation * written / max(count, 1)


@pytest.mark.parametrize("generation", [0.0, 0.5])
@pytest.mark.parametrize("chunk_pairs", [3, 32])
@torch.no_grad()
def test_the_loss_is_the_formula(generation: float, chunk_pairs: int) -> None:
    trained = case(SimilarityConfig(generation=generation, chunk_pairs=chunk_pairs))
    batch = trained.objective.steps(0)[0]
    assert trained.objective.loss(batch).item() == pytest.approx(written_out(trained, batch, generation), rel=1e-9)


def test_without_generation_the_contrast_is_the_same() -> None:
    """By S1: sources alone have the vectors that they have before their targets."""
    with_targets, without = case(WHOLE), case(SimilarityConfig(generation=0.0))
    without.model.load_state_dict({k: v for k, v in with_targets.model.state_dict().items() if "language" not in k})
    first, second = with_targets.objective.steps(0)[0], without.objective.steps(0)[0]
    assert [row.source for row in rows_of(first)] == [row.source for row in rows_of(second)]
    found = with_targets.objective._encode(first[0], None).vectors_NE
    torch.testing.assert_close(found, without.objective._encode(second[0], None).vectors_NE, rtol=0, atol=1e-12)
    assert second[0].num_tokens < first[0].num_tokens / 1.5


# ---- chunks


@pytest.mark.parametrize("generation", [0.0, 1.0])
@pytest.mark.parametrize("chunk_pairs", [1, 3, 32])
def test_chunks_have_the_gradient_of_one_graph(generation: float, chunk_pairs: int) -> None:
    """With dropout, replayed, with noise, and with targets of unequal lengths (C2, C6)."""
    trained = case(SimilarityConfig(generation=generation, chunk_pairs=chunk_pairs, noise=1.0), dropout=DROPOUT)
    batch = trained.objective.steps(0)[0]
    assert len(batch) == -(-len(PAIRS) // chunk_pairs)
    torch.manual_seed(3)
    expected, loss = gradient_of_one_graph(trained, batch)
    torch.manual_seed(3)
    found, told = gradient_of(trained, batch)
    assert relative(found, expected) < 1e-10
    assert told == pytest.approx(loss, rel=1e-10)


@pytest.mark.parametrize("config", [WHOLE, SimilarityConfig(stage="supervised")])
def test_a_batch_is_the_same_however_it_is_cut(config: SimilarityConfig) -> None:
    raw = RawCorpus(all_pairs=LABELLED)
    whole, cut = case(config, raw=raw), case(chunked(config, 3), raw=raw)
    first, second = whole.objective.steps(1)[0], cut.objective.steps(1)[0]
    assert rows_of(first) == rows_of(second)
    assert (len(first), len(second)) == (1, 3)
    (expected, loss), (found, told) = gradient_of(whole, first), gradient_of(cut, second)
    assert relative(found, expected) < 1e-10
    assert told == pytest.approx(loss, rel=1e-10)


def test_must_fail_with_means_of_means() -> None:
    """Chunks that weigh their target tokens by themselves, not by their batch."""
    trained = case(chunked(WHOLE, 3))
    batch = trained.objective.steps(0)[0]
    apart = [
        replace(chunk, num_batch_targets=len(batch) * sum(len(row.target) for row in chunk.rows)) for chunk in batch
    ]
    expected, _ = gradient_of(trained, batch)
    assert relative(gradient_of(trained, apart)[0], expected) > 1e-3


def test_must_fail_chunks_that_do_not_know_of_each_other() -> None:
    trained = case(chunked(WHOLE, 3))
    batch = trained.objective.steps(0)[0]
    expected, _ = gradient_of(trained, batch)
    apart = sum((chunk.share * gradient_of(trained, [chunk])[0] for chunk in batch), torch.zeros(()))
    assert relative(apart, expected) > 1e-2


@pytest.mark.parametrize("config", [WHOLE, SimilarityConfig(stage="supervised")])
def test_scale_weighs_the_gradient_not_the_loss_told(config: SimilarityConfig) -> None:
    trained = case(chunked(config, 3), raw=RawCorpus(all_pairs=LABELLED))
    batch = trained.objective.steps(0)[0]
    expected, loss = gradient_of(trained, batch)
    for scale in (0.1, 0.0):
        found, told = gradient_of(trained, batch, scale)
        torch.testing.assert_close(found, scale * expected, rtol=1e-10, atol=1e-14)
        assert told == pytest.approx(loss, rel=1e-12)


# ---- steps


def test_an_epoch_has_every_pair_once_in_an_order_of_its_own() -> None:
    objective = case(SimilarityConfig(batch_pairs=3, chunk_pairs=2)).objective
    epochs = [[[row.sentence for row in rows_of(step)] for step in objective.steps(epoch)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(map(len, epoch)) == [4, 6, 6]
        assert sorted(sentence for step in epoch for sentence in step) == sorted(TEXTS)
    assert len({str(epoch) for epoch in epochs}) == 3


def test_a_step_is_the_same_every_time_and_its_noise_another_in_another_epoch() -> None:
    objective = case(SimilarityConfig(noise=1.0)).objective
    steps = objective.steps(2)
    assert rows_of(steps[0]) == rows_of(steps[0]) == rows_of(objective.steps(2)[0])
    sources = [{row.sentence: row.source for row in rows_of(objective.steps(epoch)[0])} for epoch in (2, 3)]
    assert sources[0].keys() == sources[1].keys()
    assert sum(source != sources[1][sentence] for sentence, source in sources[0].items()) > len(TEXTS) // 2


def test_shares_of_a_step_are_one_together() -> None:
    trained = case(SimilarityConfig(batch_pairs=7, chunk_pairs=3))
    batch = trained.objective.steps(0)[0]
    assert [trained.objective.count(chunk) for chunk in batch] == [3 / 7, 3 / 7, 1 / 7]
    assert sum(map(trained.objective.num_tokens, batch)) == sum(
        len(row.source) + len(row.target) for row in rows_of(batch)
    )


def test_no_pairs_no_steps() -> None:
    objective = case(WHOLE, raw=RawCorpus(all_pairs=PAIRS[:1])).objective
    with pytest.raises(ConfigError, match=r"objectives\.similarity: found 1 pairs in epoch 0, expected at least two"):
        objective.steps(0)


# ---- what is held out


def test_dev_loss_is_the_mean_over_rows_and_the_same_every_time() -> None:
    raw = RawCorpus(all_pairs=PAIRS, dev_fraction=0.999999)
    trained = case(SimilarityConfig(batch_pairs=3), raw=raw, dropout=DROPOUT)
    trained.model.eval()
    found = trained.objective.dev_loss()
    assert trained.objective.dev_loss() == found
    steps = trained.objective._steps(PAIRS, "dev", "held out")
    losses = [float(trained.objective.loss(step).detach()) for step in steps]
    rows = [len(rows_of(step)) for step in steps]
    assert rows == [6, 6, 4]
    assert found == pytest.approx((6 * losses[0] + 6 * losses[1] + 4 * losses[2]) / 16, rel=1e-12)
    assert found != pytest.approx(sum(losses) / 3, rel=1e-4)


def test_dev_loss_of_views_of_texts() -> None:
    trained = case(WHOLE, raw=RawCorpus(fixed=TEXTS, dev_fraction=0.5))
    trained.model.eval()
    assert trained.objective.dev_loss() > 1.0


def test_nothing_held_out_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.similarity: found 0 pairs held out"):
        case(WHOLE).objective.dev_loss()


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


# ---- other encoders, several processes


@pytest.mark.parametrize("chunk_pairs", [3, 32])
def test_a_foreign_encoder_learns_vectors(chunk_pairs: int) -> None:
    trained = case(SimilarityConfig(generation=0.0, chunk_pairs=chunk_pairs), foreign=True, dtype=torch.float32)
    losses = train(trained, 30)
    assert losses[-1] < 0.5 * losses[0]


def test_a_foreign_encoder_writes_nothing() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.similarity\.generation: found the encoder HuggingFaceEncoder"):
        case(WHOLE, foreign=True)


def test_two_processes_have_the_loss_and_gradient_of_one(tmp_path: Path) -> None:
    launch(2, "tests.training.objectives.similarity.paired", str(tmp_path))
    both = [torch.load(tmp_path / f"{process}.pt", weights_only=True) for process in range(2)]
    assert [[found["chunks"] for found in process] for process in both] == [[1, 2, 2], [1, 1, 2]]
    for config, first, second in zip(SHARED, *both, strict=True):
        trained = case(config)
        gradient, loss = gradient_of(trained, trained.objective.steps(0)[0])
        assert torch.equal(first["gradient"], second["gradient"])
        assert relative(first["gradient"], gradient) < 1e-10
        assert first["loss"] == second["loss"] == pytest.approx(loss, rel=1e-6)


def test_contrast_is_over_all_rows_of_the_batch() -> None:
    trained = case(SimilarityConfig(generation=0.0, chunk_pairs=1))
    batch = trained.objective.steps(0)[0]
    with torch.no_grad():
        vectors = [trained.objective._encode(chunk, None).vectors_NE for chunk in batch]
        expected = pair_contrast(torch.cat(vectors), 20.0).mean().item()
    assert gradient_of(trained, batch)[1] == pytest.approx(expected, rel=1e-12)
    assert expected > 1.0
