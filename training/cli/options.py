"""Options that several verbs of ner-train have."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the model runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="What is drawn depends on it alone.")]
