"""Exact gradients of a loss that couples all vectors of a large batch, in the memory of one chunk of it.

First every chunk is encoded without a graph and only its vectors are kept; the loss of all vectors gives the gradient
of each; then every chunk is encoded again, with a graph and with the same random numbers, and its vectors' gradient is
sent back through it. What a chunk loses on its own, such as a token loss, joins that second pass. The price is one
forward pass.

Knows vectors, chunks and processes; knows no model, no data and no loss. A layer that mixes the rows of a chunk, such
as BatchNorm, sees chunks and not the batch: no pass in chunks can be exact for it.

Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup (arXiv 2101.06983);
kexue.fm/archives/8471. Shapes: N vectors, E their width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a chunk becomes.

    `own_loss` gives what the chunk loses whatever the others hold: a scalar, from the graph that the vectors come from.
    A mean over tokens is divided by the tokens of the whole batch, not by those of the chunk. It is called in the
    second pass alone.
    """

    vectors_NE: Tensor
    own_loss: Callable[[], Tensor] | None = None


@dataclass(frozen=True, slots=True)
class CachedLoss:
    """This process's share of the loss of all vectors, and the sum of its chunks' own losses, both unscaled.

    Summed over the processes they are the loss of the batch.
    """

    coupled: float
    own: float


@dataclass(frozen=True, slots=True)
class RandomState:
    """The states of torch's generators: the CPU's and every CUDA device's."""

    cpu: Tensor
    cuda: tuple[Tensor, ...]

    @classmethod
    def now(cls) -> RandomState:
        return cls(torch.get_rng_state(), tuple(torch.cuda.get_rng_state(device) for device in _cuda_devices()))

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        for device, state in zip(_cuda_devices(), self.cuda, strict=True):
            torch.cuda.set_rng_state(state, device)


def cached_backward(
    encode: Callable[[T], Encoded],
    chunks: Sequence[T],
    loss: Callable[[Tensor], Tensor],
    accelerator: Accelerator,
    scale: float = 1.0,
) -> CachedLoss:
    """Add the gradient of `scale` times `loss(all vectors)` and the chunks' own losses to what is behind `encode`.

    Every process calls this with its own chunks, be they none, and adds what its own vectors contribute: gradients
    are to be summed over the processes, not averaged. Memory is that of one chunk with its graph, and of all vectors.
    A single chunk of a single process is encoded once.

    Args:
        encode: A chunk to its vectors. It may run twice and must do the same both times: what is random in it is drawn
            from torch's own generators, and autocast is applied in it, not around the call.
        chunks: What this process encodes.
        loss: The vectors [N, E] of all processes, process by process and chunk by chunk, to a scalar. Without
            parameters of its own. Vectors of less than single precision come in single precision.
        accelerator: Its processes take part.
        scale: The weight of the losses' gradient.
    """
    if accelerator.num_processes == len(chunks) == 1:
        return _straight(encode(chunks[0]), loss, scale)
    vectors: list[Tensor] = []
    states: list[RandomState] = []
    with torch.no_grad():
        for chunk in chunks:
            states.append(RandomState.now())
            vectors.append(_kept(encode(chunk).vectors_NE))
    coupled, gradients = _coupled(vectors, loss, accelerator)
    own = 0.0
    with torch.random.fork_rng(_cuda_devices(), device_type="cuda"):
        for chunk, state, gradient_NE in zip(chunks, states, gradients, strict=True):
            state.restore()
            own += _backward(encode(chunk), gradient_NE, scale)
    return CachedLoss(coupled / accelerator.num_processes, own)


def _straight(encoded: Encoded, loss: Callable[[Tensor], Tensor], scale: float) -> CachedLoss:
    """One graph for all there is."""
    coupled = loss(_wide(encoded.vectors_NE))
    own = encoded.own_loss() if encoded.own_loss else torch.zeros_like(coupled)
    (scale * (coupled + own)).backward()
    return CachedLoss(float(coupled.detach()), float(own.detach()))


def _cuda_devices() -> range:
    """All of them, where CUDA is in use: a chunk may draw on any."""
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)


def _kept(vectors_NE: Tensor) -> Tensor:
    # A copy, since a view would hold on to all hidden states that it is a part of.
    return _wide(vectors_NE).clone()


def _wide(vectors_NE: Tensor) -> Tensor:
    return vectors_NE.to(torch.promote_types(vectors_NE.dtype, torch.float32))


def _coupled(
    vectors: Sequence[Tensor], loss: Callable[[Tensor], Tensor], accelerator: Accelerator
) -> tuple[float, Sequence[Tensor]]:
    """The loss of all processes' vectors, and its gradient for each chunk of ours, [N, E]."""
    parts = _gather(vectors, accelerator)
    all_NE = torch.cat(parts).requires_grad_()
    value = loss(all_NE)
    (gradient_NE,) = torch.autograd.grad(value, all_NE)
    own_NE = gradient_NE.split([len(part) for part in parts])[accelerator.process_index]
    return float(value.detach()), own_NE.split([len(each) for each in vectors])


def _gather(vectors: Sequence[Tensor], accelerator: Accelerator) -> list[Tensor]:
    """The vectors of every process, [N, E] each; N may differ and be 0."""
    own_NE = torch.cat(list(vectors)) if vectors else torch.empty(0, 0, device=accelerator.device)
    form = torch.tensor([[*own_NE.shape, own_NE.itemsize]], device=accelerator.device)
    forms = accelerator.gather(form)
    # A process without chunks knows neither width nor type; equal lengths are what can be exchanged.
    length, width, itemsize = forms.amax(0).tolist()
    dtype = torch.float64 if itemsize == torch.float64.itemsize else torch.float32
    padded_NE = torch.zeros(length, width, dtype=dtype, device=accelerator.device)
    padded_NE[: len(own_NE), : own_NE.shape[1]] = own_NE
    gathered_PNE = accelerator.gather(padded_NE).view(-1, length, width)
    return [rows_NE[:count] for rows_NE, count in zip(gathered_PNE, forms[:, 0].tolist(), strict=True)]


def _backward(encoded: Encoded, gradient_NE: Tensor, scale: float) -> float:
    """Send the vectors' gradient and that of the own loss back together; the own loss."""
    surrogate = (encoded.vectors_NE * gradient_NE).sum()
    own = encoded.own_loss() if encoded.own_loss else torch.zeros_like(surrogate)
    (scale * (surrogate + own)).backward()
    return float(own.detach())
