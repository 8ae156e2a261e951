"""What adaptation is worth: an adapted encoder against the same shape from random initialisation, three seeds each.

    python -m benchmarks.accuracy.starts --data FOLDER --state FOLDER --start BUNDLE [--jobs 2] [--minutes 30]
    python -m benchmarks.accuracy.starts --table

FOLDER of the data holds `cluener` and `cmeee`, each with `train.jsonl.gz` and `dev.jsonl.gz`; runs and their documents
stand in the state folder. BUNDLE is the adapted encoder. Its random twin has its tokenizer and its shape, and weights
drawn anew with each seed. A finished run is a line of `benchmarks/results/starts.jsonl` and is never run again; runs
from another encoder are others, random ones serve every encoder of a shape.

A run is `heads.toml` with our default head, on nine tenths of the training texts; the last tenth chooses the epoch, and
dev is read once, for the row. It chooses the learning rate, too: of each start the first seed learns CLUENER at all of
`RATES`, and what scored most there is the rate of its other runs. A run has one thread; its time is that of the
processor.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from benchmarks.accuracy import rates
from benchmarks.accuracy.costs import Clock
from benchmarks.accuracy.heads import REFERENCE, read_start
from benchmarks.accuracy.rates import best_rate
from benchmarks.accuracy.splits import split_texts
from benchmarks.accuracy.trained import options_of, train
from benchmarks.machine import where
from benchmarks.processes import ROOT
from benchmarks.rows import read_rows, spread
from benchmarks.runs import command, work
from ner_service.bundle import TOKENIZER, Bundle
from ner_service.formats import read_documents
from ner_service.model.config import Heads
from ner_service.model.encoders import build_encoder
from ner_service.terminal import refusals

RESULTS = ROOT / "benchmarks/results/starts.jsonl"
SEEDS = (0, 1, 2)
EPOCHS = {"cluener": 5, "cmeee": 3}

Arm = Literal["random", "adapted"]
RATES: dict[Arm, tuple[float, ...]] = {"random": (2.5e-4, 5e-4, 1e-3), "adapted": (1e-4, 2e-4, 4e-4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run: a set, what it starts from, the encoder's learning rate, and a seed.

    `shape` is that of `shape_of`; `encoder` is the SHA-256 of adapted weights, and for random ones the shape again.
    """

    data: str
    arm: Arm
    shape: str
    encoder: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}-{self.arm}-{self.encoder[:8]}-{self.lr:g}-{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a run. `selected_epoch` counts from 1; `selection_f1` is its F1 on the tenth, `f1` that on dev."""

    data: str
    arm: Arm
    shape: str
    encoder: str
    lr: float
    seed: int
    epochs: int
    selected_epoch: int
    selection_f1: float
    f1: float
    seconds: float
    peak_mib: float
    clock: Clock
    date: str
    hardware: str
    torch: str

    @property
    def run(self) -> Run:
        return Run(data=self.data, arm=self.arm, shape=self.shape, encoder=self.encoder, lr=self.lr, seed=self.seed)


def shape_of(bundle: Bundle) -> str:
    """SHA-256 of what a random twin has in common with a bundle: the encoder's sizes and the tokenizer."""
    shared = (asdict(bundle.manifest.model.encoder), bundle.manifest.files[TOKENIZER].sha256)
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()


def planned(rows: Sequence[Row], shape: str, adapted: str) -> list[Run]:
    """Runs still to do, an arm after the other: those at several rates, then all at the best of them."""
    done = {row.run for row in rows}
    encoders: dict[Arm, str] = {"random": shape, "adapted": adapted}
    everything = []
    for arm, encoder in encoders.items():
        everything += [
            Run(data=rates.DATA, arm=arm, shape=shape, encoder=encoder, lr=lr, seed=rates.SEED) for lr in RATES[arm]
        ]
        best = rate_of(rows, arm, encoder)
        everything += [
            Run(data=data, arm=arm, shape=shape, encoder=encoder, lr=best, seed=seed)
            for seed in SEEDS
            for data in EPOCHS
            if best is not None
        ]
    return [run for run in dict.fromkeys(everything) if run not in done]


def rate_of(rows: Sequence[Row], arm: Arm, encoder: str) -> float | None:
    """The learning rate of a start, as soon as it is chosen."""
    tried = {
        row.lr: row.selection_f1
        for row in rows
        if (row.data, row.encoder, row.seed) == (rates.DATA, encoder, rates.SEED)
    }
    return best_rate(tried, RATES[arm])


def random_twin(bundle: Bundle, seed: int) -> Bundle:
    """The encoder of a bundle with random weights, and no head."""
    torch.manual_seed(seed)
    weights = build_encoder(bundle.manifest.model.encoder).state_dict()
    manifest = replace(bundle.manifest, name="random", model=replace(bundle.manifest.model, heads=Heads()))
    return replace(bundle, manifest=manifest, weights={f"encoder.{name}": tensor for name, tensor in weights.items()})


def execute(run: Run, adapted: Path, data: Path, state: Path) -> Row:
    """Train from the start, for its whole cost is measured, and say what came of it."""
    split = split_texts(data / run.data / "train.jsonl.gz", None, state)
    dev = list(read_documents(data / run.data / "dev.jsonl.gz"))
    start = adapted
    if run.arm == "random":
        start = state / f"{run.name}-start"
        random_twin(Bundle.load(adapted), run.seed).save(start)
    options = options_of(run.seed, EPOCHS[run.data], start, split, (f"optimizer.lr={run.lr}",))
    trained = train(REFERENCE, options, dev, state / run.name)
    return Row(
        **asdict(run),
        epochs=EPOCHS[run.data],
        selected_epoch=trained.selected_epoch,
        selection_f1=trained.selection_f1,
        f1=trained.report.micro.f1,
        **asdict(trained.cost),
        **where(),
    )


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: mean F1 and spread of each start at its rate, against random weights of the same shape."""
    yield "| set | start | rate | F1, mean (standard deviation) of seeds | against random | epochs | time |"
    yield "|---|---|---|---|---|---|---|"
    counted = [row for row in rows if row.lr == rate_of(rows, row.arm, row.encoder)]
    for data, shape, encoder in dict.fromkeys((row.data, row.shape, row.encoder) for row in counted):
        own = [row for row in counted if (row.data, row.encoder) == (data, encoder)]
        random = [row for row in counted if (row.data, row.encoder) == (data, shape)]
        f1 = [row.f1 for row in own]
        gain = f"{statistics.fmean(f1) - statistics.fmean(row.f1 for row in random):+.4f}" if random else "-"
        minutes = statistics.median(row.seconds for row in own) / 60
        name = f"{own[0].arm} {encoder[:8]}"
        yield f"| {data} | {name} | {own[0].lr:g} | {spread(f1)} | {gain} | {own[0].epochs} | {minutes:.0f} min |"


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--start", type=Path, help="bundle of the adapted encoder")
    options = parser.parse_args()
    if options.table:
        print("\n".join(table(read_rows(Row, RESULTS))))
        return
    if options.data is None or options.state is None or options.start is None:
        parser.error("expected --data, --state and --start, or --table")
    data, state = options.data.resolve(), options.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with refusals():
        start = read_start(options.start)
        shape = shape_of(Bundle.load(start.folder))
        work(
            RESULTS,
            Row,
            lambda rows: planned(rows, shape, start.sha256),
            lambda run: execute(run, start.folder, data, state),
            lambda row: f"F1 {row.f1:.4f}, {row.seconds:.0f} s, {row.peak_mib:.0f} MiB",
            jobs=options.jobs,
            minutes=options.minutes,
        )


if __name__ == "__main__":
    main()
