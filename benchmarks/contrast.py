"""Contrast of a large batch through small chunks: is its gradient exact, what memory and what time does it take?

    python -m benchmarks.contrast --rows 1024 --chunk 16

Three questions of `training.gradient_cache`, about a RoFormer with random weights and a vector a row:

exact: in double precision and at a size where one graph holds all rows, the relative error of the cached gradient, to
that of one batch without dropout and to that of one graph over the chunks with the same dropout. The error of chunks
that do not know of each other stands beside them.

memory: the peak resident memory of a process that takes a step, less that of an idle one, which has imported the same
and holds the model and the rows. Gradients, activations, vectors and code that the kernels load are counted; there is
no optimizer. Compared with the same rows in plain batches of a chunk's size, a step each, gradients set to None in
between; beside it, the same chunks with gradients added up. All of it twice: `held`, where the allocator gives freed
blocks back at once (glibc's MALLOC_MMAP_THRESHOLD_), so that a peak is what was held, and `kept`, where it is left as
it is. The expectation is of `held`. Linux only.

time: a step, against forward and backward of the same rows chunk by chunk, each with a contrast of its own; in turn, so
that a busy machine slows both. A second forward pass is the price: 4/3, if backward takes as long as two of them.

Prints one JSON object; exit code 1 if something is not as expected. Knows nothing of how good the vectors are.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
import typer
from accelerate import Accelerator
from torch import Tensor

from benchmarks.candidates import seconds
from benchmarks.machine import processor
from ner_service.model.batch import Batch, pad
from ner_service.model.config import EmbeddingConfig, Heads, ModelConfig, RoFormerConfig
from ner_service.model.text_model import TextModel
from training.gradient_cache import Encoded, cached_backward
from training.losses import pair_contrast

ROOT = Path(__file__).parents[1]

VOCAB_SIZE = 8000
SCALE = 20.0
DROPOUT = 0.1
EXACT_ROWS = 128

LARGEST_ERROR = 1e-10
LARGEST_MEMORY = 1.3
LARGEST_TIME = 1.5

Arm = Literal["idle", "plain", "apart", "cached"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of the model and of what it reads."""

    rows: int
    chunk: int
    tokens: int
    layers: int
    width: int
    threads: int

    def model(self, dropout: float, dtype: torch.dtype = torch.float32) -> TextModel:
        """The same weights every time, in training mode."""
        torch.manual_seed(0)
        encoder = RoFormerConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=self.width,
            num_layers=self.layers,
            num_heads=max(1, self.width // 64),
            intermediate_size=4 * self.width,
            dropout=dropout,
            attention_dropout=dropout,
        )
        config = ModelConfig(encoder=encoder, heads=Heads(embedding=EmbeddingConfig(size=self.width)))
        return TextModel(config, 0).to(dtype).train()

    def chunks(self, num_rows: int, chunk: int) -> list[Batch]:
        """The first rows of random tokens in chunks."""
        ids_NL = torch.randint(VOCAB_SIZE, (num_rows, self.tokens), generator=torch.Generator().manual_seed(1))
        return [pad(part_NL.tolist(), 0) for part_NL in ids_NL.split(chunk)]


# ---- the ways to a gradient


def contrast(vectors_NE: Tensor) -> Tensor:
    return pair_contrast(vectors_NE, SCALE).mean()


def cached(model: TextModel, chunks: Sequence[Batch]) -> None:
    """The contrast of all rows, by way of the cache."""
    cached_backward(lambda chunk: Encoded(model.embed(chunk)), chunks, contrast, Accelerator(cpu=True))


def one_graph(model: TextModel, chunks: Sequence[Batch]) -> None:
    """The contrast of all rows, by way of one graph over all chunks."""
    contrast(torch.cat([model.embed(chunk) for chunk in chunks])).backward()


def apart(model: TextModel, chunks: Sequence[Batch]) -> None:
    """The contrast of each chunk's rows alone, averaged."""
    for chunk in chunks:
        (contrast(model.embed(chunk)) / len(chunks)).backward()


Way = Callable[[TextModel, Sequence[Batch]], None]

# ---- measuring


def relative_errors(shape: Shape) -> dict[str, float]:
    """Of gradients of at most `EXACT_ROWS` rows, norm over norm, in double precision."""
    rows = min(shape.rows, EXACT_ROWS)
    whole, chunks = shape.chunks(rows, rows), shape.chunks(rows, shape.chunk)
    exact, dropped = (_gradient(shape, one_graph, *case) for case in ((whole, 0.0), (chunks, DROPOUT)))
    return {
        "without_dropout": _relative(_gradient(shape, cached, chunks, 0.0), exact),
        "with_dropout": _relative(_gradient(shape, cached, chunks, DROPOUT), dropped),
        "chunks_apart": _relative(_gradient(shape, apart, chunks, 0.0), exact),
    }


