"""How an imported encoder becomes a RoFormer: how near it is to the original, and what it is worth, while it learns.

    python -m benchmarks.accuracy.adaptation --data FOLDER --texts FILE [--texts FILE ...] --student BUNDLE
        --teacher BUNDLE --state FOLDER [--name NAME] [--set KEY=VALUE ...] [--minutes 30]
    python -m benchmarks.accuracy.adaptation --table

One run of `training/recipes/adapt.toml` over the texts, with a bundle kept after 0, 1, 2, 4, 8, ... epochs and after
the last one. Each is measured on texts held out: the centred cosine of its hidden states to the teacher's, token by
token, and the share of masked tokens that it names; and by a short fine-tuning, always the same: the texts of CLUENER
that `benchmarks.accuracy.heads` cuts it to, FINE_TUNE_EPOCHS epochs, F1 on FOLDER/cluener/dev.jsonl.gz after the last.
After so many minutes the command ends, and goes on where it was when it is called again. A measured bundle is a line of
`benchmarks/results/adaptation.jsonl`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, cast

import torch
import typer
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from benchmarks.accuracy.heads import RECIPE as FINE_TUNE_RECIPE
from benchmarks.accuracy.heads import Run as HeadRun
from benchmarks.accuracy.heads import hardware, read_start, split_texts
from benchmarks.processes import ROOT, run_module
from ner_service.bundle import read_manifest
from ner_service.model.batch import pad
from ner_service.model.encoders import Encoder
from ner_service.recognizer import pick_device
from ner_service.terminal import refusals
from training.assembly import new_state
from training.config import load_run
from training.loop import train, weights_of
from training.objectives.distillation import DistillationObjective
from training.objectives.masked_language_model import MaskedLanguageModelObjective
from training.preparation import Setup, prepare
from training.state import State

RESULTS = ROOT / "benchmarks/results/adaptation.jsonl"
RECIPE = ROOT / "training/recipes/adapt.toml"
FINE_TUNE_EPOCHS = 5
NUM_TEXTS = 200
"""Texts held out over which cosines are averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A point of the curve: what all objectives have read, and what was measured; `masked_accuracy` needs its head."""

    name: str
    epoch: int
    num_tokens: int
    cosine: float
    masked_accuracy: float | None
    f1: float
    settings: tuple[str, ...]
    date: str
    hardware: str
    torch: str


def read_rows(path: Path = RESULTS) -> list[Row]:
    """The points measured so far."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    values = (json.loads(line) for line in lines)
    return [Row(**{**value, "settings": tuple(value["settings"])}) for value in values]


def is_point(epoch: int, last: int) -> bool:
    """Whether a bundle is kept after so many epochs: powers of two, and the last."""
    return epoch == last or epoch & (epoch - 1) == 0


def adapt(setup: Setup, state_folder: Path, until_s: float) -> bool:
    """Train on, with a snapshot an epoch and a bundle at each point; whether the run has come to its end."""
    accelerator = Accelerator(cpu=pick_device(setup.run.device).type == "cpu", mixed_precision="bf16")
    state = new_state(setup, accelerator)
    snapshot = state_folder / "snapshot.pt"
    num_tokens = 0
    if snapshot.exists():
        state.restore(snapshot, setup.fingerprint())
        num_tokens = json.loads((state_folder / "tokens.json").read_text(encoding="utf-8"))
    else:
        keep_point(setup, state, state_folder, num_tokens)
    for progress in train(setup, state, accelerator):
        num_tokens += progress.num_tokens
        if progress.finished is not None:
            (state_folder / "tokens.json").write_text(str(num_tokens), encoding="utf-8")
            state.save(snapshot, setup.fingerprint())
            if is_point(state.epoch, setup.run.epochs):
                keep_point(setup, state, state_folder, num_tokens)
            if time.monotonic() > until_s and state.epoch < setup.run.epochs:
                return False
    return True


def keep_point(setup: Setup, state: State, state_folder: Path, num_tokens: int) -> None:
    """The bundle of the present weights, with what is measured without fine-tuning."""
    state.model.eval()
    objectives = {weighted.name: weighted.objective for weighted in state.objectives}
    masked = objectives.get("masked_language_model")
    metrics = {
        "epoch": state.epoch,
        "num_tokens": num_tokens,
        "cosine": centred_cosine(setup, cast(DistillationObjective, objectives["distillation"])),
        "masked_accuracy": masked_accuracy(cast(MaskedLanguageModelObjective, masked)) if masked else None,
    }
    setup.bundle(weights_of(state.model), metrics).save(state_folder / f"epoch-{state.epoch:03}")


@torch.no_grad()
def centred_cosine(setup: Setup, objective: DistillationObjective) -> float:
    """Mean cosine of the last hidden states of encoder and teacher, each less its own mean over all tokens."""
    texts = setup.corpus.raw.dev_texts()[:NUM_TEXTS]
    encodings = [encoding.token_ids[: objective.config.max_tokens] for encoding in setup.tokenizer.encode_batch(texts)]
    encoders = (objective.encoder, cast(Encoder, objective.teacher))
    own_ND, other_ND = (_centred(encoder, encodings, setup.tokenizer.pad_id) for encoder in encoders)
    return float(functional.cosine_similarity(own_ND, other_ND).mean())


