"""What enlargement keeps, and what it is worth: answers before and after, and F1 over the FLOPs of training.

    python -m benchmarks.enlargement --data FOLDER --bundle BUNDLE
    python -m benchmarks.enlargement --data FOLDER --state FOLDER [--jobs 2] [--minutes 30]
    python -m benchmarks.enlargement --table

FOLDER of the data holds `cluener` with `train.jsonl.gz` and `dev.jsonl.gz`.

With `--bundle`, a model trained on CLUENER is enlarged in several ways, and both read the first 1,000 dev texts: a line
each in `results/enlargement-kept.jsonl`.

With `--state`, four ways to spend the same FLOPs on a quarter of CLUENER, three seeds each: the large model from random
initialisation; a model half as wide trained for half of the FLOPs, enlarged, and trained for the rest; the same with
copies that begin equal; the small model all along. A budget is so many epochs of the large model. Numbers of epochs are
whole: what is left over is less than an epoch of the small model, and `large` never has less than the others. Every
phase has the recipe's learning rate, warm-up and decay; the last epoch's F1 counts. FLOPs are those of matrix products,
counted over the very batches that are learnt, padding included: 6 a token and weight of a linear map (embeddings are
looked up), 12 L D a token and layer for attention, 6 L K a token for the pointer grid; optimiser and evaluation are
left out. A finished run is a line of `results/enlargement.jsonl` and is never run again. A run has one thread.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator

from benchmarks.ablation import PLAIN, subset
from benchmarks.ablation import Run as Share
from benchmarks.machine import where
from benchmarks.processes import ROOT, Finished, run_module
from benchmarks.rows import append_row, read_rows, spread
from benchmarks.runs import RECIPES, command, f1_of, train, work
from ner_service.bundle import WEIGHTS, Bundle
from ner_service.formats import read_documents
from ner_service.model.batch import pack
from ner_service.model.config import HeadConfig, ModelConfig, RoFormerConfig
from ner_service.recognizer import Recognizer
from training.config import load_run
from training.enlargement import Plan, enlarge, num_parameters
from training.enlargement.verification import compare
from training.enlargement.width import known_encoder
from training.objectives.spans import SpansObjective
from training.preparation import Setup, prepare

RESULTS = ROOT / "benchmarks/results/enlargement.jsonl"
KEPT = ROOT / "benchmarks/results/enlargement-kept.jsonl"
RECIPE = RECIPES / "cluener.toml"
NUM_TEXTS = 1000
TEXTS_OF_COPIES = 100
SEEDS = (0, 1, 2)
LARGE_SHARE = 0.5
"""Of the FLOPs of a run that begins small, those of the enlarged model."""

Arm = Literal["large", "enlarged", "equal", "small"]
ARMS: tuple[Arm, ...] = ("large", "enlarged", "equal", "small")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """How a bundle's answers and those of an enlarged one agree; `largest` is of scores, `outputs` of all outputs."""

    model: str
    weights_sha256: str
    width_factor: int
    num_layers: int
    scheme: str
    num_texts: int
    num_entities: int
    num_differing: int
    num_at_threshold: int
    largest: float
    outputs: Mapping[str, float]
    parameters: tuple[int, ...]
    date: str
    hardware: str
    torch: str

    @property
    def way(self) -> tuple[int, int, str]:
        return self.width_factor, self.num_layers, self.scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A share of the data, budgets in epochs of the large model, settings of both models and of the small one alone."""

    share: float = 0.25
    budgets: tuple[int, ...] = (8, 24)
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
    peak_mib: float
    date: str
    hardware: str
    torch: str

    @property
    def run(self) -> Run:
        return Run(arm=self.arm, budget=self.budget, seed=self.seed)


def keep(folder: Path, plan: Plan, texts: Sequence[str]) -> Kept:
    """Enlarge a bundle and compare its answers with those of the one it came from."""
    device = torch.device("cpu")
    small = Bundle.load(folder)
    large = enlarge(small, plan)
    found = compare(Recognizer(small, device), Recognizer(large, device), texts)
    assert found.agreement is not None
    return Kept(
        model=small.manifest.name,
        weights_sha256=small.manifest.files[WEIGHTS].sha256,
        width_factor=plan.width_factor,
        num_layers=known_encoder(large.manifest.model.encoder).num_layers,
        scheme=plan.scheme,
        **asdict(found.agreement),
        outputs=dict(found.outputs),
        parameters=(num_parameters(small), num_parameters(large)),
        **where(),
    )


def plans(num_layers: int) -> tuple[Plan, ...]:
    """Twice and four times as wide, twice as deep, and both."""
    return (
        Plan(width_factor=2),
        Plan(width_factor=4),
        Plan(width_factor=2, scheme="wider_heads"),
        Plan(num_layers=2 * num_layers),
        Plan(width_factor=2, num_layers=2 * num_layers),
    )


def planned(rows: Iterable[Row], experiment: Experiment) -> list[Run]:
    """Runs still to do, the cheapest first."""
    done = {row.run for row in rows}
    everything = [
        Run(arm=arm, budget=budget, seed=seed) for budget in experiment.budgets for seed in SEEDS for arm in ARMS
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
    """FLOPs of epochs, by the batches that the run itself makes."""

    def __init__(self, setup: Setup) -> None:
        self.objective = SpansObjective(setup, setup.build_model(), Accelerator(cpu=True))
        self.num_labels = len(setup.corpus.labels)
        self.shapes: list[list[tuple[int, int]]] = []

    def flops(self, model: ModelConfig, num_epochs: int) -> int:
        """FLOPs of the first epochs of a model; batches are the same for all."""
        while len(self.shapes) < num_epochs:
            steps = self.objective.steps(len(self.shapes))
            batches = [batch for step in steps for batch in step]
            self.shapes.append([(len(batch), max(map(len, batch))) for batch in batches])
        return sum(flops(model, self.num_labels, *shape) for epoch in self.shapes[:num_epochs] for shape in epoch)


def divide(arm: Arm, budget: int, counter: Counter, small: ModelConfig, large: ModelConfig) -> Epochs:
    """The epochs of an arm that come nearest to the FLOPs of `budget` epochs of the large model, and not above."""
    most = counter.flops(large, budget)
    num_large = {"large": budget, "small": 0}.get(arm, round(LARGE_SHARE * budget))
    spent = counter.flops(large, num_large)
    num_small = 0
    while arm != "large" and spent + counter.flops(small, num_small + 1) <= most:
        num_small += 1
    return Epochs(small=num_small, large=num_large, flops=spent + counter.flops(small, num_small))


def execute(run: Run, experiment: Experiment, data: Path, state: Path) -> Row:
    """Train from the start, for its whole cost is measured, and say what came of it."""
    documents = subset(Share(data="cluener", share=experiment.share, arm=f"{PLAIN}-{run.name}", seed=0), data, state)
    common = (
        f"seed={run.seed}",
        f'data.train=[{{ path = "{documents}" }}]',
        f'data.dev=[{{ path = "{data}/cluener/dev.jsonl.gz" }}]',
        *experiment.large,
    )
    large, small = (
        prepare(load_run(RECIPE, [*common, *more]), RECIPE.parent, RECIPE.parent) for more in ((), experiment.small)
    )
    epochs = divide(run.arm, run.budget, Counter(large), small.config, large.config)
    folder = state / run.name
    shutil.rmtree(folder, ignore_errors=True)
    steps, found, apart = [], [], None
    if epochs.small:
        steps.append(train(RECIPE, [*common, *experiment.small, *last_of(epochs.small)], folder / "small"))
        found.append(f1_of(steps[-1]))
    if epochs.small and epochs.large:
        steps.append(grow(folder, "equal" if run.arm == "equal" else "shares", run.seed))
    if epochs.large:
        start = [f"model.start_from={folder}/enlarged"] if epochs.small else []
        steps.append(train(RECIPE, [*common, *start, *last_of(epochs.large)], folder / "large"))
        found.append(f1_of(steps[-1]))
    if epochs.small and epochs.large:
        apart = copies_apart(folder / "large/bundle", dev_texts(data, TEXTS_OF_COPIES))
    return Row(
        **asdict(run),
        small_epochs=epochs.small,
        large_epochs=epochs.large,
        flops=epochs.flops,
        f1=found[-1],
        small_f1=found[0] if len(found) > 1 else None,
        apart=apart,
        cpu_s=round(sum(step.cpu_s for step in steps), 1),
        peak_mib=max(step.peak_mib for step in steps),
        **where(),
    )


def last_of(num_epochs: int) -> tuple[str, str]:
    """Settings of a run of so many epochs of which only the last is measured."""
    return f"epochs={num_epochs}", f"evaluate_every={num_epochs}"


def grow(folder: Path, symmetry: str, seed: int) -> Finished:
    """Enlarge a run's small bundle to twice its width."""
    bundles = (str(folder / "small/bundle"), "-o", str(folder / "enlarged"))
    options = ("--width-factor", "2", "--symmetry", symmetry, "--seed", str(seed), "--json")
    return run_module("training.cli", ["enlarge", *bundles, *options])


