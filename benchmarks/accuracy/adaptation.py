"""How an imported encoder becomes a RoFormer: how near it is to the original, and what it is worth, while it learns.

    python -m benchmarks.accuracy.adaptation --data FOLDER --texts FILE [--texts FILE ...] --student BUNDLE
        --teacher BUNDLE --state FOLDER [--name NAME] [--set KEY=VALUE ...] [--minutes 30]
    python -m benchmarks.accuracy.adaptation --table

One run of `training/recipes/adapt.toml` over the texts, with a bundle kept after 0, 1, 2, 4, 8, ... epochs and after
the last one. Each is measured on all texts held out, some 20 with the recipe: the centred cosine of its hidden states
to the teacher's, part by part, and the share of masked tokens that it names; and by a short fine-tuning, always the
same: the texts of CLUENER that `benchmarks.accuracy.heads` cuts it to, FINE_TUNE_EPOCHS epochs, F1 after the last on
the tenth of CLUENER's training texts that chooses there: such figures choose recipes, and dev is to report.
After so many minutes the command ends, and goes on where it was when it is called again. A measured bundle is a line of
`benchmarks/results/adaptation.jsonl`, where a name is that of one run alone.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
import typer
from torch.nn import functional

from benchmarks import runs
from benchmarks.accuracy.heads import NUM_TEXTS
from benchmarks.accuracy.splits import split_texts
from benchmarks.accuracy.trained import RECIPE as FINE_TUNE_RECIPE
from benchmarks.machine import where
from benchmarks.processes import ROOT
from benchmarks.rows import append_row, read_rows
from ner_service.bundle import read_manifest
from ner_service.bundle.manifest import MANIFEST
from ner_service.errors import ConfigError
from ner_service.terminal import refusals
from training.assembly import accelerator_of, new_state
from training.config import load_run
from training.loop import train, weights_of
from training.objectives.distillation import DistillationObjective
from training.objectives.masked_language_model import MaskedLanguageModelObjective
from training.preparation import Setup, prepare
from training.state import State

RESULTS = ROOT / "benchmarks/results/adaptation.jsonl"
RECIPE = ROOT / "training/recipes/adapt.toml"
FINE_TUNE_EPOCHS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A point of the curve: what all objectives have read, and what was measured; `masked_accuracy` needs its head.

    `fingerprint` is that of the run and what it starts from, None where it was not written down. The first runs' F1 is
    on CLUENER's dev.
    """

    name: str
    fingerprint: str | None
    epoch: int
    num_tokens: int
    cosine: float
    masked_accuracy: float | None
    f1: float
    f1_on: Literal["tenth", "dev"]
    settings: tuple[str, ...]
    date: str
    hardware: str
    torch: str


def is_point(epoch: int, last: int) -> bool:
    """Whether a bundle is kept after so many epochs: powers of two, and the last."""
    return epoch == last or epoch & (epoch - 1) == 0


def adapt(setup: Setup, state_folder: Path, until_s: float) -> None:
    """Train on, with a snapshot an epoch and a bundle at each point.

    The snapshot is written after all else of its epoch: what a kill leaves without one is made again, the same.
    """
    accelerator = accelerator_of(setup.run)
    state = new_state(setup, accelerator)
    snapshot, counts = state_folder / "snapshot.pt", state_folder / "tokens.json"
    tokens_of_epochs: list[int] = []
    if snapshot.exists():
        state.restore(snapshot, setup.identity())
        tokens_of_epochs = json.loads(counts.read_text(encoding="utf-8"))[: state.epoch]
    else:
        keep_point(setup, state, state_folder, 0)
    num_tokens = 0
    for progress in train(setup, state, accelerator):
        num_tokens += progress.num_tokens
        if progress.finished is not None:
            tokens_of_epochs.append(num_tokens)
            num_tokens = 0
            _write_whole(counts, json.dumps(tokens_of_epochs))
            if is_point(state.epoch, setup.run.epochs):
                keep_point(setup, state, state_folder, sum(tokens_of_epochs))
            state.save(snapshot, setup.identity())
            if time.monotonic() > until_s:
                return


def _write_whole(path: Path, content: str) -> None:
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_text(content, encoding="utf-8")
    scratch.replace(path)


def keep_point(setup: Setup, state: State, state_folder: Path, num_tokens: int) -> None:
    """The bundle of the present weights, with what is measured without fine-tuning."""
    state.model.eval()
    objectives = {weighted.name: weighted.objective for weighted in state.objectives}
    masked = objectives.get("masked_language_model")
    metrics = {
        "epoch": state.epoch,
        "num_tokens": num_tokens,
        "cosine": centred_cosine(cast(DistillationObjective, objectives["distillation"])),
        "masked_accuracy": masked_accuracy(cast(MaskedLanguageModelObjective, masked)) if masked else None,
    }
    setup.bundle(weights_of(state.model), metrics).save(state_folder / f"epoch-{state.epoch:03}")


