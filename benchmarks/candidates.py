"""Candidates against the full grid: the same cells, how much faster. Run as `python -m benchmarks.candidates [BUNDLE]`.

Scores and thresholds are those of a trained bundle with an Efficient GlobalPointer head (the starter, unless another is
named) on sentences of `ner-train init`. Labels are made 50 by reading the trained ones' start and end terms off other
places of the text: their terms are a trained model's, and no entity is found seventeen times. GlobalPointer is measured
on the same scores: an efficient head is one of a head size larger by two, whose extra channels hold the two terms.

The full grid is `scores` of the whole batch, as training computes it, then the comparison with the cut-offs and the
look-up of what is above them; candidates are sought text by text, as the recogniser does. Both start from the same
projection and are timed in turn, so that a busy machine slows both. Prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import where
from ner_service.model.batch import pad
from ner_service.model.heads import Projection, candidates, scores
from ner_service.recognizer import Recognizer
from ner_service.types import RecognizeOptions
from training.sample import sample_documents

NUM_LABELS, NUM_TEXTS, LENGTH = 50, 2, 512
SHIFT = 17
ROUNDS = 25


def token_rows(recognizer: Recognizer) -> list[list[int]]:
    """The sample's sentences, end to end, as rows of `LENGTH` tokens."""
    text = "\n".join(document.text for document in sample_documents(400))
    token_ids = list(recognizer.tokenizer.encode(text).token_ids)
    return [token_ids[row * LENGTH : (row + 1) * LENGTH] for row in range(NUM_TEXTS)]


def enlarged(projection: Projection, num_labels: int) -> Projection:
    """The projection of a head with more labels: those beyond its own are its own, `SHIFT` tokens further each time."""
    assert projection.start is not None
    assert projection.end is not None
    own = projection.start.shape[1]
    start, end = (
        torch.stack([terms[:, label % own].roll(label // own * SHIFT, dims=-1) for label in range(num_labels)], 1)
        for terms in (projection.start, projection.end)
    )
    return Projection(projection.query, projection.key, start, end)


def as_global_pointer(efficient: Projection) -> Projection:
    """The same scores from queries [q; start; 1] and keys [k; 1; end], one of each a label and token."""
    assert efficient.start is not None
    assert efficient.end is not None
    num_labels = efficient.start.shape[1]
    query, key = (part.expand(-1, num_labels, -1, -1) for part in (efficient.query, efficient.key))
    start, end = efficient.start[..., None], efficient.end[..., None]
    one = torch.ones_like(start)
    return Projection(torch.cat([query, start, one], -1), torch.cat([key, one, end], -1))


def full_grid(projection: Projection, valid_BL: Tensor, cutoff_C: Tensor) -> Tensor:
    """Cells [N, 4]: text, label, start, end."""
    return (scores(projection, valid_BL) > cutoff_C[:, None, None]).nonzero()


def sparse(projection: Projection, cutoff_C: Tensor) -> Tensor:
    """The same without the grid."""
    found = [candidates(one, cutoff_C) for one in one_by_one(projection)]
    rows = [
        torch.stack([torch.full_like(c.label_N, i), c.label_N, c.start_N, c.end_N], -1) for i, c in enumerate(found)
    ]
    return torch.cat(rows)


def one_by_one(projection: Projection) -> Iterator[Projection]:
    parts = (projection.query, projection.key, projection.start, projection.end)
    for text in range(NUM_TEXTS):
        query, key, start, end = (None if part is None else part[text : text + 1] for part in parts)
        assert query is not None
        assert key is not None
        yield Projection(query, key, start, end)


def seconds(step: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    step()
    return time.perf_counter() - start_s


def measure(projection: Projection, valid_BL: Tensor, cutoff_C: Tensor) -> dict[str, object]:
    """Times of both ways, after a check that they find the same."""
    cells = sparse(projection, cutoff_C)
    assert torch.equal(cells, full_grid(projection, valid_BL, cutoff_C))
    rounds = [
        (seconds(lambda: full_grid(projection, valid_BL, cutoff_C)), seconds(lambda: sparse(projection, cutoff_C)))
        for _ in range(ROUNDS)
    ]
    ratios = [full_s / sparse_s for full_s, sparse_s in rounds]
    return {
        "candidates": len(cells),
        "full_grid_ms": round(1e3 * statistics.median(full_s for full_s, _ in rounds), 2),
        "candidates_ms": round(1e3 * statistics.median(sparse_s for _, sparse_s in rounds), 2),
        "times_faster": round(statistics.median(ratios), 1),
        "quartiles": [round(ratio, 1) for ratio in statistics.quantiles(ratios, n=4)],
    }


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    recognizer = Recognizer.load(Path(sys.argv[1] if len(sys.argv) > 1 else "models/starter"), "cpu")
    recognizer.require_head("spans")
    assert recognizer.model.spans is not None
    batch = pad(token_rows(recognizer), recognizer.tokenizer.pad_id)
    projection = recognizer.model.spans.project(recognizer.model.encoder(batch), batch.order_BL)
    efficient = enlarged(projection, NUM_LABELS)
    cutoffs = torch.tensor(recognizer.cutoffs(RecognizeOptions()))
    cutoff_C = cutoffs[torch.arange(NUM_LABELS) % len(cutoffs)]
    result = {
        "command": "python -m benchmarks.candidates",
        **where(),
        "model": recognizer.manifest.name,
        "labels": NUM_LABELS,
        "tokens": LENGTH,
        "texts": NUM_TEXTS,
        "rounds": ROUNDS,
        "efficient_global_pointer": measure(efficient, batch.valid_BL(), cutoff_C),
        "global_pointer": measure(as_global_pointer(efficient), batch.valid_BL(), cutoff_C),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
