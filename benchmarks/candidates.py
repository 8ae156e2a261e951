"""Candidates against the full grid: the same cells, how much faster. Run as `python -m benchmarks.candidates`.

Both pointer heads are first trained on a made-up language of 50 labels: as many spans are above the threshold as
in any trained model; the texts measured are unseen ones. The full grid is `scores` of the whole batch, as training
computes it, then the comparison with the cut-offs and the look-up of what is above them. Candidates are sought text by
text, as the recogniser does. Both start from the same projection and are timed in turn, so that a busy machine slows
both. Prints one JSON object; figures worth keeping stand in `benchmarks/results`.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ner_service.model.batch import pad
from ner_service.model.config import HeadConfig, Heads, ModelConfig, RoFormerConfig
from ner_service.model.heads import Projection, candidates, scores
from ner_service.model.span_model import SpanModel
from training.losses import sparse_zlpr

Kind = Literal["global_pointer", "efficient_global_pointer"]
Text = tuple[list[int], list[tuple[int, int, int]]]

NUM_LABELS, NUM_TEXTS, LENGTH = 50, 2, 512
NUM_FILLERS = 200
VOCAB_SIZE = NUM_FILLERS + 2 * NUM_LABELS
TRAINING_LENGTH, TRAINING_TEXTS, NUM_STEPS = 40, 8, 300
ROUNDS = 25


def write_text(generator: random.Random, length: int) -> Text:
    """Fillers and entities: a label's first word, up to 5 fillers or an inner entity, the label's last word."""
    token_ids: list[int] = []
    cells: list[tuple[int, int, int]] = []

    def mention(depth: int) -> None:
        label, start = generator.randrange(NUM_LABELS), len(token_ids)
        token_ids.append(NUM_FILLERS + 2 * label)
        if depth == 0 and generator.random() < 0.2:
            mention(depth + 1)
        else:
            token_ids.extend(generator.randrange(NUM_FILLERS) for _ in range(generator.randrange(6)))
        token_ids.append(NUM_FILLERS + 2 * label + 1)
        cells.append((label, start, len(token_ids) - 1))

    while len(token_ids) < length:
        token_ids.extend(generator.randrange(NUM_FILLERS) for _ in range(generator.randrange(8)))
        mention(0)
    return token_ids[:length], [cell for cell in cells if cell[2] < length]


def positives(texts: list[Text], length: int) -> Tensor:
    """Gold cells [B, C, P] as flat indices, filled up with -1."""
    cells = [[[s * length + e for c, s, e in gold if c == label] for label in range(NUM_LABELS)] for _, gold in texts]
    longest = max(1, max(len(row) for text in cells for row in text))
    return torch.tensor([[row + [-1] * (longest - len(row)) for row in text] for text in cells])


def train(kind: Kind) -> SpanModel:
    """A small model that knows the language."""
    torch.manual_seed(0)
    generator = random.Random(0)
    encoder = RoFormerConfig(
        vocab_size=VOCAB_SIZE, hidden_size=128, num_layers=1, num_heads=4, intermediate_size=256, dropout=0.0
    )
    model = SpanModel(ModelConfig(encoder=encoder, heads=Heads(spans=HeadConfig(kind=kind))), NUM_LABELS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=NUM_STEPS)
    for _ in range(NUM_STEPS):
        texts = [write_text(generator, TRAINING_LENGTH) for _ in range(TRAINING_TEXTS)]
        optimizer.zero_grad()
        grid_BCLL = model(pad([token_ids for token_ids, _ in texts], 0))
        sparse_zlpr(grid_BCLL, positives(texts, TRAINING_LENGTH)).mean().backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def full_grid(projection: Projection, valid_BL: Tensor, cutoff_C: Tensor) -> tuple[Tensor, Tensor]:
    """Cells [N, 4] (text, label, start, end) above their cut-offs, and their scores."""
    grid_BCLL = scores(projection, valid_BL)
    cells = (grid_BCLL > cutoff_C[:, None, None]).nonzero()
    return cells, grid_BCLL[cells.unbind(-1)]


def sparse(projection: Projection, cutoff_C: Tensor) -> tuple[Tensor, Tensor]:
    """The same without the grid."""
    found = [candidates(one_text(projection, text), cutoff_C) for text in range(NUM_TEXTS)]
    columns = [
        torch.stack([torch.full_like(cells.label_N, text), cells.label_N, cells.start_N, cells.end_N], -1)
        for text, cells in enumerate(found)
    ]
    return torch.cat(columns), torch.cat([cells.score_N for cells in found])


def one_text(projection: Projection, text: int) -> Projection:
    parts = (projection.query, projection.key, projection.start, projection.end)
    query, key, start, end = (None if part is None else part[text : text + 1] for part in parts)
    assert query is not None
    assert key is not None
    return Projection(query, key, start, end)


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


@torch.inference_mode()
def measure(model: SpanModel) -> dict[str, object]:
    """Times of both ways with one thread and with two, after a check that they find the same."""
    generator = random.Random(1)
    texts = [write_text(generator, LENGTH) for _ in range(NUM_TEXTS)]
    batch = pad([token_ids for token_ids, _ in texts], 0)
    hidden_BLD = model.encoder(batch)
    projection = model.spans.project(hidden_BLD, batch.position_BL)
    valid_BL, cutoff_C = batch.valid_BL(), torch.zeros(NUM_LABELS)
    ways: list[Callable[[], object]] = [
        lambda: full_grid(projection, valid_BL, cutoff_C),
        lambda: sparse(projection, cutoff_C),
        lambda: model.spans.project(hidden_BLD, batch.position_BL),
    ]
    cells, score_N = sparse(projection, cutoff_C)
    expected_cells, expected_score_N = full_grid(projection, valid_BL, cutoff_C)
    assert torch.equal(cells, expected_cells)
    torch.testing.assert_close(score_N, expected_score_N, rtol=0, atol=1e-4)
    gold = {(text, *cell) for text, (_, own) in enumerate(texts) for cell in own}
    right = gold & {tuple(cell) for cell in cells.tolist()}
    return {
        "candidates": len(cells),
        "f1": round(2 * len(right) / (len(gold) + len(cells)), 3),
        "1 thread": compare(ways, 1),
        "2 threads": compare(ways, 2),
    }


def compare(ways: list[Callable[[], object]], num_threads: int) -> dict[str, float]:
    """Medians over the rounds; the ratio is the median of each round's own."""
    torch.set_num_threads(num_threads)
    rounds = [[seconds(way) for way in ways] for _ in range(ROUNDS + 2)][2:]
    full_s, sparse_s, project_s = (statistics.median(times) for times in zip(*rounds, strict=True))
    return {
        "full_grid_ms": round(1e3 * full_s, 2),
        "candidates_ms": round(1e3 * sparse_s, 2),
        "projection_ms": round(1e3 * project_s, 2),
        "times_faster": round(statistics.median(full / sparse for full, sparse, _ in rounds), 1),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    print(
        json.dumps(
            {
                "command": "python -m benchmarks.candidates",
                "date": time.strftime("%Y-%m-%d"),
                "hardware": processor(),
                "torch": torch.__version__,
                "labels": NUM_LABELS,
                "tokens": LENGTH,
                "texts": NUM_TEXTS,
                "rounds": ROUNDS,
                "global_pointer": measure(train("global_pointer")),
                "efficient_global_pointer": measure(train("efficient_global_pointer")),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
