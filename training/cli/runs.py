"""ner-train init, train, pretrain: from a configuration to a bundle."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import Accelerator
from rich.console import Console

from ner_service.bundle import free_place
from ner_service.errors import ConfigError
from ner_service.recognizer import Recognizer
from ner_service.terminal import console, refusals, say
from training.assembly import accelerator_of, new_state
from training.cli.options import Json
from training.config import RunConfig, load_run
from training.evaluation import full_report, predict
from training.loop import train as run_loop
from training.loop import weights_of
from training.preparation import Setup, prepare
from training.reports import data_table, lost_table, score_table, show_progress, start_line
from training.sample import write_sample
from training.state import State

SNAPSHOT = "snapshot.pt"
SNAPSHOT_EVERY_S = 60.0
BUNDLE = "bundle"

Config = Annotated[Path, typer.Argument(help="A run in TOML.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; the bundle stands in it.")]
Data = Annotated[Path | None, typer.Option(help="Folder of what it reads; else that of the run.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Override, e.g. optimizer.lr=2e-5.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the run was interrupted.")]


def init(folder: Annotated[Path, typer.Argument(help="A new folder.")]) -> None:
    """Write a run and sample data that train in a minute, to start from."""
    with refusals():
        run = write_sample(folder)
        say(f"Wrote {folder}. Next: ner-train train {run} -o {folder / 'run'}")


def train(
    config: Config,
    output: Output,
    data: Data = None,
    settings: Settings = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train a model on annotated documents and write its bundle."""
    with refusals():
        run = load_run(config, settings or [])
        if not run.data.train:
            raise ConfigError(f"{config}: data.train: found no documents, expected some; without any, use pretrain")
        _train(run, config.parent, output, data, resume, as_json)


def pretrain(
    config: Config,
    output: Output,
    data: Data = None,
    settings: Settings = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train an encoder on raw texts and pairs of sentences and write a bundle to start from."""
    with refusals():
        run = load_run(config, settings or [])
        if run.data.train:
            raise ConfigError(f"{config}: data.train: found documents, expected none; to learn from labels, use train")
        _train(run, config.parent, output, data, resume, as_json)


def _train(run: RunConfig, folder: Path, output: Path, data: Path | None, resume: bool, as_json: bool) -> None:
    """Run to the end and write the bundle of the best epoch."""
    accelerator = accelerator_of(run)
    if run.precision == "bf16" and accelerator.mixed_precision == "no" and accelerator.is_main_process:
        say("This processor has no bf16 arithmetic: training in fp32.")
    setup = prepare(run, folder, data or folder)
    state = _start(setup, accelerator, output, resume)
    if setup.started and accelerator.is_main_process:
        say(start_line(setup.started))
    if run.data.train and accelerator.is_main_process:
        console.print(data_table(setup.corpus))
    lost = setup.unrepresentable()
    if lost and accelerator.is_main_process:
        console.print(lost_table(lost))
    _run(setup, state, accelerator, output)
    if accelerator.is_main_process:
        metrics = _export(setup, state, accelerator.device, output / BUNDLE, len(lost))
        if as_json:
            print(json.dumps(metrics, ensure_ascii=False, allow_nan=False))
        say(f"Wrote {output / BUNDLE}. Next: {_next(run, output / BUNDLE)}")


def _next(run: RunConfig, bundle: Path) -> str:
    """What to do with a bundle. A run starts from it by its full path: a relative one counts from the run's folder."""
    if run.data.train:
        return f"ner-service serve --model {bundle}"
    return f"ner-train train RUN --set model.start_from={bundle.absolute()}"


def _start(setup: Setup, accelerator: Accelerator, output: Path, resume: bool) -> State:
    free_place(output / BUNDLE)
    state = new_state(setup, accelerator)
    snapshot = output / SNAPSHOT
    if resume and snapshot.is_file():
        state.restore(snapshot, setup.identity())
    elif snapshot.exists():
        raise ConfigError(f"{snapshot}: a run stands here; go on with --resume, or choose another folder")
    if resume and accelerator.is_main_process:
        done = f"{state.epoch} of {setup.run.epochs} epochs" + (f" and {state.step} steps" if state.step else "")
        say(f"Goes on after {done}" if snapshot.is_file() else f"Nothing to go on with in {output}: starts anew")
    output.mkdir(parents=True, exist_ok=True)
    return state


def _run(setup: Setup, state: State, accelerator: Accelerator, output: Path) -> None:
    """Train to the end, with a snapshot a minute and one an epoch."""
    quiet = Console(stderr=True, quiet=not accelerator.is_main_process)
    identity, saved_s = setup.identity(), time.monotonic()
    try:
        for progress in show_progress(run_loop(setup, state, accelerator), setup.run.epochs, quiet):
            due = progress.finished is not None or time.monotonic() - saved_s > SNAPSHOT_EVERY_S
            if due and accelerator.is_main_process:
                state.save(output / SNAPSHOT, identity)
                saved_s = time.monotonic()
    except KeyboardInterrupt:
        say("Interrupted. The same command with --resume goes on from the last snapshot")
        raise


def _export(setup: Setup, state: State, device: torch.device, folder: Path, num_lost: int) -> dict[str, object]:
    """Write the best epoch's bundle with what was measured of it, and every epoch's history."""
    draft = setup.bundle(state.best_weights or weights_of(state.model), {})
    dev = setup.corpus.dev
    metrics: dict[str, object] = {"best_epoch": state.best.epoch + 1 if state.best else 0}
    if dev:
        best = full_report(dev, predict(Recognizer(draft, device), dev))
        metrics |= {
            "last_epoch_f1": state.history[-1].score,  # measured: a run ends after no other epoch
            "unrepresentable_entities": num_lost,
            **best.as_dict(),
        }
        console.print(score_table(best))
    metrics["history"] = {str(record.epoch + 1): {"loss": record.loss, **record.dev} for record in state.history}
    setup.bundle(draft.weights, metrics).save(folder)
    return metrics
