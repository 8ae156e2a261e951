"""Cached gradients are those of the whole batch: oracles C1 to C7; C8 is in `test_gradient_cache_places`.

Shapes: B texts, L tokens, D hidden, N vectors, E their width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional

from tests.strategies import compositions
from tests.training.cached_steps import (
    NUM_TOKENS,
    TEXTS,
    UNEVEN,
    Texts,
    TinyEncoder,
    contrast,
    gradient_of,
    one_process,
    relative,
    split,
    tiny_encoder,
    word_loss,
)
from training.gradient_cache import Encoded, RandomState, cached_backward
from training.losses import sparse_zlpr

DROPOUT = 0.2


def cached(model: TinyEncoder, chunks: Sequence[Texts], loss: Callable[[Tensor], Tensor] = contrast) -> Tensor:
    """The gradient by way of the cache."""
    cached_backward(lambda chunk: Encoded(model.vectors(chunk)), chunks, loss, one_process())
    return gradient_of(model)


def whole(model: TinyEncoder, chunks: Sequence[Texts]) -> Tensor:
    """The gradient by way of one graph over all chunks, encoded in turn."""
    contrast(torch.cat([model.vectors(chunk) for chunk in chunks])).backward()
    return gradient_of(model)


# ---- C1, C5: no dropout


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("size", [1, 2, 3, 12])
def test_c1_chunks_of_one_size(dtype: torch.dtype, tolerance: float, size: int) -> None:
    expected = whole(tiny_encoder(dtype=dtype), [TEXTS])
    found = cached(tiny_encoder(dtype=dtype), split(TEXTS, [size] * (12 // size)))
    assert relative(found, expected) < tolerance


@settings(max_examples=20)
@given(compositions(12))
def test_c1_chunks_of_any_sizes(sizes: list[int]) -> None:
    assert relative(cached(tiny_encoder(), split(TEXTS, sizes)), whole(tiny_encoder(), [TEXTS])) < 1e-12


def test_c5_must_fail_chunks_that_do_not_know_of_each_other() -> None:
    model = tiny_encoder()
    for chunk in split(TEXTS, (4, 4, 4)):
        (contrast(model.vectors(chunk)) / 3).backward()
    assert relative(gradient_of(model), whole(tiny_encoder(), [TEXTS])) > 1e-2


def test_gradients_are_added_and_the_loss_told() -> None:
    model = tiny_encoder()
    before = whole(model, [TEXTS]).clone()
    loss = cached_backward(lambda chunk: Encoded(model.vectors(chunk)), split(TEXTS, UNEVEN), contrast, one_process())
    assert relative(gradient_of(model), 2 * before) < 1e-12
    assert loss.coupled == pytest.approx(contrast(model.vectors(TEXTS)).item(), rel=1e-12)
    assert loss.own == 0.0


# ---- C2, C3, C7: dropout


def after_seed(gradient: Callable[[TinyEncoder, Sequence[Texts]], Tensor], chunks: Sequence[Texts]) -> Tensor:
    """Of a model with dropout, its masks those of one seed."""
    torch.manual_seed(3)
    return gradient(tiny_encoder(DROPOUT), chunks)


@pytest.mark.parametrize("sizes", [[1] * 12, [2] * 6, UNEVEN, [12]])
def test_c2_dropout_is_replayed(sizes: Sequence[int]) -> None:
    chunks = split(TEXTS, sizes)
    assert relative(after_seed(cached, chunks), after_seed(whole, chunks)) < 1e-12


def test_c2_two_dropout_views_of_a_text() -> None:
    """As in SimCSE: a text is its own neighbour, and its two rows differ by their masks alone."""
    chunks = split([text for text in TEXTS[:6] for _ in range(2)], UNEVEN)
    assert relative(after_seed(cached, chunks), after_seed(whole, chunks)) < 1e-12


def test_c3_must_fail_without_the_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = split(TEXTS, UNEVEN)
    expected = after_seed(whole, chunks)
    monkeypatch.setattr(RandomState, "restore", lambda state: None)
    assert relative(after_seed(cached, chunks), expected) > 1e-2


def state_after(model: TinyEncoder, own_loss: bool) -> Tensor:
    """The generator's state after a step whose own losses draw random numbers, too, if there are any."""

    def encode(chunk: Texts) -> Encoded:
        vectors_NE = model.vectors(chunk)
        return Encoded(vectors_NE, (lambda: functional.dropout(vectors_NE, 0.5).sum()) if own_loss else None)

    torch.manual_seed(3)
    cached_backward(encode, split(TEXTS, UNEVEN), contrast, one_process())
    return torch.get_rng_state()


