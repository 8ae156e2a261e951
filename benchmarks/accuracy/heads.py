"""Which head finds most with the same encoder, data and budget: four heads, three seeds, F1 beside time and memory.

    python -m benchmarks.accuracy.heads --data FOLDER --state FOLDER --start BUNDLE [--jobs 2] [--minutes 30] [--full]
    python -m benchmarks.accuracy.heads --table

FOLDER of the data holds a folder a set, each with `train.jsonl.gz` and `dev.jsonl.gz`; subsets and runs stand in the
state folder. BUNDLE has a RoFormer that has not been trained on entities. A finished run is a line of
`benchmarks/results/heads.jsonl` and is never run again, so a killed command goes on with the run that it was in; runs
from another encoder, or on the full sets, are others. Needs `pytorch-crf`.

Every run is `heads.toml` with its head's settings. Pointer heads are trained by `ner-train train`, taggers by
`benchmarks.accuracy.tagging`, each in a process of its own on one thread. A tenth of the training texts, by a hash of
the text, chooses the epoch (and a tagger's rule); dev is read once, for the row. Taggers learn the outermost mentions,
for tags can say no more; all are measured against every mention and, apart, against the outermost ones.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import torch
import typer

from benchmarks.accuracy.taggers import TRANSITIONS_LR, TaggerKind
from benchmarks.accuracy.tagging import entities, load_tagger, predict
from benchmarks.accuracy.tags import Rule
from benchmarks.candidates import processor
from benchmarks.processes import ROOT, Finished, run_module
from ner_service.bundle import read_manifest
from ner_service.errors import ConfigError
from ner_service.formats import read_documents, write_documents
from ner_service.model.config import RoFormerConfig
from ner_service.recognizer import Recognizer, pick_device
from ner_service.terminal import refusals
from ner_service.types import Document
from training.config import load_run
from training.data.raw import fraction_of
from training.evaluation import Report, compare
from training.evaluation import predict as recognize
from training.preparation import prepare

RESULTS = ROOT / "benchmarks/results/heads.jsonl"
RECIPE = ROOT / "benchmarks/accuracy/heads.toml"
SEEDS = (0, 1, 2)
NUM_TEXTS = 2000
"""Training texts of a set that is cut, with those to choose by."""

CHOOSING_SHARE = 0.1

Head = Literal["efficient_global_pointer", "global_pointer", "token_classification", "crf"]
REFERENCE: Head = "efficient_global_pointer"
TAGGERS: tuple[TaggerKind, ...] = get_args(TaggerKind)

# Every head starts from random weights on a trained encoder, so each learns faster than that: five times, as in our
# recipes and usual for the linear map of a tagger. Transitions: `benchmarks.accuracy.taggers.TRANSITIONS_LR`.
SETTINGS: dict[Head, tuple[str, ...]] = {
    "efficient_global_pointer": ('model.head.kind="efficient_global_pointer"', "optimizer.head_lr=1e-3"),
    "global_pointer": ('model.head.kind="global_pointer"', "optimizer.head_lr=1e-3"),
    "token_classification": ("optimizer.head_lr=1e-3",),
    "crf": ("optimizer.head_lr=1e-3",),
}

EPOCHS = {"cluener": 10, "cmeee": 10, "wnut17": 15}
"""Of the sets that are cut: some 700 to 1,000 steps; a pointer head predicts nothing in its first 100 to 350."""

FULL_EPOCHS = {"cluener": 6, "cmeee": 5, "weibo": 15, "germeval2014_de": 5, "wnut17": 10, "bc5cdr": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The bundle that runs start from: its folder, its name and the SHA-256 of its weights."""

    folder: Path
    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run: a head on a set, cut or full, with a seed, from weights of this SHA-256."""

    data: str
    full: bool
    head: Head
    seed: int
    start_sha256: str

    @property
    def subset(self) -> str:
        return self.data if self.full else f"{self.data}-{NUM_TEXTS}"

    @property
    def name(self) -> str:
        return f"{self.subset}-{self.head}-{self.seed}-{self.start_sha256[:8]}"

    @property
    def epochs(self) -> int:
        return (FULL_EPOCHS if self.full else EPOCHS)[self.data]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Files of documents: those to learn from, and those to choose the epoch by."""

    learn: Path
    choose: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a run.

    `num_train` counts the documents learnt from; `settings` are the learning rates. `selected_epoch` counts from 1;
    `selection_f1` is its F1 on the tenth, `f1` and `outermost_f1` are on dev. `rule` is a tagger's
    (`benchmarks.accuracy.tags`). `cpu_s` is the processor time of training and `peak_mib` the largest resident size of
    its process.
    """

    data: str
    full: bool
    head: Head
    seed: int
    start_sha256: str
    start: str
    num_train: int
    epochs: int
    settings: tuple[str, ...]
    selected_epoch: int
    selection_f1: float
    rule: Rule | None
    f1: float
    outermost_f1: float
    cpu_s: float
    peak_mib: float
    date: str
    hardware: str
    torch: str

    @property
    def run(self) -> Run:
        return Run(data=self.data, full=self.full, head=self.head, seed=self.seed, start_sha256=self.start_sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained head: the epoch that the tenth chose, what it scored there, and the report on dev."""

    selected_epoch: int
    selection_f1: float
    rule: Rule | None
    report: Report
    cost: Finished


