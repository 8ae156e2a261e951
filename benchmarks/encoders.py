"""When an encoder without attention pays: F1, time, memory and speed beside a RoFormer with as many weights.

    python -m benchmarks.encoders --data FOLDER --state FOLDER [--jobs 2] [--minutes 30]
    python -m benchmarks.encoders --speed
    python -m benchmarks.encoders --table

FOLDER of the data holds `cluener` and `cmeee` (nested), each with `train.jsonl.gz` and `dev.jsonl.gz`; runs and their
documents stand in the state folder. A finished run is a line of `benchmarks/results/encoders.jsonl` and is never run
again, so a killed command goes on with the run that it was in.

A run is the recipe of its data with another encoder and no objective but the spans, on `NUM_TEXTS` training texts that
a hash chooses. All encoders are 256 wide and 4 layers deep, with inner sizes that make their weights as many, token
embeddings apart; learning rates are those of the recipe, which was made for the RoFormer. The number of epochs is fixed
beforehand and the last one's F1 counts, so nothing is chosen on dev. A run has one thread; its time is that of the
processor.

Speed is that of the forward pass alone, packed as it is served on a CPU, in fp32 on one thread: `BATCH_TOKENS` tokens
in texts of one length. Encoders take turns, so that a busy machine slows all; medians over rounds. `--speed` writes all
rows of `benchmarks/results/encoders_speed.jsonl` anew.
"""

from __future__ import annotations

import gzip
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.machine import where
from benchmarks.processes import ROOT
from benchmarks.rows import append_row, read_rows, spread
from benchmarks.runs import RECIPES, command, f1_of, train, work
from ner_service.model.batch import Batch, pack
from ner_service.model.config import EncoderConfig
from ner_service.model.encoders import build_encoder
from ner_service.records import structure
from training.data.raw import fraction_of

