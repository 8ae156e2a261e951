"""Candidates are the cells of the full grid above their cut-offs, found without the grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ner_service.model import heads
from ner_service.model.batch import pad
from ner_service.model.config import HeadConfig, Heads, ModelConfig, RoFormerConfig
from ner_service.model.heads import Cells, Projection, build_head, candidates, scores
from ner_service.model.text_model import TextModel
from tests.strategies import cutoffs, projections


@contextmanager
def small_blocks() -> Iterator[None]:
    """Blocks so small that a text of 14 tokens has several of every kind, the last ones not full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "CELLS_AT_ONCE", 40)
        patch.setattr(heads, "ROWS_AT_ONCE", 3)
        patch.setattr(heads, "COLUMNS_OF_BOUND", 4)
        yield


def from_grid(projection: Projection, cutoff_C: Tensor) -> Cells:
    """The definition."""
    grid_CLL = scores(projection, torch.ones(1, projection.query.shape[2], dtype=torch.bool))[0]
    label, start, end = (grid_CLL > cutoff_C[:, None, None]).nonzero().unbind(-1)
    return Cells(label, start, end, grid_CLL[label, start, end])


def assert_equal(found: Cells, expected: Cells) -> None:
    for name in ("label_N", "start_N", "end_N", "score_N"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@given(st.data())
def test_candidates_are_the_cells_of_the_grid_to_the_last_bit(data: st.DataObject) -> None:
    projection = data.draw(projections())
    num_labels = (projection.query if projection.start is None else projection.start).shape[1]
    cutoff_C = torch.tensor(data.draw(cutoffs(num_labels)))
    with small_blocks():
        assert_equal(candidates(projection, cutoff_C), from_grid(projection, cutoff_C))


@pytest.mark.parametrize("kind", ["global_pointer", "efficient_global_pointer"])
def test_blocks_of_the_real_size(kind: str) -> None:
    """300 tokens: three blocks of rows, ten of columns. A cut-off midway between two scores bears rounding."""
    torch.manual_seed(0)
    head = build_head(16, 4, HeadConfig(kind=kind, head_size=16)).double().requires_grad_(False)  # type: ignore[arg-type]
    torch.nn.init.normal_(head.dense.weight)
    projection = head.project(torch.randn(1, 300, 16, dtype=torch.float64), torch.arange(300)[None])
    grid_CLL = scores(projection, torch.ones(1, 300, dtype=torch.bool))[0]
    cutoffs = []
    for label, rank in enumerate((1, 30, 3000, 45150)):
        best = grid_CLL[label].flatten().sort(descending=True).values
        cutoffs.append(best[rank - 1 : rank + 1].mean() if rank < 45150 else best[rank - 1] - 1)
    cutoff_C = torch.stack(cutoffs)
    found, expected = candidates(projection, cutoff_C), from_grid(projection, cutoff_C)
    assert torch.bincount(found.label_N).tolist() == [1, 30, 3000, 45150]
    for name in ("label_N", "start_N", "end_N"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    torch.testing.assert_close(found.score_N, expected.score_N, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_score_equal_to_its_cut_off_is_no_candidate(groups: int) -> None:
    terms = (torch.zeros(1, 2, 1), torch.zeros(1, 2, 1)) if groups == 1 else (None, None)
    projection = Projection(torch.ones(1, groups, 1, 2), torch.ones(1, groups, 1, 2), *terms)
    found = candidates(projection, torch.tensor([2.0, 1.75]))
    assert found.label_N.tolist() == [1]
    assert found.score_N.tolist() == [2.0]


@pytest.mark.parametrize("groups", [1, 2])
def test_no_token_no_candidate(groups: int) -> None:
    terms = (torch.zeros(1, 2, 0), torch.zeros(1, 2, 0)) if groups == 1 else (None, None)
    empty = torch.zeros(1, groups, 0, 4)
    for cutoff in (-torch.inf, 0.0, torch.inf):
        assert len(candidates(Projection(empty, empty, *terms), torch.full((2,), cutoff)).score_N) == 0


def test_the_comparison_finds_swapped_starts_and_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, start, end = (torch.randint(-6, 7, (1, 2, 6, 4), generator=generator) / 4 for _ in range(4))
    cutoff_C = torch.zeros(2)
    plain, factored = Projection(query, key), Projection(query[:, :1], key[:, :1], start[..., 0], end[..., 0])
    for projection, swapped in (
        (plain, Projection(key, query)),
        (factored, Projection(factored.query, factored.key, factored.end, factored.start)),
    ):
        assert_equal(candidates(projection, cutoff_C), from_grid(projection, cutoff_C))
        with pytest.raises(AssertionError):
            assert_equal(candidates(swapped, cutoff_C), from_grid(projection, cutoff_C))


@pytest.mark.parametrize("kind", ["global_pointer", "efficient_global_pointer"])
@pytest.mark.parametrize("inner", [[*range(1, 8)], [2, 3, 6], [0], []])
def test_a_model_gives_the_cells_between_inner_tokens(kind: str, inner: list[int]) -> None:
    torch.manual_seed(1)
    encoder = RoFormerConfig(vocab_size=20, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8)
    config = ModelConfig(encoder=encoder, heads=Heads(spans=HeadConfig(kind=kind, head_size=4)))  # type: ignore[arg-type]
    model = TextModel(config, 3).double().eval().requires_grad_(False)
    batch = pad([[3, 1, 4, 1, 5, 9, 2, 6, 5], [2, 7, 1]], 0)
    cutoff_BC = torch.tensor([[0.0, -torch.inf, torch.inf], [0.0, 0.0, 0.0]])
    tokens = torch.tensor(inner, dtype=torch.long)
    found = model.candidates(batch, [tokens, torch.arange(3)], cutoff_BC)
    grid_CLL = model(batch)[0]
    outside = torch.ones(grid_CLL.shape[1:], dtype=torch.bool)
    outside[tokens[:, None], tokens] = False
    above = (grid_CLL > cutoff_BC[0, :, None, None]) & ~outside
    assert torch.stack([found[0].label_N, found[0].start_N, found[0].end_N], 1).tolist() == above.nonzero().tolist()
    torch.testing.assert_close(found[0].score_N, grid_CLL[above], rtol=1e-12, atol=1e-12)
    assert len(found) == 2
