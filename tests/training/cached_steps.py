"""A tiny encoder with a contrast and a token loss, and its cached gradients: in one process or, launched, in several.

    python -m tests.training.cached_steps OUTPUT

Shapes: B texts, L tokens, D hidden, N vectors, E their width, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from ner_service.model.batch import pad
from ner_service.model.config import RoFormerConfig
from ner_service.model.encoders.roformer import RoFormer
from training.gradient_cache import CachedLoss, Encoded, cached_backward
from training.losses import pair_contrast
from training.steps import sum_gradients

Texts = list[list[int]]

VOCAB_SIZE = 40
SCALE = 20.0
DEALS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (((0, 1, 2), (3,)), ((0, 1, 2, 3), ()), ((), (0, 1, 2, 3)))
"""Which of the four chunks each of two processes has."""

UNEVEN = (1, 4, 2, 5)
"""Sizes of chunks."""


class TinyEncoder(nn.Module):
    """Token ids to hidden states, to one vector a text, to words."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        config = RoFormerConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=16,
            num_layers=2,
            num_heads=2,
            intermediate_size=32,
            dropout=dropout,
            attention_dropout=dropout,
        )
        self.encoder = RoFormer(config)
        self.embedding = nn.Linear(16, 8)
        self.words = nn.Linear(16, VOCAB_SIZE)

    def hidden(self, texts: Texts) -> Tensor:
        """Hidden states [B, L, D]."""
        hidden_BLD: Tensor = self.encoder(pad(texts, 0))
        return hidden_BLD

    def pool(self, hidden_BLD: Tensor) -> Tensor:
        """Vectors [B, E] of the second tokens: the first are the same in all texts, and so are nearly their states."""
        vectors_BE: Tensor = self.embedding(hidden_BLD[:, 1])
        return vectors_BE

    def vectors(self, texts: Texts) -> Tensor:
        return self.pool(self.hidden(texts))


def tiny_encoder(dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> TinyEncoder:
    """The same weights every time, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyEncoder(dropout).to(dtype).train()


def _texts() -> Texts:
    """Twelve texts of 4 to 9 tokens; the two of a pair share the second."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(2, VOCAB_SIZE, (2 + 5 * i % 6,), generator=generator).tolist() for i in range(12)]
    return [[1, 2 + i // 2, *row] for i, row in enumerate(rows)]


TEXTS = _texts()
NUM_TOKENS = sum(map(len, TEXTS))


def split(rows: Texts, sizes: Sequence[int]) -> list[Texts]:
    """Neighbouring rows in chunks of these sizes."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [rows[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def contrast(vectors_NE: Tensor) -> Tensor:
    """The mean contrast of all pairs, 2i and 2i + 1."""
    return pair_contrast(vectors_NE, SCALE).mean()


def word_loss(model: TinyEncoder, hidden_BLD: Tensor, chunk: Texts) -> Tensor:
    """Cross entropy of every token from its own state, summed."""
    logits = model.words(torch.cat(pad(chunk, 0).texts(hidden_BLD)))
    return functional.cross_entropy(logits, torch.tensor([token for text in chunk for token in text]), reduction="sum")


def one_process() -> Accelerator:
    return Accelerator(cpu=True)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def gradient_of(model: nn.Module) -> Tensor:
    """The gradients of all parameters, end to end; 0 where there is none."""
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


def mixed_backward(
    model: TinyEncoder, chunks: Sequence[Texts], num_tokens: int, accelerator: Accelerator
) -> CachedLoss:
    """Contrast of all processes' chunks, and the mean of the word loss over `num_tokens`, those of the whole batch."""

    def encode(chunk: Texts) -> Encoded:
        hidden_BLD = model.hidden(chunk)
        return Encoded(model.pool(hidden_BLD), lambda: word_loss(model, hidden_BLD, chunk) / num_tokens)

    return cached_backward(encode, chunks, contrast, accelerator)


def record_gradients(output: Path) -> None:
    """Write what each deal of `DEALS` gives this process: `OUTPUT/0.pt`, `OUTPUT/1.pt`."""
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    chunks = split(TEXTS, UNEVEN)
    found = []
    for deal in DEALS:
        model = tiny_encoder()
        own = [chunks[index] for index in deal[accelerator.process_index]]
        cached = mixed_backward(model, own, NUM_TOKENS, accelerator)
        sum_gradients(model.parameters(), accelerator)
        found.append({"coupled": cached.coupled, "own": cached.own, "gradient": gradient_of(model)})
    torch.save(found, output / f"{accelerator.process_index}.pt")
    accelerator.end_training()


if __name__ == "__main__":
    record_gradients(Path(sys.argv[1]))
