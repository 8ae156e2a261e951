"""Which head finds most with the same encoder, data and budget: four heads, three seeds, F1 beside time and memory.

    python -m benchmarks.accuracy.heads --data FOLDER --state FOLDER --start BUNDLE [--jobs 2] [--minutes 30] [--full]
    python -m benchmarks.accuracy.heads --table

FOLDER of the data holds a folder a set, each with `train.jsonl.gz` and `dev.jsonl.gz`; subsets and runs stand in the
state folder. BUNDLE has a RoFormer that has not been trained on entities. A finished run is a line of
`benchmarks/results/heads.jsonl` and is never run again, so a killed command goes on with the run that it was in; runs
from another encoder, or on the full sets, are others. Needs `pytorch-crf`.

Every run is `heads.toml` with its head's settings. Pointer heads are trained by `ner-train train`, taggers by
`benchmarks.accuracy.tagging`, each in a process of its own on one thread. A tenth of the training texts, by a hash of
the text, chooses the epoch (and a tagger's rule); dev is read once, for the row. It chooses the learning rate, too:
with each head the first seed learns CLUENER at all of `RATES`, and what scored most on the tenth is the rate of the
head's other runs. Taggers learn the outermost mentions, for tags can say no more; all are measured against every
mention and, apart, against the outermost ones. What time and memory are is said in `benchmarks.accuracy.costs`; on a
GPU, runs are trained one at a time, for they share its clock.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.accuracy import rates
from benchmarks.accuracy.costs import Clock
from benchmarks.accuracy.rates import best_rate
from benchmarks.accuracy.splits import split_texts
from benchmarks.accuracy.taggers import TRANSITIONS_LR
from benchmarks.accuracy.tags import Rule
from benchmarks.accuracy.trained import RECIPE, Head, options_of, train
from benchmarks.machine import on_gpu, where
from benchmarks.processes import ROOT
from benchmarks.rows import read_rows, spread
from benchmarks.runs import work
from ner_service.bundle import read_manifest
from ner_service.errors import ConfigError
from ner_service.formats import read_documents
from ner_service.model.config import RoFormerConfig
from ner_service.terminal import refusals
from training.config import load_run

RESULTS = ROOT / "benchmarks/results/heads.jsonl"
SEEDS = (0, 1, 2)
NUM_TEXTS = 2000
"""Training texts of a set that is cut, with those to choose by."""

REFERENCE: Head = "efficient_global_pointer"

SETTINGS: dict[Head, tuple[str, ...]] = {
    "efficient_global_pointer": ('model.head.kind="efficient_global_pointer"',),
    "global_pointer": ('model.head.kind="global_pointer"',),
    "token_classification": (),
    "crf": (),
}

RATES = (1e-4, 2e-4, 4e-4)
"""Of the encoder."""

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
    """One training run: a head on a set, cut or full, at a learning rate, with a seed, from weights of this SHA-256."""

    data: str
    full: bool
    head: Head
    lr: float
    seed: int
    start_sha256: str

    @property
    def subset(self) -> str:
        return self.data if self.full else f"{self.data}-{NUM_TEXTS}"

    @property
    def name(self) -> str:
        return f"{self.subset}-{self.head}-{self.lr:g}-{self.seed}-{self.start_sha256[:8]}"

    @property
    def epochs(self) -> int:
        return (FULL_EPOCHS if self.full else EPOCHS)[self.data]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a run.

    `num_train` counts the documents learnt from; `settings` are the other learning rates. `selected_epoch` counts from
    1; `selection_f1` is its F1 on the tenth, `f1` and `outermost_f1` are on dev. `rule` is a tagger's
    (`benchmarks.accuracy.tags`). `seconds`, `peak_mib` and `clock` are those of training (`benchmarks.accuracy.costs`).
    """

    data: str
    full: bool
    head: Head
    lr: float
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
    seconds: float
    peak_mib: float
    clock: Clock
    date: str
    hardware: str
    torch: str

    @property
    def run(self) -> Run:
        return Run(
            data=self.data,
            full=self.full,
            head=self.head,
            lr=self.lr,
            seed=self.seed,
            start_sha256=self.start_sha256,
        )