def copies_apart(folder: Path, texts: Sequence[str]) -> float:
    """The difference of the hidden states' two halves: 0 for equal ones, 1 for ones that have nothing in common."""
    recognizer = Recognizer.load(folder, "cpu")
    token_ids = [window.encoding.token_ids for text in texts for window in recognizer.encode(text)]
    with torch.inference_mode():
        hidden_BLD = recognizer.model.encoder(pack(token_ids))
    first, second = hidden_BLD.chunk(2, dim=-1)
    return float((first - second).norm() / hidden_BLD.norm())


def dev_texts(data: Path, num: int) -> list[str]:
    return [document.text for document in read_documents(data / "cluener/dev.jsonl.gz")][:num]


def kept_table(rows: Iterable[Kept]) -> Iterator[str]:
    """Markdown: every enlargement, and what differed."""
    yield "| model | width | layers | attention | parameters | texts | entities | differ | largest score difference |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        before, after = row.parameters
        yield (
            f"| {row.model} | x {row.width_factor} | {row.num_layers} | {row.scheme} | {before:,} to {after:,} | "
            f"{row.num_texts:,} | {row.num_entities:,} | {row.num_differing} | {row.largest:.1e} |"
        )


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
            epochs = f"{own[0].small_epochs} + {own[0].large_epochs}"
            known = [row.apart for row in own if row.apart is not None]
            apart = f"{statistics.fmean(known):.2f}" if known else ""
            yield f"| {budget} | {arm} | {epochs} | {peta:.3f} | {spread(f1)} | {gain:+.4f} | {apart} | {time:.2f} |"


