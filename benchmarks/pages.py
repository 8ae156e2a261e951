"""What two axes bring on pages: F1 of one encoder with one and with two, words as given and in reading order.

    python -m benchmarks.pages --data FOLDER --state FOLDER [--start-from BUNDLE] [--jobs 2] [--minutes 30]
    python -m benchmarks.pages --table

FOLDER of the data holds `funsd/train.jsonl.gz` and `sroie/train.jsonl.gz`, pages as `docs/pages.md` tells. The last
pages by name are for dev: 30 of FUNSD, 100 of SROIE; both parts are written to the state folder, where runs stand too
(`--minutes 0` does no more than that). A finished run is a line of `benchmarks/results/pages.jsonl` and is never run
again, so a killed command goes on with the run that it was in.

Every run is the recipe of its data, from random or, with `--start-from`, from a text bundle. The number of epochs is
that of the recipe and the last epoch's F1 is the one that counts. Mentions whose words do not follow each other in
reading order count as not found. FUNSD was written down mention by mention: the order given tells where they begin, so
its scores are no forecast for other pages. A run has one thread; its time is that of the processor.
"""

from __future__ import annotations

import gzip
import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from benchmarks.machine import where
from benchmarks.processes import ROOT
from benchmarks.rows import read_rows, spread
from benchmarks.runs import RECIPES, command, train, work
from ner_service.bundle import WEIGHTS, Manifest, read_manifest
from ner_service.types import PageOrder
from training.config import load_run

RESULTS = ROOT / "benchmarks/results/pages.jsonl"
SEEDS = (0, 1, 2)
RANDOM = "random"
NUM_DEV = {"funsd": 30, "sroie": 100}

Axes = Literal[1, 2]

AXES: tuple[Axes, ...] = (1, 2)
ORDERS: tuple[PageOrder, ...] = ("reading", "given")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run. `start` is what it starts from: a bundle, by its name and its weights, or "random"."""

    data: str
    order: PageOrder
    num_axes: Axes
    start: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}-{self.order}-{self.num_axes}-{self.start}-{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a run. `num_lost` counts gold entities, of both parts, that the model cannot predict."""

    data: str
    order: PageOrder
    num_axes: Axes
    start: str
    seed: int
    f1: float
    num_lost: int
    cpu_s: float
    peak_mib: float
    date: str
    hardware: str
    torch: str

    @property
    def run(self) -> Run:
        return Run(data=self.data, order=self.order, num_axes=self.num_axes, start=self.start, seed=self.seed)


def planned(rows: Iterable[Row], start: str) -> list[Run]:
    """Runs still to do: both sets with a seed before the next seed."""
    everything = [
        Run(data=data, order=order, num_axes=num_axes, start=start, seed=seed)
        for seed in SEEDS
        for data in NUM_DEV
        for order in ORDERS
        for num_axes in AXES
    ]
    done = {row.run for row in rows}
    return [run for run in everything if run not in done]


def split(data: Path, state: Path, name: str) -> None:
    """Write a set's pages but for the last by name, and these, as `train.jsonl` and `dev.jsonl` of its folder."""
    folder = state / name
    lines = gzip.decompress((data / name / "train.jsonl.gz").read_bytes()).decode("utf-8").splitlines()
    lines.sort(key=lambda line: str(json.loads(line)["id"]))
    folder.mkdir(parents=True, exist_ok=True)
    for part, own in (("train", lines[: -NUM_DEV[name]]), ("dev", lines[-NUM_DEV[name] :])):
        (folder / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in own), encoding="utf-8")


def name_of(manifest: Manifest) -> str:
    """A bundle's name and its weights', eight digits of them."""
    return f"{manifest.name}-{manifest.files[WEIGHTS].sha256[:8]}"


def execute(run: Run, state: Path, start_from: Path | None) -> Row:
    """Train from the start, for its whole cost is measured, and say what came of it."""
    recipe = RECIPES / f"{run.data}.toml"
    settings = [
        f"seed={run.seed}",
        f"evaluate_every={load_run(recipe).epochs}",
        f"model.num_axes={run.num_axes}",
        *(f'data.{part}=[{{ path = "{run.data}/{part}.jsonl", order = "{run.order}" }}]' for part in ("train", "dev")),
        *([f'model.start_from="{start_from}"'] if start_from else []),
    ]
    finished = train(recipe, settings, state / run.name, "--data", str(state))
    metrics = json.loads(finished.output)
    return Row(
        **asdict(run),
        f1=metrics["last_epoch_f1"],
        num_lost=metrics["unrepresentable_entities"],
        cpu_s=finished.cpu_s,
        peak_mib=finished.peak_mib,
        **where(),
    )


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: mean F1 and spread with one and with two axes, what the second brought, and what it cost in time."""
    yield "| data | order | start | one axis: F1, mean (standard deviation) | two axes | gain | time | lost in both |"
    yield "|---|---|---|---|---|---|---|---|"
    for data, order, start in dict.fromkeys((row.data, row.order, row.start) for row in rows):
        of_axes = [
            [row for row in rows if (row.data, row.order, row.start, row.num_axes) == (data, order, start, num_axes)]
            for num_axes in AXES
        ]
        if not all(of_axes):
            continue
        one, two = ([row.f1 for row in own] for own in of_axes)
        gain = statistics.fmean(two) - statistics.fmean(one)
        times = [statistics.median(row.cpu_s for row in own) for own in of_axes]
        lost = max(row.num_lost for own in of_axes for row in own)
        cells = (data, order, start, spread(one), spread(two), f"{gain:+.4f}", f"{times[1] / times[0]:.2f}", str(lost))
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--start-from", type=Path, help="text bundle that every run starts from")
    options = parser.parse_args()
    if options.table:
        print("\n".join(table(read_rows(Row, RESULTS))))
        return
    if options.data is None or options.state is None:
        parser.error("expected --data and --state, or --table")
    state = options.state.resolve()
    start_from = options.start_from.resolve() if options.start_from else None
    start = name_of(read_manifest(start_from)) if start_from else RANDOM
    for name in NUM_DEV:
        split(options.data, state, name)
    work(
        RESULTS,
        Row,
        lambda rows: planned(rows, start),
        lambda run: execute(run, state, start_from),
        lambda row: f"F1 {row.f1:.4f}, {row.cpu_s:.0f} s, {row.peak_mib:.0f} MiB",
        jobs=options.jobs,
        minutes=options.minutes,
    )


if __name__ == "__main__":
    main()
