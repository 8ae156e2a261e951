"""The objective of similar sentences: its masks, its loss, its gradient in chunks and processes, its steps. In fp64.

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

from ner_service.errors import ConfigError
from ner_service.model.batch import Batch, PaddingMask, pad, pad_pairs
from tests.training.cached_steps import relative
from tests.training.launch import launch
from tests.training.objectives.similarity.paired import (
    LABELLED,
    PAIRS,
    SHARED,
    TEXTS,
    Case,
    case,
    gradient_of,
    gradient_of_one_graph,
    paired_batch,
    rows_of,
)
from training.config import SimilarityConfig
from training.data.raw import RawCorpus
from training.losses import pair_contrast
from training.objectives.similarity.rows import Chunk, Row

DROPOUT = 0.2
WHOLE = SimilarityConfig()


# ---- S1, S2: who sees whom


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
    whole, cut = case(config, raw=raw), case(replace(config, chunk_pairs=3), raw=raw)
    first, second = whole.objective.steps(1)[0], cut.objective.steps(1)[0]
    assert rows_of(first) == rows_of(second)
    assert (len(first), len(second)) == (1, 3)
    (expected, loss), (found, told) = gradient_of(whole, first), gradient_of(cut, second)
    assert relative(found, expected) < 1e-10
    assert told == pytest.approx(loss, rel=1e-10)


def test_must_fail_with_means_of_means() -> None:
    """Chunks that weigh their target tokens by themselves, not by their batch."""
    trained = case(replace(WHOLE, chunk_pairs=3))
    batch = trained.objective.steps(0)[0]
    apart = [
        replace(chunk, num_batch_targets=len(batch) * sum(len(row.target) for row in chunk.rows)) for chunk in batch
    ]
    expected, _ = gradient_of(trained, batch)
    assert relative(gradient_of(trained, apart)[0], expected) > 1e-3


def test_must_fail_chunks_that_do_not_know_of_each_other() -> None:
    trained = case(replace(WHOLE, chunk_pairs=3))
    batch = trained.objective.steps(0)[0]
    expected, _ = gradient_of(trained, batch)
    apart = sum((chunk.share * gradient_of(trained, [chunk])[0] for chunk in batch), torch.zeros(()))
    assert relative(apart, expected) > 1e-2


@pytest.mark.parametrize("config", [WHOLE, SimilarityConfig(stage="supervised")])
def test_scale_weighs_the_gradient_not_the_loss_told(config: SimilarityConfig) -> None:
    trained = case(replace(config, chunk_pairs=3), raw=RawCorpus(all_pairs=LABELLED))
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


# ---- several processes


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
