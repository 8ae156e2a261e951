"""What an auxiliary objective or a regulariser is worth: F1, time and memory of every arm, three seeds each.

    python -m benchmarks.ablation --data FOLDER --state FOLDER [--generator BUNDLE] [--jobs 2] [--minutes 30]
    python -m benchmarks.ablation --table

FOLDER of the data holds `cluener` and `cmeee`, each with `train.jsonl.gz` and `dev.jsonl.gz`; runs, their subsets and
bundles stand in the state folder. A finished run is a line of `benchmarks/results/ablation.jsonl` and is never run
again, so a killed command goes on with the run that it was in. Augmented documents are written by a generator, a bundle
that learnt to write similar sentences from raw text; without one its arm is left out.

Every arm is the recipe of its data, less the objectives it has, with a few settings more. The number of epochs is fixed
beforehand and the last epoch's F1 is the one that counts, so no epoch is chosen on the dev documents. Arms are: those
with the highest F1 on dev at a tenth go on, so their means and gains at a tenth are biased upwards. On the other shares
of CLUENER the same dev documents measure, so a little of that is left; on CMeEE none. A run has one thread; its time is
that of the processor, which a busy machine disturbs least.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.accuracy.splits import share_texts
from benchmarks.machine import where
from benchmarks.processes import ROOT, Finished, run_module
from benchmarks.rows import read_rows, spread
from benchmarks.runs import RECIPES, command, f1_of, train, work

RESULTS = ROOT / "benchmarks/results/ablation.jsonl"
SEEDS = (0, 1, 2)
PLAIN = "plain"
AUGMENTED = "augmentation"

ARMS: dict[str, tuple[str, ...]] = {
    PLAIN: (),
    "contrast": (
        "objectives.similarity.generation=0.0",
        "objectives.similarity.noise=0.0",
        "objectives.similarity.batch_pairs=16",
        "objectives.similarity.final_weight=0.0",
    ),
    "roformer_sim": ("objectives.similarity.batch_pairs=8", "objectives.similarity.final_weight=0.0"),
    "univae_vmf": ("objectives.univae.latent.num_latents=2", "objectives.univae.final_weight=0.0"),
    "univae_gaussian": (
        "objectives.univae.latent.num_latents=2",
        'objectives.univae.latent.posterior="gaussian"',
        "objectives.univae.final_weight=0.0",
    ),
    "r_drop": ("regularisation.r_drop=4.0",),
    "fgm": ("regularisation.fgm=0.1",),
    "ema": ("regularisation.ema=0.99",),
    AUGMENTED: (),
}
EPOCHS = {("cluener", 0.01): 80, ("cluener", 0.1): 20, ("cluener", 1.0): 4, ("cmeee", 1.0): 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run: an arm on a share of a data set with a seed."""

    data: str
    share: float
    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}-{self.share:g}-{self.arm}-{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a run. `cpu_s` is processor time and `peak_mib` the largest resident size of its process."""

    data: str
    share: float
    arm: str
    seed: int
    epochs: int
    settings: tuple[str, ...]
    f1: float
    cpu_s: float
    peak_mib: float
    num_augmented: int
    date: str
    hardware: str
    torch: str

    @property
    def run(self) -> Run:
        return Run(data=self.data, share=self.share, arm=self.arm, seed=self.seed)


def planned(rows: Sequence[Row], arms: Sequence[str]) -> list[Run]:
    """Runs still to do, as far as is known: which arms go on to other shares depends on those of a tenth."""
    everything = _runs("cluener", 0.1, arms)
    first = means(rows, "cluener", 0.1)
    if all(len(seeds_of(rows, "cluener", 0.1, arm)) == len(SEEDS) for arm in arms):
        ranked = sorted((arm for arm in arms if arm != PLAIN), key=lambda arm: -first[arm])
        everything += _runs("cluener", 0.01, [PLAIN, *ranked[:3]])
        everything += _runs("cluener", 1.0, [PLAIN, ranked[0]])
        everything += _runs("cmeee", 1.0, [PLAIN, ranked[0]])
    else:
        everything += _runs("cluener", 1.0, [PLAIN]) + _runs("cmeee", 1.0, [PLAIN])
    done = {row.run for row in rows}
    return [run for run in everything if run not in done]


def _runs(data: str, share: float, arms: Iterable[str]) -> list[Run]:
    return [Run(data=data, share=share, arm=arm, seed=seed) for seed in SEEDS for arm in arms]


def seeds_of(rows: Iterable[Row], data: str, share: float, arm: str) -> list[Row]:
    """The rows of an arm, one a seed."""
    return [row for row in rows if (row.data, row.share, row.arm) == (data, share, arm)]


def means(rows: Sequence[Row], data: str, share: float) -> dict[str, float]:
    """Mean F1 of every arm that has a row."""
    found = {arm: seeds_of(rows, data, share, arm) for arm in ARMS}
    return {arm: statistics.fmean(row.f1 for row in own) for arm, own in found.items() if own}


def execute(run: Run, data: Path, state: Path, generator: Path | None) -> Row:
    """Train from the start, for its whole cost is measured, and say what came of it."""
    sources = [share_texts(data / run.data / "train.jsonl.gz", run.share, state)]
    steps = []
    if generator and run.arm == AUGMENTED:
        written = state / f"{run.name}.jsonl"
        steps.append(augment(generator, sources[0], written, run.seed))
        sources += [written] if written.stat().st_size else []
    steps.append(train(RECIPES / f"{run.data}.toml", settings_of(run, sources, data), state / run.name))
    return Row(
        **asdict(run),
        epochs=EPOCHS[run.data, run.share],
        settings=ARMS[run.arm],
        f1=f1_of(steps[-1]),
        cpu_s=round(sum(step.cpu_s for step in steps), 1),
        peak_mib=max(step.peak_mib for step in steps),
        num_augmented=sum(len(path.read_text(encoding="utf-8").splitlines()) for path in sources[1:]),
        **where(),
    )


def augment(generator: Path, documents: Path, target: Path, seed: int) -> Finished:
    """Write as many documents again, at most. What the generator has cost is not counted: it serves every run."""
    options = ("--per-document", "1", "--samples", "4", "--seed", str(seed))
    return run_module("training.cli", ["augment", str(generator), str(documents), "-o", str(target), *options])


def settings_of(run: Run, sources: Sequence[Path], data: Path) -> tuple[str, ...]:
    """What an arm sets in the recipe of its data."""
    epochs = EPOCHS[run.data, run.share]
    listed = ", ".join(f'{{ path = "{source}" }}' for source in sources)
    return (
        f"seed={run.seed}",
        f"epochs={epochs}",
        f"evaluate_every={epochs}",
        "objectives={}",
        *ARMS[run.arm],
        f"data.train=[{listed}]",
        f'data.dev=[{{ path = "{data / run.data}/dev.jsonl.gz" }}]',
    )


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: mean F1 and spread of every arm, what it gained, and its cost in time and memory as ratios to plain."""
    yield "| data | share | arm | F1, mean (standard deviation) of seeds | against plain | time | memory |"
    yield "|---|---|---|---|---|---|---|"
    for data, share in EPOCHS:
        plain = seeds_of(rows, data, share, PLAIN)
        for arm in ARMS:
            own = seeds_of(rows, data, share, arm)
            if not own or not plain:
                continue
            f1 = [row.f1 for row in own]
            gain = statistics.fmean(f1) - statistics.fmean(row.f1 for row in plain)
            cpu = statistics.median(row.cpu_s for row in own) / statistics.median(row.cpu_s for row in plain)
            memory = statistics.median(row.peak_mib for row in own) / statistics.median(row.peak_mib for row in plain)
            yield f"| {data} | {share:g} | {arm} | {spread(f1)} | {gain:+.4f} | {cpu:.2f} | {memory:.2f} |"


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--generator", type=Path, help="bundle that writes the augmented documents")
    options = parser.parse_args()
    if options.table:
        print("\n".join(table(read_rows(Row, RESULTS))))
        return
    if options.data is None or options.state is None:
        parser.error("expected --data and --state, or --table")
    data, state = options.data.resolve(), options.state.resolve()
    generator = options.generator.resolve() if options.generator else None
    arms = [arm for arm in ARMS if arm != AUGMENTED or generator]
    state.mkdir(parents=True, exist_ok=True)
    work(
        RESULTS,
        Row,
        lambda rows: planned(rows, arms),
        lambda run: execute(run, data, state, generator),
        lambda row: f"F1 {row.f1:.4f}, {row.cpu_s:.0f} s, {row.peak_mib:.0f} MiB",
        jobs=options.jobs,
        minutes=options.minutes,
    )


if __name__ == "__main__":
    main()