def state_of_one_pass(model: TinyEncoder) -> Tensor:
    torch.manual_seed(3)
    for chunk in split(TEXTS, UNEVEN):
        model.vectors(chunk)
    return torch.get_rng_state()


@pytest.mark.parametrize("own_loss", [False, True])
def test_c7_random_numbers_go_on_as_after_one_pass(own_loss: bool) -> None:
    model = tiny_encoder(DROPOUT)
    assert torch.equal(state_after(model, own_loss), state_of_one_pass(model))


def test_c7_must_fail_where_the_replay_is_not_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.random, "fork_rng", lambda *args, **kwargs: nullcontext())
    model = tiny_encoder(DROPOUT)
    assert not torch.equal(state_after(model, own_loss=True), state_of_one_pass(model))


# ---- C4: the closed form


def scores(vectors_NE: Tensor, alpha: float) -> Tensor:
    """`alpha` times the inner products as the article has them: no unit vectors, the diagonal left out."""
    return (alpha * vectors_NE @ vectors_NE.T).masked_fill(torch.eye(12, dtype=torch.bool), -torch.inf)


def closed_form(vectors_NE: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """2 alpha sum_j (p_ij - t_ij) h_j, of the summed loss: with p made symmetric, and without.

    Source: kexue.fm/archives/8471.
    """
    target_NN = torch.eye(12, dtype=torch.float64)[torch.arange(12) ^ 1]
    share_NN = scores(vectors_NE, alpha).softmax(-1)
    symmetric_NN = (share_NN + share_NN.T) / 2
    return 2 * alpha * (symmetric_NN - target_NN) @ vectors_NE, 2 * alpha * (share_NN - target_NN) @ vectors_NE


def cached_at_the_vectors(alpha: float, reduction: str) -> tuple[Tensor, Tensor]:
    """Vectors, and the cached gradient of their cross entropy."""
    leaf_NE = torch.randn(12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def loss(vectors_NE: Tensor) -> Tensor:
        return functional.cross_entropy(scores(vectors_NE, alpha), torch.arange(12) ^ 1, reduction=reduction)

    cached_backward(Encoded, leaf_NE.split(5), loss, one_process())
    assert leaf_NE.grad is not None
    return leaf_NE.detach(), leaf_NE.grad


@pytest.mark.parametrize(("reduction", "divisor"), [("sum", 1), ("mean", 12)])
@pytest.mark.parametrize("alpha", [1.0, 0.3, 20.0])
def test_c4_closed_form(alpha: float, reduction: str, divisor: int) -> None:
    """Of the mean it is divided by the number of rows."""
    vectors_NE, found_NE = cached_at_the_vectors(alpha, reduction)
    symmetric_NE, one_sided_NE = closed_form(vectors_NE, alpha)
    assert relative(found_NE, symmetric_NE / divisor) < 1e-12
    assert relative(found_NE, one_sided_NE / divisor) > 1e-2


def test_c4_must_fail_without_the_scale_or_the_number_of_rows() -> None:
    vectors_NE, found_NE = cached_at_the_vectors(20.0, "mean")
    summed_NE, _ = closed_form(vectors_NE, 20.0)
    unscaled_NE, _ = closed_form(vectors_NE, 1.0)
    for wrong_NE in (summed_NE, summed_NE / 20.0 / 12, unscaled_NE / 12, 20.0 * unscaled_NE / 12):
        assert relative(found_NE, wrong_NE) > 1e-2


# ---- C6: with losses of its own


def span_loss(hidden_BLD: Tensor, chunk: Texts) -> Tensor:
    """The multi-label loss of one span a text over inner products of states, summed."""
    length = hidden_BLD.shape[1]
    valid_BL = torch.arange(length) < torch.tensor([len(text) for text in chunk])[:, None]
    scores_BCLL = (hidden_BLD @ hidden_BLD.mT).masked_fill(~(valid_BL[:, None] & valid_BL[:, :, None]), -torch.inf)
    span_BCP = torch.full((len(chunk), 1, 1), length + 2)
    return sparse_zlpr(scores_BCLL[:, None], span_BCP).sum()


def own_loss(model: TinyEncoder, hidden_BLD: Tensor, chunk: Texts, num_texts: int, num_tokens: int) -> Tensor:
    """Spans by text and words by token."""
    return span_loss(hidden_BLD, chunk) / num_texts + word_loss(model, hidden_BLD, chunk) / num_tokens


@pytest.fixture(scope="module")
def together() -> tuple[Tensor, float, float]:
    """Gradient, contrast and other losses of the whole batch in one pass."""
    model = tiny_encoder()
    hidden_BLD = model.hidden(TEXTS)
    coupled = contrast(model.pool(hidden_BLD))
    own = own_loss(model, hidden_BLD, TEXTS, len(TEXTS), NUM_TOKENS)
    (coupled + own).backward()
    return gradient_of(model), coupled.item(), own.item()


@pytest.mark.parametrize("sizes", [UNEVEN, (12,), (6, 1, 5)])
def test_c6_contrast_spans_and_words_together(together: tuple[Tensor, float, float], sizes: Sequence[int]) -> None:
    model = tiny_encoder()

    def encode(chunk: Texts) -> Encoded:
        hidden_BLD = model.hidden(chunk)
        vectors_NE = model.pool(hidden_BLD)
        return Encoded(vectors_NE, lambda: own_loss(model, hidden_BLD, chunk, len(TEXTS), NUM_TOKENS))

    loss = cached_backward(encode, split(TEXTS, sizes), contrast, one_process())
    assert relative(gradient_of(model), together[0]) < 1e-12
    assert (loss.coupled, loss.own) == pytest.approx(together[1:], rel=1e-12)


def test_c6_must_fail_with_means_of_means(together: tuple[Tensor, float, float]) -> None:
    model = tiny_encoder()

    def encode(chunk: Texts) -> Encoded:
        hidden_BLD = model.hidden(chunk)
        vectors_NE = model.pool(hidden_BLD)
        return Encoded(vectors_NE, lambda: own_loss(model, hidden_BLD, chunk, len(chunk), sum(map(len, chunk))) / 4)

    cached_backward(encode, split(TEXTS, UNEVEN), contrast, one_process())
    assert relative(gradient_of(model), together[0]) > 1e-2


def test_a_chunk_may_have_no_loss_of_its_own() -> None:
    model, expected = tiny_encoder(), tiny_encoder()
    first, second = split(TEXTS, (4, 8))

    def encode(chunk: Texts) -> Encoded:
        hidden_BLD = model.hidden(chunk)
        own = (lambda: word_loss(model, hidden_BLD, chunk)) if chunk is first else None
        return Encoded(model.pool(hidden_BLD), own)

    cached_backward(encode, (first, second), contrast, one_process())
    (contrast(expected.vectors(TEXTS)) + word_loss(expected, expected.hidden(first), first)).backward()
    assert relative(gradient_of(model), gradient_of(expected)) < 1e-12


# ---- autocast, memory


def half_vectors(model: TinyEncoder, chunk: Texts) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return model.vectors(chunk)


def cached_half(model: TinyEncoder, chunks: Sequence[Texts], loss: Callable[[Tensor], Tensor] = contrast) -> Tensor:
    torch.manual_seed(3)
    cached_backward(lambda chunk: Encoded(half_vectors(model, chunk)), chunks, loss, one_process())
    return gradient_of(model)


def test_c2_under_autocast() -> None:
    chunks = split(TEXTS, UNEVEN)
    expected = tiny_encoder(DROPOUT, torch.float32)
    torch.manual_seed(3)
    contrast(torch.cat([half_vectors(expected, chunk).float() for chunk in chunks])).backward()
    found = cached_half(tiny_encoder(DROPOUT, torch.float32), chunks)
    assert relative(found, gradient_of(expected)) < 1e-6


def test_must_fail_autocast_is_in_force() -> None:
    """Or the test above would compare single precision with itself."""
    chunks = split(TEXTS, UNEVEN)
    single = after_seed(lambda model, chunks: cached(model.float(), chunks), chunks)
    assert relative(cached_half(tiny_encoder(DROPOUT, torch.float32), chunks), single) > 1e-3


@pytest.mark.parametrize(
    ("given_type", "read_type"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_the_loss_reads_single_precision_or_better(given_type: torch.dtype, read_type: torch.dtype) -> None:
    leaf_NE = torch.ones(12, 8, dtype=given_type, requires_grad=True)
    types: list[torch.dtype] = []

    def loss(vectors_NE: Tensor) -> Tensor:
        types.append(vectors_NE.dtype)
        return vectors_NE.sum()

    cached_backward(Encoded, leaf_NE.split(5), loss, one_process())
    assert types == [read_type]
    assert leaf_NE.grad is not None
    assert torch.equal(leaf_NE.grad, torch.ones_like(leaf_NE))


def test_memory_is_that_of_one_chunk() -> None:
    """Nothing of a chunk but its vectors is alive when the next is encoded, even where these are a view."""
    model = tiny_encoder()
    stored: list[StorageWeakRef] = []
    with_graph: list[bool] = []

    def encode(chunk: Texts) -> Encoded:
        assert all(reference.expired() for reference in stored)
        hidden_BLD = model.hidden(chunk)
        stored.append(StorageWeakRef(hidden_BLD.untyped_storage()))
        with_graph.append(hidden_BLD.requires_grad)
        return Encoded(hidden_BLD[:, 0], lambda: word_loss(model, hidden_BLD, chunk))

    cached_backward(encode, split(TEXTS, UNEVEN), contrast, one_process())
    assert with_graph == [False] * len(UNEVEN) + [True] * len(UNEVEN)


# ---- scale, a single chunk


@pytest.mark.parametrize("sizes", [UNEVEN, (12,)])
@pytest.mark.parametrize("scale", [0.25, 0.0])
def test_scale_weighs_the_gradient_not_the_loss_told(
    together: tuple[Tensor, float, float], sizes: Sequence[int], scale: float
) -> None:
    model = tiny_encoder()

    def encode(chunk: Texts) -> Encoded:
        hidden_BLD = model.hidden(chunk)
        vectors_NE = model.pool(hidden_BLD)
        return Encoded(vectors_NE, lambda: own_loss(model, hidden_BLD, chunk, len(TEXTS), NUM_TOKENS))

    loss = cached_backward(encode, split(TEXTS, sizes), contrast, one_process(), scale)
    torch.testing.assert_close(gradient_of(model), scale * together[0], rtol=1e-10, atol=1e-14)
    assert (loss.coupled, loss.own) == pytest.approx(together[1:], rel=1e-12)


@pytest.mark.parametrize(("sizes", "expected"), [((12,), 1), ((6, 6), 4)])
def test_a_single_chunk_is_encoded_once(sizes: Sequence[int], expected: int) -> None:
    model, passes = tiny_encoder(), []

    def encode(chunk: Texts) -> Encoded:
        passes.append(chunk)
        return Encoded(model.vectors(chunk))

    cached_backward(encode, split(TEXTS, sizes), contrast, one_process())
    assert len(passes) == expected


def test_a_single_chunk_in_half_precision_has_the_loss_in_single() -> None:
    found = cached_half(tiny_encoder(DROPOUT, torch.float32), [TEXTS])
    expected = tiny_encoder(DROPOUT, torch.float32)
    torch.manual_seed(3)
    contrast(half_vectors(expected, TEXTS).float()).backward()
    assert relative(found, gradient_of(expected)) < 1e-6
