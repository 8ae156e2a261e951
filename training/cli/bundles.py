"""ner-train evaluate, export: what is done with a finished bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console

from ner_service.bundle import Bundle
from ner_service.formats import FORMATS, read_documents
from ner_service.recognizer import Recognizer
from ner_service.terminal import refusals, say
from training import evaluation
from training.cli.options import Device, Json
from training.reports import score_table


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    data: Annotated[Path, typer.Argument(help="Annotated documents.")],
    format: Annotated[str, typer.Option(help=f"Format of the documents: auto, {', '.join(FORMATS)}.")] = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a bundle on annotated documents: strict precision, recall and F1."""
    with refusals():
        report = evaluation.evaluate(Recognizer.load(bundle, device), list(read_documents(data, format)))
        if as_json:
            print(json.dumps(report.as_dict(), ensure_ascii=False))
        else:
            Console().print(score_table(report))


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
