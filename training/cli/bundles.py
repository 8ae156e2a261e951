"""ner-train evaluate, calibrate, export: what is done with a finished bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console

from ner_service.bundle import Bundle, free_place
from ner_service.recognizer import Recognizer, pick_device
from ner_service.terminal import console, refusals, say
from training import calibration, evaluation
from training.cli.documents import Data, Folder, Format, named_in_run, read_all, sources_of
from training.cli.options import Device, Json
from training.data.sources import digest
from training.data.targets import encode_documents
from training.evaluation import REPORTED
from training.reports import calibration_table, lost_table, reading_bar, score_table


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    data: Data,
    format: Format = "auto",
    folder: Folder = None,
    device: Device = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the bundle goes with these figures in its card.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a bundle on annotated documents: strict precision, recall and F1, and the error of its probabilities."""
    with refusals():
        if output:
            free_place(output)
        source = Bundle.load(bundle)
        documents = read_all(sources_of(data, format, folder))
        recognizer = Recognizer(source, pick_device(device))
        with reading_bar(evaluation.NUM_READINGS * len(documents), console) as told:
            report = evaluation.evaluate(recognizer, documents, told)
        if unknown := sorted(report.labels.keys() - set(recognizer.labels)):
            strange, known = (", ".join(map(repr, names)) for names in (unknown, recognizer.labels))
            missed = "the bundle has not: each of their mentions counts as missed"
            say(f"warning: found the labels {strange}, which {missed}. It has {known}")
        _, lost = encode_documents(documents, recognizer.tokenizer, recognizer.limits, recognizer.labels)
        figures = {"unrepresentable_entities": len(lost), **report.as_dict()}
        if output:
            metrics = {**without_report(source.manifest.metrics), **figures}
            replace(source, manifest=replace(source.manifest, metrics=metrics)).save(output)
        if lost:
            console.print(lost_table(lost))
        if as_json:
            print(json.dumps(figures, ensure_ascii=False))
        else:
            Console().print(score_table(report))
        if output:
            say(f"Wrote {output}")


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the calibrated bundle goes.")],
    format: Format = "auto",
    folder: Folder = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Fit a bundle's probabilities and thresholds to documents that it was neither trained nor chosen on."""
    with refusals():
        free_place(output)
        source = Bundle.load(bundle)
        sources = sources_of(data, format, folder)
        documents = read_all(sources)
        for name in named_in_run((each for each, _ in sources), source.manifest.run):
            say(f"warning: {name} is named in the bundle's own run: what was learnt or chosen on it looks too good")
        with reading_bar(len(documents), console) as told:
            found = calibration.calibrate(source, documents, pick_device(device), told)
        figures = {
            "calibration": {
                "documents": len(documents),
                "sha256": digest((), documents),
                **found.figures.as_dict(),
            },
            "label_calibration": {label: fit.as_dict() for label, fit in found.labels.items()},
        }
        manifest = replace(
            source.manifest,
            calibration=found.calibration,
            thresholds=found.thresholds,
            metrics={**without_report(source.manifest.metrics), **figures},
        )
        replace(source, manifest=manifest).save(output)
        if as_json:
            print(json.dumps(figures, ensure_ascii=False))
        else:
            Console().print(calibration_table(found))
        say(f"Wrote {output}")


def without_report(metrics: Mapping[str, object]) -> dict[str, object]:
    """What was measured of a bundle, but for what its thresholds and probabilities decide."""
    return {name: value for name, value in metrics.items() if name not in REPORTED}


def export(
    bundle: Annotated[Path, typer.Argument(help="A bundle, as `train` writes it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the exported bundle goes.")],
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    version: Annotated[str | None, typer.Option(help="Another version.")] = None,
    precision: Annotated[Literal["fp32", "fp16"], typer.Option(help="Precision of the stored weights.")] = "fp32",
) -> None:
    """Write a bundle under another name, version or precision of its weights."""
    with refusals():
        source = Bundle.load(bundle)
        manifest = source.manifest
        manifest = replace(manifest, name=name or manifest.name, version=version or manifest.version)
        dtype = torch.float16 if precision == "fp16" else torch.float32
        weights = {
            key: value.to(dtype) if value.is_floating_point() else value for key, value in source.weights.items()
        }
        written = replace(source, manifest=manifest, weights=weights).save(output)
        num_bytes = sum(record.num_bytes for record in written.files.values())
        say(f"Wrote {output}: {num_bytes / 2**20:.1f} MiB")
