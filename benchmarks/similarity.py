"""How well a bundle's vectors tell which sentences are alike.

    python -m benchmarks.similarity BUNDLE --data FOLDER

Every `dev.jsonl` or `dev.jsonl.gz` below FOLDER, links followed, is a file of pairs with numbers as labels
(`training.data.pairs`). The score of a pair is the cosine of its vectors. Where labels are 0 and 1, AUC: how often a
pair labelled 1 scores higher than one labelled 0, a tie counting half. Where they are scores, Spearman's rank
correlation of cosines and labels.

Beside it stands the same of a model before training: `--before` names a bundle with an embedding head, or one without,
whose encoder then has BUNDLE's head with random weights; left out, all weights are random. Prints one JSON object.
Shapes: P pairs, N sentences, E width of a vector.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer

from benchmarks.machine import processor
from ner_service.bundle import Bundle
from ner_service.errors import ConfigError, DataError
from ner_service.model.text_model import TextModel
from ner_service.recognizer import Recognizer, pick_device
from ner_service.terminal import refusals
from training.data.pairs import Pair, read_pairs

Floats = npt.NDArray[np.float64]

DEV_FILES = ("dev.jsonl", "dev.jsonl.gz")
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
        DataError: a pair has none, or one of inference.
    """
    labels = [pair.label for pair in pairs if isinstance(pair.label, float)]
    if len(labels) < len(pairs):
        raise DataError(path, None, f"found a number as label of {len(labels)} of {len(pairs)} pairs, expected all")
    return np.array(labels)


def cosines(recognizer: Recognizer, pairs: list[Pair]) -> Floats:
    """Of the vectors of each pair, [P]."""
    sentences = dict.fromkeys(sentence for pair in pairs for sentence in (pair.first, pair.second))
    unit_NE = recognizer.vectors(list(sentences)).astype(np.float64)
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


def dev_files(folder: Path) -> list[Path]:
    """Every `dev.jsonl` and `dev.jsonl.gz` below a folder, links followed.

    Raises:
        ConfigError: there is none.
    """
    walk = os.walk(folder, followlinks=True)
    paths = sorted(Path(place, name) for place, _, names in walk for name in names if name in DEV_FILES)
    if not paths:
        raise ConfigError(f"--data {folder}: found no {' or '.join(DEV_FILES)} below it, expected at least one")
    return paths


def row(path: Path, models: Mapping[str, Recognizer]) -> dict[str, object]:
    """How many pairs a file has, and what each model makes of them.

    Raises:
        DataError: the file cannot be read, a pair has no number as label, or all have the same.
        MissingHeadError: a model makes no vectors.
    """
    pairs = read_pairs(path)
    label_P = labels_of(path, pairs)
    if len(set(label_P.tolist())) == 1:
        raise DataError(path, None, f"found {label_P[0]:g} as the label of every pair, expected labels that differ")
    values = {name: round(quality(model, pairs, label_P), 4) for name, model in models.items()}
    return {"pairs": len(pairs), "measure": measure_of(label_P), **values}


def main(
    bundle: Annotated[Path, typer.Argument(help="A bundle with an embedding head.")],
    data: Annotated[Path, typer.Option(help="Folder with files of labelled pairs.")],
    start: Annotated[Path | None, typer.Option("--before", help="A bundle from before training.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Measure and print."""
    with refusals():
        trained = Bundle.load(bundle)
        bundles = {"value": trained, "before": before(trained, Bundle.load(start) if start else None)}
        models = {name: Recognizer(each, pick_device(device)) for name, each in bundles.items()}
        rows = [{"file": str(path.relative_to(data)), **row(path, models)} for path in dev_files(data)]
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
