"""`ner-train similar`: sentences that a model writes for those given, the most similar first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ner_service.recognizer import Recognizer
from ner_service.terminal import refusals
from training.cli.options import Device, Json
from training.generation import TOP_P, Similar, similar_sentences


def similar(
    bundle: Annotated[Path, typer.Argument(help="A bundle that writes similar sentences: objective `similarity`.")],
    texts: Annotated[list[str], typer.Argument(help="Sentences, of one window each.")],
    num: Annotated[int, typer.Option(min=1, help="Similar sentences of one, at most.")] = 20,
    samples: Annotated[int, typer.Option(min=1, help="Candidates drawn for a sentence.")] = 100,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="Share of probability that tokens are drawn from.")
    ] = TOP_P,
    seed: Annotated[int, typer.Option(help="Another seed draws others.")] = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write sentences similar to those given, with their cosines."""
    with refusals():
        recognizer = Recognizer.load(bundle, device)
        found = [
            similar_sentences(
                recognizer,
                text,
                num_samples=samples,
                keep=num,
                top_p=top_p,
                generator=torch.Generator().manual_seed(seed),
            )
            for text in texts
        ]
        if as_json:
            rows = [
                {"text": text, "similar": [asdict(each) for each in written]}
                for text, written in zip(texts, found, strict=True)
            ]
            print(json.dumps(rows, ensure_ascii=False))
        else:
            Console().print(_table(texts, found))


def _table(texts: Sequence[str], found: Sequence[Sequence[Similar]]) -> Table:
    table = Table("cosine", "text")
    for text, written in zip(texts, found, strict=True):
        table.add_row("", Text(text), style="bold")
        for each in written:
            table.add_row(f"{each.cosine:.3f}", Text(each.text))
        table.add_section()
    return table
