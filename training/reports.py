"""Reports for people: tables and the progress bar of a run. Knows no model."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from training.calibration import MIN_GOLD, Calibrated, Comparison
from training.cells import Reliability, Told
from training.data.sources import Corpus
from training.data.targets import Unrepresentable
from training.evaluation import Report, Score
from training.loop import Progress as RunProgress
from training.preparation import Started

SHOWN = 10
"""Entries of a list that are shown before it is cut short with a count."""


def score_table(report: Report) -> Table:
    """Figures of a report: the whole, its parts, every label, and the error of probabilities where it was measured."""
    table = Table("", "precision", "recall", "F1", "gold", *(("ECE", "ECE found") if report.calibration else ()))
    for name in ("micro", "flat", "overlapping", "outer", "inner", "flat_policy"):
        score = getattr(report, name)
        if score is not None and (score.num_gold or name == "micro"):
            table.add_row(name, *_cells(score), *_errors(report.calibration if name == "micro" else None))
    table.add_row("macro", "", "", f"{report.macro_f1:.4f}", "")
    if report.seqeval:
        table.add_row("seqeval", *(f"{report.seqeval[key]:.4f}" for key in ("precision", "recall", "f1")), "")
    table.add_section()
    for label, score in report.labels.items():
        table.add_row(Text(label), *_cells(score), *_errors(report.label_calibration.get(label)))
    if len(report.sources) > 1:
        table.add_section()
        for source, score in report.sources.items():
            table.add_row(Text(source), *_cells(score))
    if report.num_refused:
        table.caption = f"{report.num_refused} of {report.num_documents} documents have too many candidates: no answer"
    return table


def calibration_table(calibrated: Calibrated) -> Table:
    """Every label's fit and threshold, and what they are worth: before, and after on folds that took no part."""
    table = Table("", "fit", "threshold", "gold", "ECE", "ECE found", "F1", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_row("all", "", "", *_compared(calibrated.figures))
    table.add_section()
    for label, fit in calibrated.labels.items():
        sigmoid = f"\u03c3({fit.slope:.2f}s {fit.intercept:+.2f}){'*' if fit.pooled else ''}"
        table.add_row(Text(label), sigmoid, f"{fit.threshold:.2f}", *_compared(fit.figures))
    if any(fit.pooled for fit in calibrated.labels.values()):
        table.caption = f"* fewer than {MIN_GOLD} gold entities: the fit of all labels together"
    return table


def data_table(corpus: Corpus) -> Table:
    """What a run learns and what it is measured on: a label that was mistyped stands there with a few entities."""
    counts = [
        Counter(entity.label for document in part for entity in (*document.entities, *document.scattered))
        for part in (corpus.train, corpus.dev)
    ]
    table = Table("", "train", "dev")
    table.add_row("documents", str(len(corpus.train)), str(len(corpus.dev)))
    table.add_section()
    for label in corpus.labels:
        table.add_row(Text(label), *(str(count[label]) for count in counts))
    return table


def lost_table(lost: list[Unrepresentable]) -> Table:
    """Gold entities that no span of tokens fits, and where they stand."""
    table = Table("file", "document", "label", "mention", "why", title=f"{len(lost)} entities cannot be predicted")
    for item in lost[:SHOWN]:
        entity = item.entity
        mention = item.document.text[entity.start : entity.end][:60]
        source = str(item.document.metadata.get("source", ""))
        table.add_row(Text(source), Text(item.document.id or ""), Text(entity.label), Text(repr(mention)), item.reason)
    if len(lost) > SHOWN:
        table.caption = f"and {len(lost) - SHOWN} more"
    return table


def start_line(started: Started) -> str:
    """What a run took along from where it starts, and what not."""
    parts = {"taken along": ("encoder", *started.kept), "anew": started.anew, "left behind": started.left}
    listed = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)
    return f"Starts from {started.name}; {listed}"


def show_progress(progress: Iterable[RunProgress], num_epochs: int, console: Console) -> Iterator[RunProgress]:
    """Pass a run's progress on, with a bar for the run (loss, dev, tokens a second, time left) and a line an epoch.

    Where the console is no terminal there are the lines alone.
    """
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  dev {task.fields[dev]}  {task.fields[speed]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, epoch=1, loss=0.0, dev="-", speed=0.0)
        epoch, loss, num_tokens, since_s = -1, 0.0, 0, time.monotonic()
        for report in progress:
            if report.epoch != epoch:
                epoch, loss = report.epoch, report.loss
            if report.finished is None:
                loss = 0.98 * loss + 0.02 * report.loss
                num_tokens += report.num_tokens
                speed = num_tokens / max(time.monotonic() - since_s, 1e-9)
                total, done = num_epochs * report.num_steps, epoch * report.num_steps + report.step
                bar.update(task, total=total, completed=done, epoch=epoch + 1, loss=loss, speed=speed)
            else:
                record = report.finished
                bar.update(task, dev=_listed(record.dev))
                losses = f" ({_listed(record.losses)})" if len(record.losses) > 1 else ""
                dev = f", dev {_listed(record.dev)}" if record.dev else ""
                line = f"epoch {record.epoch + 1}: loss {record.loss:.4f}{losses}{dev}"
                console.print(line, highlight=False)
                num_tokens, since_s = 0, time.monotonic()
            yield report


@contextmanager
def reading_bar(total: int, console: Console) -> Iterator[Told]:
    """A bar of documents being read, on a terminal; what is yielded is told how many more have been."""
    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda num_documents: bar.advance(task, num_documents)


def _listed(values: Mapping[str, float]) -> str:
    named = {"F1" if name == "f1" else name.replace("_", " "): value for name, value in values.items()}
    return ", ".join(f"{name} {value:.4f}" for name, value in named.items())


def _cells(score: Score) -> tuple[str, str, str, str]:
    return (f"{score.precision:.4f}", f"{score.recall:.4f}", f"{score.f1:.4f}", str(score.num_gold))


def _compared(figures: Comparison) -> tuple[str, ...]:
    pairs = ((getattr(figures.before, name), getattr(figures.after, name)) for name in ("ece", "ece_found", "f1"))
    return (str(figures.gold), *("" if None in pair else "{:.3f}\u2192{:.3f}".format(*pair) for pair in pairs))


def _errors(error: Reliability | None) -> tuple[str, ...]:
    return () if error is None else (_figure(error.ece), _figure(error.ece_found))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
