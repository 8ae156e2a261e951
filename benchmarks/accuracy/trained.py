"""One head trained by `heads.toml` in a process of its own, and what it finds in dev.

Pointer heads are trained by `ner-train train`, taggers by `benchmarks.accuracy.tagging`. Knows no plan.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.accuracy.costs import Cost, run_measured
from benchmarks.accuracy.splits import Split
from benchmarks.accuracy.taggers import TaggerKind
from benchmarks.accuracy.tagging import entities, load_tagger, predict
from benchmarks.accuracy.tags import Rule
from benchmarks.processes import ROOT
from ner_service.formats import read_documents
from ner_service.recognizer import Recognizer
from ner_service.types import Document
from training.config import load_run
from training.evaluation import Report, compare
from training.evaluation import predict as recognize
from training.preparation import prepare

RECIPE = ROOT / "benchmarks/accuracy/heads.toml"

Head = Literal["efficient_global_pointer", "global_pointer", "token_classification", "crf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained head: the epoch that the tenth chose, what it scored there, and the report on dev."""

    selected_epoch: int
    selection_f1: float
    rule: Rule | None
    report: Report
    cost: Cost


def options_of(seed: int, epochs: int, start: Path, split: Split, own: Sequence[str]) -> list[str]:
    """`--set` options of a run from a bundle. Labels are also those that only the tenth to choose by has."""
    documents = (document for path in (split.learn, split.choose) for document in read_documents(path))
    labels = sorted({entity.label for document in documents for entity in document.entities})
    settings = (
        f"seed={seed}",
        f"epochs={epochs}",
        f'model.start_from="{start}"',
        f'data.train=[{{ path = "{split.learn}" }}]',
        f'data.dev=[{{ path = "{split.choose}" }}]',
        f"data.labels={json.dumps(labels, ensure_ascii=False)}",
        *own,
    )
    return [part for setting in settings for part in ("--set", setting)]


def train(head: Head, options: Sequence[str], dev: Sequence[Document], output: Path) -> Trained:
    """Train a head from the start, into the folder `output`, and measure it on dev; `options` are `--set` ones."""
    shutil.rmtree(output, ignore_errors=True)
    match head:
        case "efficient_global_pointer" | "global_pointer":
            return train_pointer(options, dev, output)
        case "token_classification" | "crf":
            return train_tagger(head, options, dev, output)


def train_pointer(options: Sequence[str], dev: Sequence[Document], output: Path) -> Trained:
    """A pointer head, as a user does it: `ner-train train`, and the bundle's recognizer."""
    written, cost = run_measured("training.cli", ["train", str(RECIPE), "-o", str(output), "--json", *options])
    metrics = json.loads(written)
    best: int = metrics["best_epoch"]
    recognizer = Recognizer.load(output / "bundle")
    return Trained(
        selected_epoch=best,
        selection_f1=metrics["history"][str(best)]["f1"],
        rule=None,
        report=compare(dev, recognize(recognizer, dev)),
        cost=cost,
    )


def train_tagger(kind: TaggerKind, options: Sequence[str], dev: Sequence[Document], output: Path) -> Trained:
    """A tagger: `benchmarks.accuracy.tagging`, and the weights of its best epoch."""
    arguments = [str(RECIPE), "--head", kind, "-o", str(output), *options]
    written, cost = run_measured("benchmarks.accuracy.tagging", arguments)
    best = json.loads(written)["best"]
    setup = prepare(load_run(RECIPE, options[1::2]), RECIPE.parent, RECIPE.parent)
    answers = predict(load_tagger(kind, setup, output), setup, [document.text for document in dev])
    found = [entities(answer, setup.corpus.labels, best["rule"]) for answer in answers]
    return Trained(
        selected_epoch=best["epoch"],
        selection_f1=best["f1"],
        rule=best["rule"],
        report=compare(dev, found),
        cost=cost,
    )