def read_rows(path: Path = RESULTS) -> list[Row]:
    """The finished runs."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    values = (json.loads(line) for line in lines)
    return [Row(**{**value, "settings": tuple(value["settings"])}) for value in values]


def planned(rows: Sequence[Row], start_sha256: str, *, full: bool) -> list[Run]:
    """Runs still to do, all heads of a seed before the next seed: a comparison that was broken off is fair too."""
    done = {row.run for row in rows}
    everything = (
        Run(data=data, full=full, head=head, seed=seed, start_sha256=start_sha256)
        for seed in SEEDS
        for data in (FULL_EPOCHS if full else EPOCHS)
        for head in SETTINGS
    )
    return [run for run in everything if run not in done]


def read_start(folder: Path) -> Start:
    """The bundle that all heads start from.

    Raises:
        BundleError: it cannot be read.
        ConfigError: its encoder is no RoFormer, or has been trained on entities.
    """
    manifest = read_manifest(folder)
    if not isinstance(manifest.model.encoder, RoFormerConfig):
        raise ConfigError(f"--start {folder}: found the encoder {manifest.model.encoder.kind!r}, expected 'roformer'")
    if manifest.model.heads.spans is not None:
        raise ConfigError(f"--start {folder}: found a `spans` head, expected an encoder not trained on entities")
    return Start(folder=folder.resolve(), name=manifest.name, sha256=manifest.files["model.safetensors"].sha256)


def execute(run: Run, start: Start, data: Path, state: Path) -> Row:
    """Train from the start, for its whole cost is measured, and say what came of it."""
    split = split_texts(run, data, state)
    dev = list(read_documents(data / run.data / "dev.jsonl.gz"))
    train = train_tagger if run.head in TAGGERS else train_pointer
    options = options_of(run, start, split)
    trained = train(run, options, dev, state / run.name)
    return Row(
        **asdict(run),
        start=start.name,
        num_train=sum(1 for _ in read_documents(split.learn)),
        epochs=run.epochs,
        settings=rates_of(run.head, options),
        selected_epoch=trained.selected_epoch,
        selection_f1=trained.selection_f1,
        rule=trained.rule,
        f1=trained.report.micro.f1,
        outermost_f1=trained.report.outer.f1,
        cpu_s=trained.cost.cpu_s,
        peak_mib=trained.cost.peak_mib,
        date=datetime.now(UTC).date().isoformat(),
        hardware=hardware(),
        torch=version("torch"),
    )


def split_texts(run: Run, data: Path, state: Path) -> Split:
    """The set's training documents, cut or all, in two files: a tenth to choose by, the others to learn from.

    Hashes of the text decide, none of which may have cut off the set's own dev documents.
    """
    split = Split(learn=state / f"{run.subset}-learn.jsonl", choose=state / f"{run.subset}-choose.jsonl")
    if not (split.learn.exists() and split.choose.exists()):
        documents = list(read_documents(data / run.data / "train.jsonl.gz"))
        if not run.full:
            documents = sorted(documents, key=lambda document: fraction_of("cut " + document.text))[:NUM_TEXTS]
        chooses = [fraction_of("choose " + document.text) < CHOOSING_SHARE for document in documents]
        write_documents([d for d, chosen in zip(documents, chooses, strict=True) if chosen], split.choose)
        write_documents([d for d, chosen in zip(documents, chooses, strict=True) if not chosen], split.learn)
    return split


def options_of(run: Run, start: Start, split: Split) -> list[str]:
    """`--set` options of a run. Labels are also those that only the tenth to choose by has."""
    documents = (document for path in (split.learn, split.choose) for document in read_documents(path))
    labels = sorted({entity.label for document in documents for entity in document.entities})
    settings = (
        f"seed={run.seed}",
        f"epochs={run.epochs}",
        f'model.start_from="{start.folder}"',
        f'data.train=[{{ path = "{split.learn}" }}]',
        f'data.dev=[{{ path = "{split.choose}" }}]',
        f"data.labels={json.dumps(labels, ensure_ascii=False)}",
        *SETTINGS[run.head],
    )
    return [part for setting in settings for part in ("--set", setting)]


def rates_of(head: Head, options: Sequence[str]) -> tuple[str, ...]:
    """The learning rates that a run had, for its row: `heads.toml` may have others by and by."""
    optimizer = load_run(RECIPE, options[1::2]).optimizer
    rates = (f"lr={optimizer.lr:g}", f"head_lr={optimizer.head_lr:g}")
    return (*rates, f"transitions_lr={TRANSITIONS_LR:g}") if head == "crf" else rates


def train_pointer(run: Run, options: Sequence[str], dev: Sequence[Document], output: Path) -> Trained:
    """What a user does: `ner-train train`, and the bundle's recognizer."""
    shutil.rmtree(output, ignore_errors=True)
    cost = run_module("training.cli", ["train", str(RECIPE), "-o", str(output), "--json", *options])
    metrics = json.loads(cost.output)
    best: int = metrics["best_epoch"]
    recognizer = Recognizer.load(output / "bundle")
    return Trained(
        selected_epoch=best,
        selection_f1=metrics["history"][str(best)]["f1"],
        rule=None,
        report=compare(dev, recognize(recognizer, dev)),
        cost=cost,
    )


