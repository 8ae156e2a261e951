"""What enlargement keeps, and what it is worth: answers before and after, and F1 over the FLOPs of training.

    python -m benchmarks.enlargement --data FOLDER --state FOLDER --bundle BUNDLE
    python -m benchmarks.enlargement --data FOLDER --state FOLDER [--jobs 2] [--minutes 30]
    python -m benchmarks.enlargement --table

FOLDER of the data holds `cluener` with `train.jsonl.gz` and `dev.jsonl.gz`; runs stand in the state folder.

With `--bundle`, a model trained on CLUENER is enlarged in several ways, and both read the first 1,000 dev texts: a line
each in `results/enlargement-kept.jsonl`. Twice as wide, with copies that may part and with equal ones, it is trained on
without dropout for an epoch of an eighth of CLUENER: a line each in `results/enlargement-parted.jsonl` says how far
apart the copies are before and after.

Without, four ways to spend the same FLOPs on a quarter of CLUENER, three seeds each: the large model from random
initialisation; a model half as wide trained for half of the FLOPs, enlarged, and trained for the rest; the same with
copies that begin equal, at the smallest budget alone; the small model all along. A budget is so many epochs of the
large model. Numbers of epochs are whole: what is left over is less than an epoch of the small model, and `large` never
has less than the others. Every phase has the recipe's learning rate, warm-up and decay; the last epoch's F1 counts. So
the small model of a seed after so many epochs is the same in all arms and budgets: it is trained once, and its time
counts in each. FLOPs are those of matrix products, counted over the very batches that are learnt, padding included: 6 a
token and weight of a linear map (embeddings are looked up), 12 L D a token and layer for attention, 6 L K a token for
the pointer grid; optimiser and evaluation are left out. A finished run is a line of `results/enlargement.jsonl` and is
never run again. A run has one thread.
"""

from __future__ import annotations

import shutil
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Literal

from accelerate import Accelerator

from benchmarks.accuracy.splits import share_texts
from benchmarks.enlargement_kept import (
    KEPT,
    PARTED,
    RECIPE,
    TEXTS_OF_COPIES,
    Kept,
    Parted,
    copies_apart,
    dev_texts,
    kept_table,
    measure,
    parted_table,
)
from benchmarks.machine import where
from benchmarks.processes import ROOT, Finished, run_module
from benchmarks.rows import append_row, read_rows, spread
from benchmarks.runs import command, f1_of, train, work
from ner_service.model.config import HeadConfig, ModelConfig, RoFormerConfig
from training.config import load_run
from training.objectives.spans import SpansObjective
from training.preparation import Setup, prepare

RESULTS = ROOT / "benchmarks/results/enlargement.jsonl"
SEEDS = (0, 1, 2)
LARGE_SHARE = 0.5
"""Of the FLOPs of a run that begins small, those of the enlarged model."""