def _gradient(shape: Shape, way: Way, chunks: Sequence[Batch], dropout: float) -> Tensor:
    """Of all parameters, end to end; the dropout is that of one seed."""
    model = shape.model(dropout, torch.float64)
    torch.manual_seed(2)
    way(model, chunks)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def memory(shape: Shape) -> dict[str, dict[str, float]]:
    """MiB, with each way of the allocator."""
    return {"held": _memory(shape, {"MALLOC_MMAP_THRESHOLD_": "65536"}), "kept": _memory(shape, {})}


def _memory(shape: Shape, environment: Mapping[str, str]) -> dict[str, float]:
    """Peaks above that of an idle process, each of a process of its own."""
    idle, plain, added, whole = (_peak_of_process(arm, shape, environment) / 1024 for arm in get_args(Arm))
    return {
        "idle_mib": round(idle, 1),
        "plain_batches_mib": round(plain - idle, 1),
        "chunks_apart_mib": round(added - idle, 1),
        "cached_mib": round(whole - idle, 1),
        "ratio": round((whole - idle) / (plain - idle), 3),
    }


def _peak_of_process(arm: Arm, shape: Shape, environment: Mapping[str, str]) -> int:
    code = f"from benchmarks.contrast import Shape, peak_kib; print(peak_kib({arm!r}, {shape!r}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True)
    return int(done.stdout)


def peak_kib(arm: Arm, shape: Shape) -> int:
    """This process's peak resident memory after all rows in one of the ways."""
    torch.set_num_threads(shape.threads)
    model, chunks = shape.model(DROPOUT), shape.chunks(shape.rows, shape.chunk)
    match arm:
        case "idle":
            pass
        case "plain":
            for chunk in chunks:
                one_graph(model, [chunk])
                model.zero_grad()
        case "apart":
            apart(model, chunks)
        case "cached":
            cached(model, chunks)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0])


def times(shape: Shape, rounds: int) -> dict[str, float]:
    """Seconds of a step, after a first one of each kind that is not counted."""
    model, chunks = shape.model(DROPOUT), shape.chunks(shape.rows, shape.chunk)
    ways: tuple[Way, Way] = (apart, cached)
    for way in ways:
        way(model, chunks[:2])
    pairs = [[seconds(partial(way, model, chunks)) for way in ways] for _ in range(rounds)]
    ratios = [cached_s / apart_s for apart_s, cached_s in pairs]
    return {
        "rounds": rounds,
        "chunks_apart_s": round(statistics.median(apart_s for apart_s, _ in pairs), 3),
        "cached_s": round(statistics.median(cached_s for _, cached_s in pairs), 3),
        "ratio": round(statistics.median(ratios), 3),
        "smallest_ratio": round(min(ratios), 3),
        "largest_ratio": round(max(ratios), 3),
    }


# ---- the command


def main(
    rows: Annotated[int, typer.Option(min=4, help="Rows of the contrast; neighbours are pairs.")] = 1024,
    chunk: Annotated[int, typer.Option(min=2, help="Rows of a chunk; even.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a row.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the encoder.")] = 4,
    width: Annotated[int, typer.Option(min=64, help="Its width, a multiple of 64.")] = 256,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a process.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="How often a step is timed.")] = 5,
) -> None:
    """Measure and print; exit code 1 if the gradient is not exact or memory or time are beyond what is expected."""
    torch.set_num_threads(threads)
    shape = Shape(rows=rows, chunk=chunk, tokens=tokens, layers=layers, width=width, threads=threads)
    found_errors, found_memory, found_times = relative_errors(shape), memory(shape), times(shape, rounds)
    result = {
        "command": " ".join(["python -m benchmarks.contrast", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "hardware": processor(),
        "torch": torch.__version__,
        "shape": asdict(shape),
        "relative_error": found_errors,
        "memory": found_memory,
        "time": found_times,
    }
    print(json.dumps(result, indent=2))
    faults = beyond(found_errors, found_memory["held"], found_times)
    for fault in faults:
        print(fault, file=sys.stderr)
    raise typer.Exit(1 if faults else 0)


def beyond(errors: Mapping[str, float], memory: Mapping[str, float], times: Mapping[str, float]) -> list[str]:
    """What is not as expected, in words."""
    figures = {
        "relative error without dropout": (errors["without_dropout"], LARGEST_ERROR),
        "relative error with dropout": (errors["with_dropout"], LARGEST_ERROR),
        "memory ratio": (memory["ratio"], LARGEST_MEMORY),
        "time ratio": (times["ratio"], LARGEST_TIME),
    }
    return [
        f"{name}: found {found:.3g}, expected at most {largest:g}"
        for name, (found, largest) in figures.items()
        if not found <= largest
    ]


if __name__ == "__main__":
    typer.run(main)