RESULTS = ROOT / "benchmarks/results/encoders.jsonl"
SPEEDS = ROOT / "benchmarks/results/encoders_speed.jsonl"
SEEDS = (0, 1, 2)
NUM_TEXTS = 3000
EPOCHS = {"cluener": 12, "cmeee": 8}
LENGTHS = (32, 128, 512, 2048)
BATCH_TOKENS = 2048
ROUNDS = 15
VOCAB_SIZE = 6000
ROFORMER = "roformer"

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
    """One training run: an encoder on a data set with a seed."""

    data: str
    encoder: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}-{self.encoder}-{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a run. `cpu_s` is processor time and `peak_mib` the largest resident size of its process."""

    data: str
    encoder: str
    seed: int
    num_texts: int
    epochs: int
    settings: Mapping[str, object]
    f1: float
    cpu_s: float
    peak_mib: float
    date: str
    hardware: str
    torch: str

    @property
    def run(self) -> Run:
        return Run(data=self.data, encoder=self.encoder, seed=self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRow:
    """Tokens a second through an encoder in texts of one length; `num_parameters` without token embeddings."""

    encoder: str
    num_parameters: int
    length: int
    tokens_per_s: float
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
    """Runs still to do, a seed after the other."""
    done = {row.run for row in rows}
    everything = [Run(data=data, encoder=name, seed=seed) for seed in SEEDS for data in EPOCHS for name in ENCODERS]
    return [run for run in everything if run not in done]


def execute(run: Run, data: Path, state: Path) -> Row:
    """Train from the start, for its whole cost is measured, and say what came of it."""
    epochs = EPOCHS[run.data]
    settings = (
        f"seed={run.seed}",
        f"epochs={epochs}",
        f"evaluate_every={epochs}",
        "objectives={}",
        f"model.encoder={inline(ENCODERS[run.encoder])}",
        f'data.train=[{{ path = "{subset(run, data, state)}" }}]',
        f'data.dev=[{{ path = "{data / run.data}/dev.jsonl.gz" }}]',
    )
    finished = train(RECIPES / f"{run.data}.toml", settings, state / run.name)
    return Row(
        **asdict(run),
        num_texts=NUM_TEXTS,
        epochs=epochs,
        settings=ENCODERS[run.encoder],
        f1=f1_of(finished),
        cpu_s=finished.cpu_s,
        peak_mib=finished.peak_mib,
        **where(),
    )


def inline(table: Mapping[str, object]) -> str:
    """A table on one line of TOML, for values that JSON writes in the same way."""
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + " }"


def subset(run: Run, data: Path, state: Path) -> Path:
    """The training documents whose texts have the lowest hashes, in their order."""
    target = state / f"{run.data}-{NUM_TEXTS}.jsonl"
    if not target.exists():
        source = data / run.data / "train.jsonl.gz"
        lines = gzip.decompress(source.read_bytes()).decode("utf-8").splitlines(keepends=True)
        ranked = sorted(range(len(lines)), key=lambda line: fraction_of("encoders " + json.loads(lines[line])["text"]))
        scratch = target.with_name(f"{target.name}.{run.name}")
        scratch.write_text("".join(lines[line] for line in sorted(ranked[:NUM_TEXTS])), encoding="utf-8")
        scratch.replace(target)
    return target


# ---- speed


def speeds(lengths: Sequence[int], rounds: int) -> Iterator[SpeedRow]:
    """Tokens a second of every encoder at every length, the encoders by turns."""
    torch.manual_seed(0)
    encoders = {name: build_encoder(config_of(name)).eval().requires_grad_(False) for name in ENCODERS}
    about = where()
    for length in lengths:
        num_texts = max(BATCH_TOKENS // length, 1)
        batch = pack(torch.randint(VOCAB_SIZE, (num_texts, length)).tolist())
        passes = [[seconds(encoder, batch) for encoder in encoders.values()] for _ in range(rounds + 1)][1:]
        for name, times in zip(encoders, zip(*passes, strict=True), strict=True):
            yield SpeedRow(
                encoder=name,
                num_parameters=num_parameters(name),
                length=length,
                tokens_per_s=round(num_texts * length / statistics.median(times), 1),
                rounds=rounds,
                **about,
            )


@torch.inference_mode()
def seconds(encoder: nn.Module, batch: Batch) -> float:
    """Processor time of a forward pass."""
    start_s = time.process_time()
    encoder(batch)
    return time.process_time() - start_s


# ---- the table


def table(rows: Sequence[Row], speed_rows: Sequence[SpeedRow]) -> Iterator[str]:
    """Markdown: F1 of every data set with time and memory as ratios to RoFormer, then tokens a second."""
    yield "| data | encoder | F1, mean (standard deviation) of seeds | against RoFormer | training time | memory |"
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
            memory = statistics.median(row.peak_mib for row in own) / statistics.median(r.peak_mib for r in attending)
            yield f"| {data} | {name} | {spread(f1)} | {gain:+.4f} | {cpu:.2f} | {memory:.2f} |"
    yield ""
    lengths = sorted({row.length for row in speed_rows})
    yield "| encoder | parameters | " + " | ".join(f"tokens/s at {length}" for length in lengths) + " |"
    yield "|---|---|" + "---|" * len(lengths)
    for name in ENCODERS:
        found = {row.length: row for row in speed_rows if row.encoder == name}
        if found:
            figures = (f"{found[length].tokens_per_s:,.0f}" if length in found else "" for length in lengths)
            yield f"| {name} | {next(iter(found.values())).num_parameters:,} | {' | '.join(figures)} |"


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--speed", action="store_true", help="measure speed instead")
    options = parser.parse_args()
    if options.table:
        print("\n".join(table(read_rows(Row, RESULTS), read_rows(SpeedRow, SPEEDS))))
        return
    if options.speed:
        torch.set_num_threads(1)
        measured = list(speeds(LENGTHS, ROUNDS))
        SPEEDS.unlink(missing_ok=True)
        for row in measured:
            append_row(SPEEDS, row)
        return
    if options.data is None or options.state is None:
        parser.error("expected --data and --state, or --speed, or --table")
    data, state = options.data.resolve(), options.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    work(
        RESULTS,
        Row,
        planned,
        lambda run: execute(run, data, state),
        lambda row: f"F1 {row.f1:.4f}, {row.cpu_s:.0f} s, {row.peak_mib:.0f} MiB",
        jobs=options.jobs,
        minutes=options.minutes,
    )


if __name__ == "__main__":
    main()
