"""Tables and the progress of a run as people see them."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from ner_service.types import Document, Entity, LabelSet
from training.calibration import Calibrated, Comparison, Figures, LabelFit
from training.cells import Reliability
from training.data.sources import Corpus
from training.data.targets import Unrepresentable
from training.evaluation import compare
from training.loop import Progress
from training.preparation import Started
from training.reports import (
    calibration_table,
    data_table,
    lost_table,
    reading_bar,
    score_table,
    show_progress,
    start_line,
)
from training.state import EpochRecord

DOCUMENT = Document("Bo [bold]sat[/x]", (Entity(0, 2, "[PER]"), Entity(3, 16, "LOC")), id="[id]")


def printed(renderable: object) -> str:
    file = io.StringIO()
    Console(file=file, width=100).print(renderable)
    return file.getvalue()


def test_figures_of_a_report() -> None:
    text = printed(score_table(compare([DOCUMENT], [[Entity(0, 2, "[PER]"), Entity(0, 1, "LOC")]])))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert ["micro", "0.5000", "0.5000", "0.5000", "2"] in rows
    assert ["macro", "", "", "0.5000", ""] in rows
    assert ["[PER]", "1.0000", "1.0000", "1.0000", "1"] in rows
    assert ["LOC", "0.0000", "0.0000", "0.0000", "1"] in rows
    assert "no answer" not in text


def test_the_error_of_probabilities_is_in_the_table() -> None:
    report = compare([DOCUMENT], [[Entity(0, 2, "[PER]")]])
    measured = replace(
        report,
        calibration=Reliability(ece=0.125, ece_found=0.0625),
        label_calibration={"[PER]": Reliability(ece=0.25, ece_found=None)},
    )
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed(score_table(measured)).splitlines()]
    assert ["micro", "1.0000", "0.5000", "0.6667", "2", "0.1250", "0.0625"] in rows
    assert ["[PER]", "1.0000", "1.0000", "1.0000", "1", "0.2500", ""] in rows
    assert "ECE" not in printed(score_table(report))


def test_what_a_run_reads_is_counted_label_by_label() -> None:
    torn = replace(DOCUMENT, entities=(), scattered=(Entity(0, 2, "LOC"),))
    corpus = Corpus(
        labels=LabelSet(("LOC", "RARE", "[PER]")), train=(DOCUMENT, DOCUMENT, torn), dev=(DOCUMENT,), sha256=""
    )
    lines = printed(data_table(corpus)).splitlines()
    rows = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in lines if "\u2502" in line]
    assert rows == [["documents", "3", "1"], ["LOC", "3", "1"], ["RARE", "0", "0"], ["[PER]", "2", "1"]]


def test_fits_before_and_after() -> None:
    comparison = Comparison(
        gold=7, before=Figures(ece=0.4, ece_found=0.3, f1=0.5), after=Figures(ece=0.1, ece_found=None, f1=0.75)
    )
    fits = {
        "[PER]": LabelFit(slope=0.5, intercept=-1.0, threshold=0.25, pooled=True, figures=comparison),
        "LOC": LabelFit(slope=2.0, intercept=0.0, threshold=0.5, pooled=False, figures=comparison),
    }
    lines = printed(calibration_table(Calibrated(labels=fits, figures=comparison))).splitlines()
    assert ["[PER]", "σ(0.50s", "-1.00)*", "0.25", "7", "0.400→0.100", "0.500→0.750"] in [
        line.split() for line in lines
    ]
    assert "* fewer than 20 gold entities" in " ".join(lines)
    own = printed(calibration_table(Calibrated(labels={"LOC": fits["LOC"]}, figures=comparison)))
    assert "fewer than" not in own


def test_refused_documents_are_told() -> None:
    text = printed(score_table(compare([DOCUMENT, DOCUMENT], [None, ()])))
    assert "1 of 2 documents have too many candidates" in " ".join(text.split())


def test_lost_entities_are_listed() -> None:
    document = replace(DOCUMENT, metadata={"source": "part.jsonl"})
    lost = [Unrepresentable(document, Entity(3, 16, "LOC"), "no window holds it whole")] * 12
    text = printed(lost_table(lost))
    assert text.count("part.jsonl") == 10
    assert "12 entities cannot be predicted" in text
    assert text.count("no window holds it whole") == 10
    assert "'[bold]sat[/x]'" in text
    assert "[id]" in text
    assert "and 2 more" in text


def reports() -> list[Progress]:
    record = EpochRecord(epoch=0, loss=1.25, losses={"spans": 1.25}, dev={"f1": 0.5}, score=0.5)
    return [
        Progress(epoch=0, step=1, num_steps=2, loss=1.5, num_tokens=10),
        Progress(epoch=0, step=2, num_steps=2, loss=1.0, num_tokens=10),
        Progress(epoch=0, step=2, num_steps=2, loss=1.25, num_tokens=0, finished=record),
    ]


def test_a_line_an_epoch_where_there_is_no_terminal() -> None:
    file = io.StringIO()
    assert list(show_progress(reports(), 1, Console(file=file))) == reports()
    assert file.getvalue() == "epoch 1: loss 1.2500, dev F1 0.5000\n"


def test_an_epoch_that_was_not_measured_has_no_dev() -> None:
    record = EpochRecord(epoch=0, loss=1.25, losses={"spans": 1.25}, dev={}, score=None)
    file = io.StringIO()
    list(show_progress([replace(reports()[-1], finished=record)], 1, Console(file=file)))
    assert file.getvalue() == "epoch 1: loss 1.2500\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_of_documents_stands_on_a_terminal_alone(terminal: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80, color_system=None)
    with reading_bar(8, console) as told:
        told(2)
        if terminal:
            console.print("so far")  # makes the bar be drawn again
    assert (" 25%" in file.getvalue()) == terminal
    assert bool(file.getvalue()) == terminal


def test_where_a_run_starts() -> None:
    started = Started(name="runs/[a]", kept=("spans",), anew=("embedding", "latent"), left=("language_model",))
    assert start_line(started) == (
        "Starts from runs/[a]; taken along: encoder, spans; anew: embedding, latent; left behind: language_model"
    )
    assert start_line(Started(name="b", kept=(), anew=(), left=())) == "Starts from b; taken along: encoder"


def test_a_bar_on_a_terminal() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=110, color_system=None)
    for number, _ in enumerate(show_progress(reports(), 4, console)):
        if number == 1:
            console.print("half")  # makes the bar be drawn again
    text = file.getvalue()
    assert "epoch 1: loss 1.2500, dev F1 0.5000" in text
    assert " 25%" in text
    assert "tokens/s" in text