def measure_kept(bundle: Path, data: Path) -> None:
    """Add a row for each way of enlarging that has none of this bundle."""
    torch.set_num_threads(1)
    texts = dev_texts(data, NUM_TEXTS)
    manifest = Bundle.load(bundle).manifest
    digest = manifest.files[WEIGHTS].sha256
    done = {row.way for row in read_rows(Kept, KEPT) if row.weights_sha256 == digest}
    small_layers = known_encoder(manifest.model.encoder).num_layers
    for plan in plans(small_layers):
        if (plan.width_factor, plan.num_layers or small_layers, plan.scheme) not in done:
            row = keep(bundle, plan, texts)
            append_row(KEPT, row)
            print(f"{row.way}: {row.num_differing} differ, scores by {row.largest:.1e}", file=sys.stderr)


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--bundle", type=Path, help="bundle trained on CLUENER, to be enlarged and compared")
    options = parser.parse_args()
    if options.table:
        print("\n".join([*kept_table(read_rows(Kept, KEPT)), "", *table(read_rows(Row, RESULTS))]))
        return
    if options.data is None or (options.bundle is None) == (options.state is None):
        parser.error("expected --data and either --bundle or --state, or --table")
    data = options.data.resolve()
    if options.bundle:
        measure_kept(options.bundle, data)
        return
    experiment, state = Experiment(), options.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    work(
        RESULTS,
        Row,
        lambda rows: planned(rows, experiment),
        lambda run: execute(run, experiment, data, state),
        lambda row: f"F1 {row.f1:.4f}, {row.flops / 1e15:.3f} PFLOPs, {row.cpu_s:.0f} s",
        jobs=options.jobs,
        minutes=options.minutes,
    )


if __name__ == "__main__":
    main()