@torch.no_grad()
def centred_cosine(objective: DistillationObjective) -> float:
    """Mean cosine of the last states of encoder and teacher, each less its own mean over all parts held out."""
    own_PD, other_PD = (
        torch.cat([read(batch)[-1] for batch in objective.dev_batches])
        for read in (objective.states, objective.targets)
    )
    return float(functional.cosine_similarity(own_PD - own_PD.mean(0), other_PD - other_PD.mean(0)).mean())


@torch.no_grad()
def masked_accuracy(objective: MaskedLanguageModelObjective) -> float:
    """The share of masked tokens held out that are named right."""
    named = [
        (logits_NV.argmax(-1) == target_N) for logits_NV, target_N in map(objective.predict, objective.dev_batches)
    ]
    return float(torch.cat(named).float().mean())


def fingerprint_of(setup: Setup, student: Path) -> str:
    """The run's own, which knows where it starts by its name alone, and the digests of what stands there."""
    start = (student / MANIFEST).read_text(encoding="utf-8")
    return hashlib.sha256(f"{setup.identity()} {start}".encode()).hexdigest()


def check_name(name: str, fingerprint: str, rows: Sequence[Row]) -> None:
    """Refuse a name under which another run has rows.

    Raises:
        ConfigError: it has some.
    """
    if any(row.name == name and row.fingerprint != fingerprint for row in rows):
        raise ConfigError(f"--name {name}: found rows of another run in {RESULTS.name}, expected a name of its own")


def measure(point: Path, name: str, fingerprint: str, settings: tuple[str, ...], data: Path, folder: Path) -> Row:
    """The short fine-tuning from a bundle, and its row."""
    source = data / "cluener/train.jsonl.gz"
    # Hashes choose: no text of a tenth of all is among those that a part of all learns from.
    learn, choose = split_texts(source, NUM_TEXTS, folder).learn, split_texts(source, None, folder).choose
    options = (
        f"epochs={FINE_TUNE_EPOCHS}",
        f"evaluate_every={FINE_TUNE_EPOCHS}",
        f'model.start_from="{point}"',
        f'data.train=[{{ path = "{learn}" }}]',
        f'data.dev=[{{ path = "{choose}" }}]',
    )
    finished = runs.train(FINE_TUNE_RECIPE, options, folder / "fine-tuned")
    known = read_manifest(point).metrics
    return Row(
        name=name,
        fingerprint=fingerprint,
        f1=runs.f1_of(finished),
        f1_on="tenth",
        settings=settings,
        **where(),
        **{key: known[key] for key in ("epoch", "num_tokens", "cosine", "masked_accuracy")},  # type: ignore[arg-type]
    )


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: a line a point."""
    yield "| run | epochs | tokens | centred cosine | masked tokens named | F1 | on |"
    yield "|---|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda row: (row.name, row.f1_on, row.epoch)):
        named = "-" if row.masked_accuracy is None else f"{row.masked_accuracy:.3f}"
        read = f"{row.num_tokens / 1e6:.2f} M"
        yield f"| {row.name} | {row.epoch} | {read} | {row.cosine:.3f} | {named} | {row.f1:.4f} | {row.f1_on} |"


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
    """Adapt, then measure what was kept, until the time is over."""
    until_s = time.monotonic() + 60 * minutes
    listed = ", ".join(f'"{path.resolve()}"' for path in texts)
    settings = (
        f"data.texts=[{listed}]",
        f'model.start_from="{student.resolve()}"',
        f'objectives.distillation.teacher="{teacher.resolve()}"',
        *own,
    )
    setup = prepare(load_run(RECIPE, settings), RECIPE.parent, RECIPE.parent)
    rows = read_rows(Row, RESULTS)
    fingerprint = fingerprint_of(setup, student)
    check_name(name, fingerprint, rows)
    folder = state / name
    folder.mkdir(parents=True, exist_ok=True)
    adapt(setup, folder, until_s)
    done = {(row.name, row.epoch) for row in rows if row.f1_on == "tenth"}
    for point in sorted(folder.glob("epoch-*")):
        waits = (name, read_manifest(point).metrics["epoch"]) not in done
        if waits and time.monotonic() < until_s:
            row = measure(point, name, fingerprint, tuple(own), data, folder)
            append_row(RESULTS, row)
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
        print("\n".join(table(read_rows(Row, RESULTS))))
        return
    if not (data and texts and student and teacher and state):
        raise typer.BadParameter("expected --data, --texts, --student, --teacher and --state, or --table")
    with refusals():
        run_all(texts, student, teacher, data.resolve(), state.resolve(), name, settings or [], minutes)


if __name__ == "__main__":
    typer.run(main)