Arm = Literal["large", "enlarged", "equal", "small"]
ARMS: tuple[Arm, ...] = ("large", "enlarged", "small", "equal")
"""In the order of their runs: with two at a time, `equal` finds the small model that `enlarged` has trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A share of the data, budgets in epochs of the large model, settings of both models and of the small one alone."""

    share: float = 0.25
    budgets: tuple[int, ...] = (8, 16)
    large: tuple[str, ...] = ()
    small: tuple[str, ...] = (
        "model.encoder.hidden_size=128",
        "model.encoder.num_heads=2",
        "model.encoder.intermediate_size=512",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An arm within a budget with a seed."""

    arm: Arm
    budget: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.budget}-{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Epochs:
    """Of the small model and of the large one, and the FLOPs of all."""

    small: int
    large: int
    flops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """What came of the small model with a seed after so many epochs: its F1 and its processor time."""

    seed: int
    epochs: int
    f1: float
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a run. `small_f1` is the small model's before it was enlarged, `apart` how far its copies are apart
    at the end; `cpu_s` is processor time.
    """

    arm: Arm
    budget: int
    seed: int
    small_epochs: int
    large_epochs: int
    flops: int
    f1: float
    small_f1: float | None
    apart: float | None
    cpu_s: float
    date: str
    hardware: str
    torch: str

    @property
    def run(self) -> Run:
        return Run(arm=self.arm, budget=self.budget, seed=self.seed)


def planned(rows: Iterable[Row], experiment: Experiment) -> list[Run]:
    """Runs still to do, the cheapest first."""
    done = {row.run for row in rows}
    everything = [
        Run(arm=arm, budget=budget, seed=seed)
        for budget in experiment.budgets
        for seed in SEEDS
        for arm in ARMS
        if arm != "equal" or budget == min(experiment.budgets)
    ]
    return [run for run in everything if run not in done]


def flops(model: ModelConfig, num_labels: int, num_rows: int, length: int) -> int:
    """FLOPs of matrix products, forward and twice as many backward, for a padded batch of a RoFormer with one head."""
    encoder, head = model.encoder, model.heads.spans
    assert isinstance(encoder, RoFormerConfig)
    assert isinstance(head, HeadConfig)
    assert head.kind == "efficient_global_pointer"
    hidden = encoder.hidden_size
    weights = encoder.num_layers * (4 * hidden**2 + 2 * hidden * encoder.intermediate_size)
    if encoder.embedding_size not in (None, hidden):
        weights += encoder.embedding_size * hidden
    weights += 2 * head.head_size * (hidden + 2 * num_labels)
    products = 2 * encoder.num_layers * hidden + head.head_size
    return 3 * num_rows * length * (2 * weights + 2 * length * products)


class Counter:
    """FLOPs of epochs with a seed, by the batches that a run itself makes; they are the same for all models."""

    def __init__(self, setup: Setup) -> None:
        self.objective = SpansObjective(setup, setup.build_model(), Accelerator(cpu=True))
        self.num_labels = len(setup.corpus.labels)
        self.shapes: list[list[tuple[int, int]]] = []
        self.lock = Lock()

    def flops(self, model: ModelConfig, num_epochs: int) -> int:
        """FLOPs of the first epochs of a model."""
        with self.lock:
            while len(self.shapes) < num_epochs:
                steps = self.objective.steps(len(self.shapes))
                batches = [batch for step in steps for batch in step]
                self.shapes.append([(len(batch), max(map(len, batch))) for batch in batches])
        return sum(flops(model, self.num_labels, *shape) for epoch in self.shapes[:num_epochs] for shape in epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What all runs of a seed have in common: settings, both models, and the FLOPs of their epochs."""

    settings: tuple[str, ...]
    small: ModelConfig
    large: ModelConfig
    counter: Counter


def divide(arm: Arm, budget: int, ground: Ground) -> Epochs:
    """The epochs of an arm that come nearest to the FLOPs of `budget` epochs of the large model, and not above."""
    flops_of, small, large = ground.counter.flops, ground.small, ground.large
    most = flops_of(large, budget)
    num_large = {"large": budget, "small": 0}.get(arm, round(LARGE_SHARE * budget))
    spent = flops_of(large, num_large)
    num_small = 0
    while arm != "large" and spent + flops_of(small, num_small + 1) <= most:
        num_small += 1
    return Epochs(small=num_small, large=num_large, flops=spent + flops_of(small, num_small))


class Worker:
    """Executes the runs of an experiment. What several runs need is made by the first, and the others wait for it."""

    def __init__(self, experiment: Experiment, data: Path, state: Path) -> None:
        self.experiment = experiment
        self.data = data
        self.state = state
        self.grounds: dict[int, Ground] = {}
        self.locks: defaultdict[str, Lock] = defaultdict(Lock)

    def execute(self, run: Run) -> Row:
        """Train from the start, or from what the small model learnt, and say what came of it and what it cost."""
        ground = self.ground(run.seed)
        epochs = divide(run.arm, run.budget, ground)
        folder = self.state / run.name
        shutil.rmtree(folder, ignore_errors=True)
        grows = epochs.small > 0 and epochs.large > 0
        start, found, times = [], [], []
        if epochs.small:
            small = self.small(run.seed, epochs.small)
            found.append(small.f1)
            times.append(small.cpu_s)
        if grows:
            bundle = self.small_folder(run.seed, epochs.small) / "bundle"
            grown = grow(bundle, folder / "enlarged", "equal" if run.arm == "equal" else "shares", run.seed)
            times.append(grown.cpu_s)
            start = [f"model.start_from={folder}/enlarged"]
        if epochs.large:
            trained = train(RECIPE, [*ground.settings, *start, *last_of(epochs.large)], folder / "large")
            found.append(f1_of(trained))
            times.append(trained.cpu_s)
        return Row(
            **asdict(run),
            small_epochs=epochs.small,
            large_epochs=epochs.large,
            flops=epochs.flops,
            f1=found[-1],
            small_f1=found[0] if len(found) > 1 else None,
            apart=copies_apart(folder / "large/bundle", dev_texts(self.data, TEXTS_OF_COPIES)) if grows else None,
            cpu_s=round(sum(times), 1),
            **where(),
        )

    def ground(self, seed: int) -> Ground:
        """What all runs of a seed have in common."""
        with self.locks[f"ground-{seed}"]:
            if seed not in self.grounds:
                self.grounds[seed] = self.lay(seed)
        return self.grounds[seed]

    def lay(self, seed: int) -> Ground:
        """The documents cut, both models settled."""
        learnt = share_texts(self.data / "cluener/train.jsonl.gz", self.experiment.share, self.state)
        settings = (
            f"seed={seed}",
            f'data.train=[{{ path = "{learnt}" }}]',
            f'data.dev=[{{ path = "{self.data}/cluener/dev.jsonl.gz" }}]',
            *self.experiment.large,
        )
        large, small = (
            prepare(load_run(RECIPE, [*settings, *more]), RECIPE.parent, RECIPE.parent)
            for more in ((), self.experiment.small)
        )
        return Ground(settings=settings, small=small.config, large=large.config, counter=Counter(large))

    def small(self, seed: int, epochs: int) -> Small:
        """The small model after so many epochs, trained unless it stands in the state folder."""
        folder = self.small_folder(seed, epochs)
        with self.locks[folder.name]:
            for row in read_rows(Small, self.state / "small.jsonl"):
                if (row.seed, row.epochs) == (seed, epochs):
                    return row
            settings = (*self.ground(seed).settings, *self.experiment.small, *last_of(epochs))
            trained = train(RECIPE, settings, folder)
            row = Small(seed=seed, epochs=epochs, f1=f1_of(trained), cpu_s=trained.cpu_s)
            append_row(self.state / "small.jsonl", row)
            return row

    def small_folder(self, seed: int, epochs: int) -> Path:
        """Where a training of the small model stands."""
        return self.state / f"small-{epochs}-epochs-{seed}"


def last_of(num_epochs: int) -> tuple[str, str]:
    """Settings of a run of so many epochs of which only the last is measured."""
    return f"epochs={num_epochs}", f"evaluate_every={num_epochs}"


def grow(bundle: Path, target: Path, symmetry: str, seed: int) -> Finished:
    """Enlarge a bundle to twice its width."""
    options = ("--width-factor", "2", "--symmetry", symmetry, "--seed", str(seed), "--json")
    return run_module("training.cli", ["enlarge", str(bundle), "-o", str(target), *options])


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: every arm at every budget, and against the large model from random; epochs are small + large."""
    yield "| budget | arm | epochs | PFLOPs | F1, mean (standard deviation) of seeds | against large | apart | time |"
    yield "|---|---|---|---|---|---|---|---|"
    for budget in sorted({row.budget for row in rows}):
        plain = [row for row in rows if (row.budget, row.arm) == (budget, "large")]
        for arm in ARMS:
            own = [row for row in rows if (row.budget, row.arm) == (budget, arm)]
            if not own or not plain:
                continue
            f1 = [row.f1 for row in own]
            gain = statistics.fmean(f1) - statistics.fmean(row.f1 for row in plain)
            peta = statistics.fmean(row.flops for row in own) / 1e15
            time = statistics.median(row.cpu_s for row in own) / statistics.median(row.cpu_s for row in plain)
            epochs = ", ".join(sorted({f"{row.small_epochs} + {row.large_epochs}" for row in own}))
            known = [row.apart for row in own if row.apart is not None]
            apart = f"{statistics.fmean(known):.2f}" if known else ""
            yield f"| {budget} | {arm} | {epochs} | {peta:.3f} | {spread(f1)} | {gain:+.4f} | {apart} | {time:.2f} |"


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--bundle", type=Path, help="bundle trained on CLUENER, to be enlarged and compared")
    options = parser.parse_args()
    if options.table:
        kept, parted = kept_table(read_rows(Kept, KEPT)), parted_table(read_rows(Parted, PARTED))
        print("\n".join([*kept, "", *parted, "", *table(read_rows(Row, RESULTS))]))
        return
    if options.data is None or options.state is None:
        parser.error("expected --data and --state, or --table")
    data, state = options.data.resolve(), options.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    if options.bundle:
        measure(options.bundle, data, state)
        return
    experiment = Experiment()
    worker = Worker(experiment, data, state)
    work(
        RESULTS,
        Row,
        lambda rows: planned(rows, experiment),
        worker.execute,
        lambda row: f"F1 {row.f1:.4f}, {row.flops / 1e15:.3f} PFLOPs, {row.cpu_s:.0f} s",
        jobs=options.jobs,
        minutes=options.minutes,
    )


if __name__ == "__main__":
    main()
