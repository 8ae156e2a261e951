"""ner-train latent: what the codes of a model with a `latent` head hold. One function a verb."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ner_service.errors import ConfigError
from ner_service.formats.lines import read_lines
from ner_service.recognizer import Recognizer
from ner_service.terminal import refusals
from training.cli.options import Device, Json, Seed
from training.latent import Autoencoder, Written

app = typer.Typer(
    help="Write texts from latent codes: those of other texts, drawn ones, ones between two texts.",
    no_args_is_help=True,
)

Bundle = Annotated[Path, typer.Argument(help="A bundle with the heads `latent` and `language_model`.")]
Layers = Annotated[list[int] | None, typer.Option("--layer", help="A latent layer, counted from 1; may be repeated.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most tokens of a text; … marks a cut.")]
TopP = Annotated[
    float, typer.Option(min=0, max=1, help="Share of probability that tokens are drawn from; 0: the likeliest.")
]


@app.command()
def reconstruct(
    bundle: Bundle,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; else those of --file.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with a text a line.")] = None,
    max_tokens: MaxTokens = 64,
    top_p: TopP = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write texts again from their codes."""
    with refusals():
        if bool(texts) == (file is not None):
            raise ConfigError(f"found {len(texts or ())} texts and --file {file}, expected either texts or --file")
        given = [line.text for line in read_lines(file) if line.text.strip()] if file else texts or []
        written = _load(bundle, device, max_tokens, top_p, seed).reconstruct(given)
        if as_json:
            rows = [
                {"text": text, "reconstruction": again.text, "finished": again.finished}
                for text, again in zip(given, written, strict=True)
            ]
            print(json.dumps(rows, ensure_ascii=False))
            return
        table = Table("text", "written again")
        for text, again in zip(given, written, strict=True):
            table.add_row(Text(text), Text(_marked(again)))
        Console().print(table)


@app.command()
def sample(
    bundle: Bundle,
    num: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
    like: Annotated[str | None, typer.Option(help="A text whose codes are kept but for those of --layer.")] = None,
    layer: Layers = None,
    max_tokens: MaxTokens = 64,
    top_p: TopP = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write texts from codes drawn from the prior, or some of them from it and the others from a text."""
    with refusals():
        if (like is None) != (not layer):
            raise ConfigError(f"found --like {like!r} and --layer {layer}, expected both or neither")
        model = _load(bundle, device, max_tokens, top_p, seed)
        _print(model.sample(num) if like is None else model.resample(like, layer or (), num), as_json)


@app.command()
def interpolate(
    bundle: Bundle,
    first: Annotated[str, typer.Argument(help="The text to begin with.")],
    second: Annotated[str, typer.Argument(help="The text to end with.")],
    num: Annotated[int, typer.Option(min=2, help="How many, both ends among them.")] = 5,
    layer: Layers = None,
    max_tokens: MaxTokens = 64,
    top_p: TopP = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write texts from codes between those of two texts; with --layer, that layer's code alone moves."""
    with refusals():
        model = _load(bundle, device, max_tokens, top_p, seed)
        _print(model.interpolate(first, second, num, layer or None), as_json)


def _load(bundle: Path, device: str, max_tokens: int, top_p: float, seed: int) -> Autoencoder:
    return Autoencoder(Recognizer.load(bundle, device), max_tokens=max_tokens, top_p=top_p, seed=seed)


def _print(texts: Sequence[Written], as_json: bool) -> None:
    """A text a line, or one list."""
    if as_json:
        print(json.dumps([asdict(written) for written in texts], ensure_ascii=False))
    else:
        print("\n".join(map(_marked, texts)))


def _marked(written: Written) -> str:
    """The text, with a mark where it is cut."""
    return written.text if written.finished else f"{written.text} …"