def train_tagger(run: Run, options: Sequence[str], dev: Sequence[Document], output: Path) -> Trained:
    """The same with a tagger."""
    shutil.rmtree(output, ignore_errors=True)
    kind = cast(TaggerKind, run.head)
    cost = run_module("benchmarks.accuracy.tagging", [str(RECIPE), "--head", kind, "-o", str(output), *options])
    best = json.loads(cost.output)["best"]
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


def hardware() -> str:
    """What a run is trained on."""
    if pick_device("auto").type == "cuda":
        return f"{torch.cuda.get_device_name()}, {processor()}"
    return f"{processor()}, one thread"


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: mean F1 and its spread for every set and head, time and memory as ratios to the reference head."""
    yield "| set | encoder | head | F1, mean (standard deviation) of seeds | outermost mentions | time | memory |"
    yield "|---|---|---|---|---|---|---|"
    groups = dict.fromkeys((row.run.subset, row.start, row.start_sha256) for row in rows)
    for group in groups:
        own = [row for row in rows if (row.run.subset, row.start, row.start_sha256) == group]
        reference = [row for row in own if row.head == REFERENCE]
        for head in SETTINGS:
            of_head = [row for row in own if row.head == head]
            if not of_head:
                continue
            scores = (_spread([row.f1 for row in of_head]), _spread([row.outermost_f1 for row in of_head]))
            cells = (*group[:2], head, *scores, *_ratios(of_head, reference))
            yield f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    spread = f"({statistics.stdev(values):.4f}) of {len(values)}" if len(values) > 1 else "(one seed)"
    return f"{mean:.4f} {spread}"


def _ratios(own: Sequence[Row], reference: Sequence[Row]) -> tuple[str, str]:
    """Median time and memory against the reference's; a dash where that has no row yet."""
    if not reference:
        return "-", "-"
    time_ratio = statistics.median(r.cpu_s for r in own) / statistics.median(r.cpu_s for r in reference)
    memory_ratio = statistics.median(r.peak_mib for r in own) / statistics.median(r.peak_mib for r in reference)
    return f"{time_ratio:.2f}", f"{memory_ratio:.2f}"


def run_all(start: Start, data: Path, state: Path, *, full: bool, jobs: int, minutes: float) -> None:
    """Run what is still to do until the time is over, a line of the results for each."""
    state.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    until_s = time.monotonic() + 60 * minutes
    busy: set[Run] = set()

    def work() -> None:
        while time.monotonic() < until_s:
            left = planned(read_rows(), start.sha256, full=full)
            run = next((run for run in left if run not in busy), None)
            if run is None:
                return
            busy.add(run)
            row = execute(run, start, data.resolve(), state.resolve())
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
            print(f"{run.name}: F1 {row.f1:.4f}, {row.cpu_s:.0f} s, {row.peak_mib:.0f} MiB", file=sys.stderr)

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(work) for _ in range(jobs)]:
            future.result()


def main(
    data: Annotated[Path | None, typer.Option(help="Folder of the sets.")] = None,
    state: Annotated[Path | None, typer.Option(help="Folder for subsets and runs.")] = None,
    start: Annotated[Path | None, typer.Option(help="The bundle with the encoder.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
    minutes: Annotated[float, typer.Option(help="No run is begun after so many.")] = 30.0,
    full: Annotated[bool, typer.Option("--full", help="All six sets, uncut.")] = False,
    show_table: Annotated[bool, typer.Option("--table", help="Print the table of the finished runs.")] = False,
) -> None:
    """Compare heads on one encoder."""
    if show_table:
        print("\n".join(table(read_rows())))
        return
    if data is None or state is None or start is None:
        raise typer.BadParameter("expected --data, --state and --start, or --table")
    with refusals():
        run_all(read_start(start), data, state, full=full, jobs=jobs, minutes=minutes)


if __name__ == "__main__":
    typer.run(main)