def planned(rows: Sequence[Row], start_sha256: str, *, full: bool) -> list[Run]:
    """Runs still to do: those at several rates, then all heads of a seed at their best ones before the next seed.

    A comparison that was broken off is fair too.
    """
    done = {row.run for row in rows}
    everything = [
        Run(data=rates.DATA, full=full, head=head, lr=lr, seed=rates.SEED, start_sha256=start_sha256)
        for head in SETTINGS
        for lr in RATES
    ]
    best = {head: rate_of(rows, head, start_sha256, full=full) for head in SETTINGS}
    everything += [
        Run(data=data, full=full, head=head, lr=lr, seed=seed, start_sha256=start_sha256)
        for seed in SEEDS
        for data in (FULL_EPOCHS if full else EPOCHS)
        for head, lr in best.items()
        if lr is not None
    ]
    return [run for run in dict.fromkeys(everything) if run not in done]


def rate_of(rows: Sequence[Row], head: Head, start_sha256: str, *, full: bool) -> float | None:
    """The learning rate of a head on an encoder, as soon as it is chosen."""
    wanted = (rates.DATA, full, head, rates.SEED, start_sha256)
    tried = {
        row.lr: row.selection_f1 for row in rows if (row.data, row.full, row.head, row.seed, row.start_sha256) == wanted
    }
    return best_rate(tried, RATES)


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
    split = split_texts(data / run.data / "train.jsonl.gz", None if run.full else NUM_TEXTS, state)
    dev = list(read_documents(data / run.data / "dev.jsonl.gz"))
    own = (*SETTINGS[run.head], f"optimizer.lr={run.lr}")
    options = options_of(run.seed, run.epochs, start.folder, split, own)
    trained = train(run.head, options, dev, state / run.name)
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
        **asdict(trained.cost),
        **where(),
    )


def rates_of(head: Head, options: Sequence[str]) -> tuple[str, ...]:
    """The learning rates that a run had beside the encoder's: `heads.toml` may have others by and by."""
    head_rate = f"head_lr={load_run(RECIPE, options[1::2]).optimizer.head_lr:g}"
    return (head_rate, f"transitions_lr={TRANSITIONS_LR:g}") if head == "crf" else (head_rate,)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: mean F1 and spread of every set and head at its rate, time and memory as ratios to the reference."""
    yield "| set | encoder | head | rate | F1, mean (spread) of seeds | outermost mentions | time | memory |"
    yield "|---|---|---|---|---|---|---|---|"
    counted = [row for row in rows if row.lr == rate_of(rows, row.head, row.start_sha256, full=row.full)]
    groups = dict.fromkeys((row.run.subset, row.start, row.start_sha256) for row in counted)
    for group in groups:
        own = [row for row in counted if (row.run.subset, row.start, row.start_sha256) == group]
        reference = [row for row in own if row.head == REFERENCE]
        for head in SETTINGS:
            of_head = [row for row in own if row.head == head]
            if not of_head:
                continue
            scores = (spread([row.f1 for row in of_head]), spread([row.outermost_f1 for row in of_head]))
            cells = (*group[:2], head, f"{of_head[0].lr:g}", *scores, *_ratios(of_head, reference))
            yield f"| {' | '.join(cells)} |"


def _ratios(own: Sequence[Row], reference: Sequence[Row]) -> tuple[str, str]:
    """Median time and memory against the reference's; a dash where that has no row yet or another clock."""
    if not reference or len({row.clock for row in (*own, *reference)}) > 1:
        return "-", "-"
    time_ratio = statistics.median(r.seconds for r in own) / statistics.median(r.seconds for r in reference)
    memory_ratio = statistics.median(r.peak_mib for r in own) / statistics.median(r.peak_mib for r in reference)
    return f"{time_ratio:.2f}", f"{memory_ratio:.2f}"


def run_all(start: Start, data: Path, state: Path, *, full: bool, jobs: int, minutes: float) -> None:
    """Run what is still to do until the time is over, a line of the results for each.

    Raises:
        ConfigError: several jobs on one GPU.
    """
    if jobs > 1 and on_gpu():
        raise ConfigError(f"--jobs: found {jobs}, expected 1 on a GPU, where time is that on the wall")
    state.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    work(
        RESULTS,
        Row,
        lambda rows: planned(rows, start.sha256, full=full),
        lambda run: execute(run, start, data.resolve(), state.resolve()),
        lambda row: f"F1 {row.f1:.4f}, {row.seconds:.0f} s, {row.peak_mib:.0f} MiB",
        jobs=jobs,
        minutes=minutes,
    )


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
        print("\n".join(table(read_rows(Row, RESULTS))))
        return
    if data is None or state is None or start is None:
        raise typer.BadParameter("expected --data, --state and --start, or --table")
    with refusals():
        run_all(read_start(start), data, state, full=full, jobs=jobs, minutes=minutes)


if __name__ == "__main__":
    typer.run(main)
