"""When an encoder without attention pays: F1, training time, speed and memory beside a RoFormer with as many weights.

    python -m benchmarks.encoders --data FOLDER --state FOLDER [--jobs 2] [--minutes 30]
    python -m benchmarks.encoders --speed
    python -m benchmarks.encoders --pass ENCODER LENGTH
    python -m benchmarks.encoders --table

FOLDER of the data holds `cluener` and `cmeee` (nested), each with `train.jsonl.gz` and `dev.jsonl.gz`; runs and their
documents stand in the state folder. A finished run is a line of `benchmarks/results/encoders.jsonl` and is never run
again, so a killed command goes on with the run that it was in.

A run is the recipe of its data with another encoder and no objective but the spans, on `NUM_TEXTS` training texts that
a hash chooses. All encoders are 256 wide and 4 layers deep, with inner sizes that make their weights as many, token
embeddings apart. The recipe's learning rate was made for the RoFormer, so each encoder has its own: it is trained at
each of `RATES` on nine tenths of CLUENER's texts, and the rate with the highest F1 on the other tenth is that of its
runs on both sets. These learn from all the texts and are scored on dev. The number of epochs is fixed beforehand and
the last one's F1 counts, so nothing is chosen on dev. A run has one thread; its time is that of the processor.

Speed is that of the forward pass alone, packed as it is served on a CPU, in fp32 on one thread: `BATCH_TOKENS` tokens
in texts of one length. Encoders take turns, so that a busy machine slows all; medians over rounds. Memory is what the
largest resident size of a process grows by in that pass, after one over a single token: `--pass` prints it, in MiB (on
Linux with glibc), and `--speed` runs it for each encoder and length. `--speed` writes all rows of
`benchmarks/results/encoders_speed.jsonl` anew.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from benchmarks.accuracy import rates
from benchmarks.accuracy.rates import best_rate
from benchmarks.accuracy.splits import split_texts
from benchmarks.machine import where
from benchmarks.processes import ROOT, run_module
from benchmarks.rows import append_row, read_rows, spread
from benchmarks.runs import RECIPES, command, f1_of, train, work
from ner_service.model.batch import Batch, pack
from ner_service.model.config import EncoderConfig
from ner_service.model.encoders import build_encoder
from ner_service.records import structure

RESULTS = ROOT / "benchmarks/results/encoders.jsonl"
SPEEDS = ROOT / "benchmarks/results/encoders_speed.jsonl"
SEEDS = (0, 1, 2)
NUM_TEXTS = 2000
EPOCHS = {"cluener": 10, "cmeee": 7}
RATES = (5e-4, 1e-3, 2e-3)
"""Learning rates that are tried: the recipe's, twice and four times it. At half of it the first three were worse."""

LENGTHS = (32, 128, 512, 2048)
BATCH_TOKENS = 2048
ROUNDS = 15
M_MMAP_THRESHOLD = -3  # of mallopt(3)
VOCAB_SIZE = 6000
ROFORMER = "roformer"

HeldOut = Literal["choose", "dev"]
"""What a run is scored on: the tenth of the training texts that the learning rate is chosen by, or dev."""

