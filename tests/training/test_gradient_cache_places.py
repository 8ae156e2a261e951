"""Cached gradients on several devices and in several processes: oracles C2, C7 and C8.

Shapes: N vectors, E their width.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from tests.training.cached_steps import (
    DEALS,
    NUM_TOKENS,
    TEXTS,
    UNEVEN,
    Texts,
    TinyEncoder,
    contrast,
    gradient_of,
    mixed_backward,
    one_process,
    relative,
    split,
    tiny_encoder,
)
from tests.training.launch import launch
from training.gradient_cache import Encoded, cached_backward

# ---- C2, C7: devices


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> list[torch.Generator]:
    """Generators that stand for those of two CUDA devices."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: generators[device].get_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: generators[device].set_state(state))
    return generators


def test_c2_c7_every_device_is_replayed(two_devices: list[torch.Generator]) -> None:
    def vectors(model: TinyEncoder, chunk: Texts) -> Tensor:
        vectors_NE = model.vectors(chunk)
        for generator in two_devices:
            vectors_NE = vectors_NE * torch.rand(vectors_NE.shape, generator=generator, dtype=vectors_NE.dtype)
        return vectors_NE

    chunks = split(TEXTS, UNEVEN)
    before = [generator.get_state() for generator in two_devices]
    expected = tiny_encoder()
    contrast(torch.cat([vectors(expected, chunk) for chunk in chunks])).backward()
    after = [generator.get_state() for generator in two_devices]
    for generator, state in zip(two_devices, before, strict=True):
        generator.set_state(state)
    model = tiny_encoder()
    cached_backward(lambda chunk: Encoded(vectors(model, chunk)), chunks, contrast, one_process())
    assert relative(gradient_of(model), gradient_of(expected)) < 1e-12
    assert all(torch.equal(generator.get_state(), state) for generator, state in zip(two_devices, after, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_c2_c7_on_a_cuda_device() -> None:
    x_NE = torch.randn(12, 8, device="cuda", dtype=torch.float64)
    weight = torch.randn(8, 8, device="cuda", dtype=torch.float64, requires_grad=True)
    accelerator = Accelerator()

    def vectors(chunk_NE: Tensor) -> Tensor:
        return functional.dropout(chunk_NE @ weight, 0.5)

    def loss(vectors_NE: Tensor) -> Tensor:
        return (vectors_NE @ vectors_NE.T).logsumexp(-1).mean()

    torch.manual_seed(3)
    (expected,) = torch.autograd.grad(loss(torch.cat([vectors(chunk_NE) for chunk_NE in x_NE.split(5)])), weight)
    state = torch.cuda.get_rng_state()
    torch.manual_seed(3)
    cached_backward(lambda chunk_NE: Encoded(vectors(chunk_NE)), x_NE.split(5), loss, accelerator)
    assert weight.grad is not None
    assert relative(weight.grad, expected) < 1e-12
    assert torch.equal(torch.cuda.get_rng_state(), state)


# ---- C8: two processes


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], ...]:
    """What each process has of each deal."""
    output = tmp_path_factory.mktemp("two")
    launch(2, "tests.training.cached_steps", str(output))
    first, second = (torch.load(output / f"{process}.pt", weights_only=True) for process in range(2))
    return first, second


@pytest.mark.parametrize("deal", range(len(DEALS)), ids=str)
def test_c8_two_processes_give_what_one_gives(two_processes: tuple[list[dict[str, Any]], ...], deal: int) -> None:
    """With chunks dealt 3 and 1, 4 and none, none and 4; a pair stands half in one process, half in the other."""
    model = tiny_encoder()
    loss = mixed_backward(model, split(TEXTS, UNEVEN), NUM_TOKENS, one_process())
    first, second = two_processes[0][deal], two_processes[1][deal]
    assert relative(first["gradient"], gradient_of(model)) < 1e-12
    assert torch.equal(first["gradient"], second["gradient"])
    assert first["coupled"] + second["coupled"] == pytest.approx(loss.coupled, rel=1e-12)
    assert first["own"] + second["own"] == pytest.approx(loss.own, rel=1e-12)
    assert (first["own"] == 0, second["own"] == 0) == tuple(not own for own in DEALS[deal])


def test_c8_must_fail_where_vectors_are_not_gathered() -> None:
    model, expected = tiny_encoder(), tiny_encoder()
    for chunks in (split(TEXTS[:6], (2, 4)), split(TEXTS[6:], (6,))):
        mixed_backward(model, chunks, NUM_TOKENS, one_process())
    mixed_backward(expected, split(TEXTS, UNEVEN), NUM_TOKENS, one_process())
    assert relative(gradient_of(model), gradient_of(expected)) > 1e-2
