"""The documents that `evaluate` and `calibrate` are given: files, and TOML files that name some in `data.dev`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ner_service.errors import ConfigError
from ner_service.formats import FORMATS
from ner_service.records import structure
from ner_service.types import Document
from training.config import SourceConfig
from training.data.sources import read_source

Data = Annotated[
    list[Path],
    typer.Argument(help="Files of annotated documents; of a .toml file the documents that its `data.dev` names."),
]
Format = Annotated[str, typer.Option(help=f"Format of the files: auto, {', '.join(FORMATS)}.")]
Folder = Annotated[Path | None, typer.Option("--data", help="Folder of what a .toml file names; else its own.")]


def read_data(paths: Sequence[Path], format: str, folder: Path | None) -> list[Document]:
    """The documents of all files, labels renamed and documents chosen where a TOML file says so.

    Raises:
        DataError: a file has a fault.
        ConfigError: a TOML file does not name documents.
    """
    documents: list[Document] = []
    for path in paths:
        if path.suffix == ".toml":
            sources, root = dev_sources(path), folder or path.parent
        else:
            sources, root = (SourceConfig(path=str(path), format=format),), Path()
        documents += [document for source in sources for document in read_source(source, root)]
    return documents


def dev_sources(path: Path) -> tuple[SourceConfig, ...]:
    """The `[[data.dev]]` tables of a run, or of a file that has no more than these.

    Raises:
        ConfigError: not TOML, none of these tables in it, or a fault in one; or silver entities are asked for.
    """
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    data = value.get("data")
    tables = data.get("dev") if isinstance(data, Mapping) else None
    if not isinstance(tables, list) or not tables:
        raise ConfigError(f"{path}: data.dev: found {tables!r}, expected tables [[data.dev]], each with a `path`")
    try:
        sources = tuple(structure(SourceConfig, table, f"data.dev[{number}]") for number, table in enumerate(tables))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    for number, source in enumerate(sources):
        if source.inner:
            found = f"found {dict(source.inner)}, expected none: gold alone is measured by"
            raise ConfigError(f"{path}: data.dev[{number}].inner: {found}")
    return sources


def named_in_run(documents: Sequence[Document], run: Mapping[str, object]) -> list[str]:
    """Files of the documents that a bundle's run names too, in `data.train` or `data.dev`, from whatever folder.

    Two paths are taken for one file where the shorter is the end of the longer.
    """
    data = run.get("data")
    tables = [*data.get("train", ()), *data.get("dev", ())] if isinstance(data, Mapping) else []
    known = [Path(table["path"]) for table in tables]
    names = sorted({str(document.metadata["source"]) for document in documents})
    return [name for name in names if any(_may_be_one(Path(name), path) for path in known)]


def _may_be_one(one: Path, other: Path) -> bool:
    num_parts = min(len(one.parts), len(other.parts))
    return one.parts[-num_parts:] == other.parts[-num_parts:]
