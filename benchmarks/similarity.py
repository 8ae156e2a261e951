"""How well a bundle's vectors tell which sentences are alike.

    python -m benchmarks.similarity BUNDLE --data FOLDER

Every `dev.jsonl` or `dev.jsonl.gz` below FOLDER is a file of labelled pairs (`training.data.pairs`). The score of a
pair is the cosine of its vectors. Where labels are 0 and 1, AUC: how often a pair labelled 1 scores higher than one
labelled 0, a tie counting half. Where they are scores, Spearman's rank correlation of cosines and labels.

Beside it stands the same of a model before training: `--before` names a bundle with an embedding head, or one without,
whose encoder then has BUNDLE's head with random weights; left out, all weights are random. Prints one JSON object.
Shapes: P pairs, N sentences, E width of a vector.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer

from benchmarks.candidates import processor
from ner_service.bundle import Bundle
from ner_service.errors import ConfigError, DataError
from ner_service.model.text_model import TextModel
from ner_service.recognizer import Recognizer, pick_device
from training.data.pairs import Pair, read_pairs
from training.objectives.similarity.teacher import sentence_vectors

Floats = npt.NDArray[np.float64]

DECIMALS = 6
"""Of a cosine: beyond them vectors in single precision differ by rounding, and equal sentences would not tie."""

# ---- measures


def average_ranks(values: Floats) -> Floats:
    """1 for the smallest of P values; equal ones share the mean of their ranks."""
    _, index_P, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((counts.cumsum() - (counts - 1) / 2)[index_P], dtype=np.float64)


def auc(scores: Floats, positive: npt.NDArray[np.bool_]) -> float:
    """The area under the ROC curve, by the rank sum of the positives (Mann and Whitney).

    Raises:
        ValueError: there are no positives, or nothing else.
    """
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        raise ValueError(f"found {num_positive} positives and {num_negative} negatives, expected some of both")
    rank_sum = float(average_ranks(scores)[positive].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def spearman(first: Floats, second: Floats) -> float:
    """The correlation of the ranks.

    Raises:
        ValueError: all values of either are equal.
    """
    ranks = [average_ranks(values) - (len(values) + 1) / 2 for values in (first, second)]
    squares = [float(np.square(each).sum()) for each in ranks]
    if 0.0 in squares:
        raise ValueError("found values that are all equal, expected some that differ")
    return float((ranks[0] * ranks[1]).sum()) / float(np.sqrt(squares[0] * squares[1]))


# ---- a file and a model


def labels_of(path: Path, pairs: list[Pair]) -> Floats:
    """One a pair.

    Raises:
        DataError: a pair has none.
    """
    labels = [pair.label for pair in pairs if pair.label is not None]
    if len(labels) < len(pairs):
        raise DataError(path, None, f"found {len(labels)} labels of {len(pairs)} pairs, expected one each")
    return np.array(labels)


def cosines(recognizer: Recognizer, pairs: list[Pair]) -> Floats:
    """Of the vectors of each pair, [P]."""
    sentences = dict.fromkeys(sentence for pair in pairs for sentence in (pair.first, pair.second))
    unit_NE = sentence_vectors(recognizer, list(sentences)).astype(np.float64)
    place = {sentence: number for number, sentence in enumerate(sentences)}
    first_PE = unit_NE[[place[pair.first] for pair in pairs]]
    second_PE = unit_NE[[place[pair.second] for pair in pairs]]
    return np.asarray((first_PE * second_PE).sum(-1).round(DECIMALS), dtype=np.float64)


def quality(recognizer: Recognizer, pairs: list[Pair], label_P: Floats) -> float:
    """AUC or Spearman, as the labels are."""
    score_P = cosines(recognizer, pairs)
    return auc(score_P, label_P == 1) if measure_of(label_P) == "auc" else spearman(score_P, label_P)


def measure_of(label_P: Floats) -> str:
    return "auc" if set(label_P.tolist()) <= {0.0, 1.0} else "spearman"


def before(bundle: Bundle, start: Bundle | None) -> Bundle:
    """What a bundle was before it was trained.

    Raises:
        ConfigError: `start` has no embedding head, and its encoder is not the bundle's.
    """
    config = bundle.manifest.model
    if start is not None and start.manifest.model.heads.embedding:
        return start
    torch.manual_seed(0)
    weights = TextModel(config, len(bundle.manifest.labels)).state_dict()
    if start is not None:
        if start.manifest.model.encoder != config.encoder:
            raise ConfigError(f"--before: found {start.manifest.model.encoder}, expected {config.encoder}")
        weights.update({name: tensor for name, tensor in start.weights.items() if name.startswith("encoder.")})
    return replace(bundle, weights=weights, tokenizer=start.tokenizer if start else bundle.tokenizer)


def main(
    bundle: Annotated[Path, typer.Argument(help="A bundle with an embedding head.")],
    data: Annotated[Path, typer.Option(help="Folder with files of labelled pairs.")],
    start: Annotated[Path | None, typer.Option("--before", help="A bundle from before training.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Measure and print."""
    trained = Bundle.load(bundle)
    bundles = {"value": trained, "before": before(trained, Bundle.load(start) if start else None)}
    models = {name: Recognizer(each, pick_device(device)) for name, each in bundles.items()}
    paths = sorted(data.rglob("dev.jsonl*"))
    if not paths:
        raise ConfigError(f"--data {data}: found no dev.jsonl or dev.jsonl.gz below it, expected at least one")
    rows = []
    for path in paths:
        pairs = read_pairs(path)
        label_P = labels_of(path, pairs)
        values = {name: round(quality(model, pairs, label_P), 4) for name, model in models.items()}
        rows.append(
            {"file": str(path.relative_to(data)), "pairs": len(pairs), "measure": measure_of(label_P), **values}
        )
    result = {
        "command": " ".join(["python -m benchmarks.similarity", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "hardware": processor(),
        "torch": torch.__version__,
        "model": trained.manifest.name,
        "before": str(start) if start else "random weights",
        "rows": rows,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    typer.run(main)