def _centred(encoder: Encoder, encodings: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    device = encoder.token_embedding.weight.device
    hidden_ND = torch.cat([encoder(pad([token_ids], pad_id, device))[0] for token_ids in encodings])
    return hidden_ND - hidden_ND.mean(0)


@torch.no_grad()
def masked_accuracy(objective: MaskedLanguageModelObjective) -> float:
    """The share of masked tokens held out that are named right."""
    named = [
        (logits_NV.argmax(-1) == target_N) for logits_NV, target_N in map(objective.predict, objective.dev_batches)
    ]
    return float(torch.cat(named).float().mean())


def measure(point: Path, name: str, settings: tuple[str, ...], data: Path, state_folder: Path) -> Row:
    """The short fine-tuning from a bundle, and its row."""
    start = read_start(point)
    cut = HeadRun(data="cluener", full=False, head="efficient_global_pointer", seed=0, start_sha256=start.sha256)
    split = split_texts(cut, data, state_folder)
    options = (
        f"epochs={FINE_TUNE_EPOCHS}",
        f"evaluate_every={FINE_TUNE_EPOCHS}",
        f'model.start_from="{start.folder}"',
        f'data.train=[{{ path = "{split.learn}" }}]',
        f'data.dev=[{{ path = "{data}/cluener/dev.jsonl.gz" }}]',
    )
    output = state_folder / f"fine-tuned-{point.name}-{time.time_ns()}"
    arguments = ["train", str(FINE_TUNE_RECIPE), "-o", str(output), "--json"]
    finished = run_module("training.cli", [*arguments, *(part for option in options for part in ("--set", option))])
    known = read_manifest(point).metrics
    return Row(
        name=name,
        f1=json.loads(finished.output)["last_epoch_f1"],
        settings=settings,
        date=datetime.now(UTC).date().isoformat(),
        hardware=hardware(),
        torch=version("torch"),
        **{key: known[key] for key in ("epoch", "num_tokens", "cosine", "masked_accuracy")},  # type: ignore[arg-type]
    )


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: a line a point."""
    yield "| run | epochs | tokens | centred cosine | masked tokens named | F1 |"
    yield "|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda row: (row.name, row.epoch)):
        named = "-" if row.masked_accuracy is None else f"{row.masked_accuracy:.3f}"
        read = f"{row.num_tokens / 1e6:.2f} M"
        yield f"| {row.name} | {row.epoch} | {read} | {row.cosine:.3f} | {named} | {row.f1:.4f} |"


def run_all(
    texts: Sequence[Path],
    student: Path,
    teacher: Path,
    data: Path,
    state: Path,
    name: str,
    own: Sequence[str],
    minutes: float,
) -> None:
    """Adapt and measure until the time is over."""
    until_s = time.monotonic() + 60 * minutes
    listed = ", ".join(f'"{path.resolve()}"' for path in texts)
    settings = (
        f"data.texts=[{listed}]",
        f'model.start_from="{student.resolve()}"',
        f'objectives.distillation.teacher="{teacher.resolve()}"',
        *own,
    )
    setup = prepare(load_run(RECIPE, settings), RECIPE.parent, RECIPE.parent)
    folder = state / name
    folder.mkdir(parents=True, exist_ok=True)
    finished = adapt(setup, folder, until_s)
    done = {(row.name, row.epoch) for row in read_rows()}
    points = sorted(folder.glob("epoch-*"))
    waiting = [point for point in points if (name, read_manifest(point).metrics["epoch"]) not in done]
    for point in waiting if finished else []:
        if time.monotonic() > until_s:
            return
        row = measure(point, name, tuple(own), data, folder)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
        print(f"{name}, epoch {row.epoch}: F1 {row.f1:.4f}", flush=True)


def main(
    data: Annotated[Path | None, typer.Option(help="Folder with cluener.")] = None,
    texts: Annotated[list[Path] | None, typer.Option(help="Raw text, a paragraph a line.")] = None,
    student: Annotated[Path | None, typer.Option(help="The imported RoFormer.")] = None,
    teacher: Annotated[Path | None, typer.Option(help="The imported original.")] = None,
    state: Annotated[Path | None, typer.Option(help="Folder of runs.")] = None,
    name: Annotated[str, typer.Option(help="Name of the run in the rows.")] = "adapt",
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override of the recipe.")] = None,
    minutes: Annotated[float, typer.Option(help="No epoch and no measure is begun after so many.")] = 30.0,
    show: Annotated[bool, typer.Option("--table", help="Show the rows.")] = False,
) -> None:
    if show:
        print("\n".join(table(read_rows())))
        return
    if not (data and texts and student and teacher and state):
        raise typer.BadParameter("expected --data, --texts, --student, --teacher and --state, or --table")
    with refusals():
        run_all(texts, student, teacher, data.resolve(), state.resolve(), name, settings or [], minutes)


if __name__ == "__main__":
    typer.run(main)