SIZE = {"hidden_size": 256, "num_layers": 4}
ENCODERS: dict[str, Mapping[str, object]] = {
    ROFORMER: {"kind": "roformer", **SIZE, "num_heads": 4, "intermediate_size": 1024, "attention_dropout": 0.0},
    "gmlp": {"kind": "gmlp", **SIZE, "intermediate_size": 1960},
    "amlp": {"kind": "gmlp", **SIZE, "intermediate_size": 1704, "attention_size": 64},
    "fnet": {"kind": "fnet", **SIZE, "intermediate_size": 1512},
    "hypermixer": {"kind": "hypermixer", **SIZE, "num_heads": 4, "mixing_size": 256, "intermediate_size": 1416},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run: an encoder on a data set at a learning rate with a seed."""

    data: str
    encoder: str
    lr: float
    seed: int
    held_out: HeldOut

    @property
    def name(self) -> str:
        return f"{self.data}-{self.encoder}-{self.lr:g}-{self.seed}-{self.held_out}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a run. `num_texts` are all that the set was cut to; `cpu_s` is processor time."""

    data: str
    encoder: str
    lr: float
    seed: int
    held_out: HeldOut
    num_texts: int
    epochs: int
    settings: Mapping[str, object]
    f1: float
    cpu_s: float
    date: str
    hardware: str
    torch: str

    @property
    def run(self) -> Run:
        return Run(data=self.data, encoder=self.encoder, lr=self.lr, seed=self.seed, held_out=self.held_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRow:
    """Tokens a second through an encoder in texts of one length, and the memory that a batch of them takes;
    `num_parameters` without token embeddings.
    """

    encoder: str
    num_parameters: int
    length: int
    tokens_per_s: float
    pass_mib: float
    rounds: int
    date: str
    hardware: str
    torch: str


def config_of(encoder: str) -> EncoderConfig:
    """The record of an encoder."""
    config: Any = structure(EncoderConfig, {**ENCODERS[encoder], "vocab_size": VOCAB_SIZE}, encoder)  # type: ignore[arg-type]
    return config  # type: ignore[no-any-return]


def num_parameters(encoder: str) -> int:
    """Its weights, token embeddings apart, which are the same in all."""
    with torch.device("meta"):
        built = build_encoder(config_of(encoder))
    return sum(weight.numel() for name, weight in built.named_parameters() if name != "token_embedding.weight")


# ---- runs


def planned(rows: Sequence[Row]) -> list[Run]:
    """Runs still to do, as far as is known: those that try learning rates, then, a seed after the other, those of the
    encoders whose rate is chosen.
    """
    everything = [
        Run(data=rates.DATA, encoder=name, lr=lr, seed=rates.SEED, held_out="choose")
        for name in ENCODERS
        for lr in RATES
    ]
    chosen = {name: rate_of(rows, name) for name in ENCODERS}
    everything += [
        Run(data=data, encoder=name, lr=rate, seed=seed, held_out="dev")
        for seed in SEEDS
        for data in EPOCHS
        for name, rate in chosen.items()
        if rate is not None
    ]
    done = {row.run for row in rows}
    return [run for run in everything if run not in done]


def rate_of(rows: Sequence[Row], encoder: str) -> float | None:
    """The learning rate of an encoder, as soon as it is chosen."""
    return best_rate(tried(rows, encoder), RATES)


def tried(rows: Sequence[Row], encoder: str) -> dict[float, float]:
    """An encoder's F1 on the tenth at each learning rate that has been tried."""
    return {row.lr: row.f1 for row in rows if (row.encoder, row.held_out) == (encoder, "choose")}


def execute(run: Run, data: Path, state: Path) -> Row:
    """Train from the start, for its whole cost is measured, and say what came of it."""
    epochs = EPOCHS[run.data]
    split = split_texts(data / run.data / "train.jsonl.gz", NUM_TEXTS, state)
    if run.held_out == "choose":
        learnt, scored = [split.learn], split.choose
    else:
        learnt, scored = [split.learn, split.choose], data / run.data / "dev.jsonl.gz"
    settings = (
        f"seed={run.seed}",
        f"epochs={epochs}",
        f"evaluate_every={epochs}",
        f"optimizer.lr={run.lr}",
        "objectives={}",
        f"model.encoder={inline(ENCODERS[run.encoder])}",
        f"data.train=[{', '.join(inline({'path': str(path)}) for path in learnt)}]",
        f"data.dev=[{inline({'path': str(scored)})}]",
    )
    finished = train(RECIPES / f"{run.data}.toml", settings, state / run.name)
    return Row(
        **asdict(run),
        num_texts=NUM_TEXTS,
        epochs=epochs,
        settings=ENCODERS[run.encoder],
        f1=f1_of(finished),
        cpu_s=finished.cpu_s,
        **where(),
    )


def inline(table: Mapping[str, object]) -> str:
    """A table on one line of TOML, for values that JSON writes in the same way."""
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + " }"


# ---- speed and memory


def speeds(lengths: Sequence[int], rounds: int) -> Iterator[SpeedRow]:
    """Every encoder at every length, the encoders by turns."""
    torch.manual_seed(0)
    encoders = {name: build_encoder(config_of(name)).eval().requires_grad_(False) for name in ENCODERS}
    about = where()
    for length in lengths:
        batch = batch_of(length)
        passes = [[seconds(encoder, batch) for encoder in encoders.values()] for _ in range(rounds + 1)][1:]
        for name, times in zip(encoders, zip(*passes, strict=True), strict=True):
            yield SpeedRow(
                encoder=name,
                num_parameters=num_parameters(name),
                length=length,
                tokens_per_s=round(batch.token_ids_BL.numel() / statistics.median(times), 1),
                pass_mib=float(run_module("benchmarks.encoders", ["--pass", name, str(length)]).output),
                rounds=rounds,
                **about,
            )


def batch_of(length: int) -> Batch:
    """`BATCH_TOKENS` random tokens as texts of one length, packed."""
    return pack(torch.randint(VOCAB_SIZE, (max(BATCH_TOKENS // length, 1), length)).tolist())


@torch.inference_mode()
def seconds(encoder: nn.Module, batch: Batch) -> float:
    """Processor time of a forward pass."""
    start_s = time.process_time()
    encoder(batch)
    return time.process_time() - start_s


@torch.inference_mode()
def pass_mib(encoder: str, length: int) -> float:
    """What the largest resident size of this process, a fresh one, grows by in a forward pass."""
    # Each tensor is mapped and given back by itself, so that the peak is that of the tensors and not of what is free.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 64 * 1024)
    built = build_encoder(config_of(encoder)).eval()
    batch = batch_of(length)
    built(pack([[0]]))  # loads what a first pass loads
    before_mib = peak_mib()
    built(batch)
    return round(peak_mib() - before_mib, 1)


def peak_mib() -> float:
    """The process's largest resident size until now; `getrusage` begins with that of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


# ---- the tables


def tables(rows: Sequence[Row], speed_rows: Sequence[SpeedRow]) -> Iterator[str]:
    """Markdown: learning rates, F1 of every data set, tokens a second, memory."""
    yield from rates_table(rows)
    yield ""
    yield from f1_table(rows)
    yield ""
    yield from lengths_table(speed_rows, "tokens/s", lambda row: f"{row.tokens_per_s:,.0f}")
    yield ""
    yield from lengths_table(speed_rows, "MiB", lambda row: f"{row.pass_mib:,.0f}")


def rates_table(rows: Sequence[Row]) -> Iterator[str]:
    """F1 on the tenth at each learning rate that was tried, also those of before `RATES` were settled."""
    rates = sorted({rate for name in ENCODERS for rate in tried(rows, name)})
    yield "| encoder | " + " | ".join(f"F1 on the tenth at {rate:g}" for rate in rates) + " |"
    yield "|---|" + "---|" * len(rates)
    for name in ENCODERS:
        scores = tried(rows, name)
        if scores:
            yield f"| {name} | " + " | ".join(f"{scores[rate]:.4f}" if rate in scores else "" for rate in rates) + " |"


def f1_table(rows: Sequence[Row]) -> Iterator[str]:
    """F1 of every data set on dev at each encoder's rate, with training time as a ratio to RoFormer's."""
    rows = [row for row in rows if row.held_out == "dev" and row.lr == rate_of(rows, row.encoder)]
    yield "| data | encoder | learning rate | F1, mean (standard deviation) of seeds | against RoFormer | time |"
    yield "|---|---|---|---|---|---|"
    for data in EPOCHS:
        attending = [row for row in rows if (row.data, row.encoder) == (data, ROFORMER)]
        for name in ENCODERS:
            own = [row for row in rows if (row.data, row.encoder) == (data, name)]
            if not own or not attending:
                continue
            f1 = [row.f1 for row in own]
            gain = statistics.fmean(f1) - statistics.fmean(row.f1 for row in attending)
            cpu = statistics.median(row.cpu_s for row in own) / statistics.median(row.cpu_s for row in attending)
            yield f"| {data} | {name} | {own[0].lr:g} | {spread(f1)} | {gain:+.4f} | {cpu:.2f} |"


def lengths_table(rows: Sequence[SpeedRow], unit: str, figure: Callable[[SpeedRow], str]) -> Iterator[str]:
    """One figure of every encoder at every length."""
    lengths = sorted({row.length for row in rows})
    yield "| encoder | parameters | " + " | ".join(f"{unit} at {length}" for length in lengths) + " |"
    yield "|---|---|" + "---|" * len(lengths)
    for name in ENCODERS:
        found = {row.length: row for row in rows if row.encoder == name}
        if found:
            figures = (figure(found[length]) if length in found else "" for length in lengths)
            yield f"| {name} | {next(iter(found.values())).num_parameters:,} | {' | '.join(figures)} |"


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--speed", action="store_true", help="measure speed and memory instead")
    parser.add_argument(
        "--pass", dest="one_pass", nargs=2, metavar=("ENCODER", "LENGTH"), help="print the memory of one forward pass"
    )
    options = parser.parse_args()
    if options.table:
        print("\n".join(tables(read_rows(Row, RESULTS), read_rows(SpeedRow, SPEEDS))))
        return
    torch.set_num_threads(1)
    if options.one_pass:
        encoder, length = options.one_pass
        print(pass_mib(encoder, int(length)))
        return
    if options.speed:
        measured = list(speeds(LENGTHS, ROUNDS))
        SPEEDS.unlink(missing_ok=True)
        for row in measured:
            append_row(SPEEDS, row)
        return
    if options.data is None or options.state is None:
        parser.error("expected --data and --state, or --speed, --pass or --table")
    data, state = options.data.resolve(), options.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    work(
        RESULTS,
        Row,
        planned,
        lambda run: execute(run, data, state),
        lambda row: f"F1 {row.f1:.4f}, {row.cpu_s:.0f} s",
        jobs=options.jobs,
        minutes=options.minutes,
    )


if __name__ == "__main__":
    main()
