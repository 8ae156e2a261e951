"""The documents that `evaluate` and `calibrate` are given: files, and TOML files that name some in `data.dev`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
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


def sources_of(paths: Sequence[Path], format: str, folder: Path | None) -> list[tuple[SourceConfig, Path]]:
    """Each file as a source, with the folder that its path counts from; of a TOML file those that it names.

    Raises:
        ConfigError: a TOML file does not name documents, or a file is named twice.
    """
    found: list[tuple[SourceConfig, Path]] = []
    for path in paths:
        if path.suffix == ".toml":
            found += [(source, folder or path.parent) for source in dev_sources(path)]
        else:
            found.append((SourceConfig(path=str(path), format=format), Path()))
    for number, (source, root) in enumerate(found):
        if any(_share_documents(source, root, *other) for other in found[:number]):
            raise ConfigError(f"{source.path}: found twice, expected once: its documents would count twice")
    return found


def read_all(sources: Sequence[tuple[SourceConfig, Path]]) -> list[Document]:
    """The documents of all sources, labels renamed and documents chosen as they say.

    Raises:
        DataError: a file has a fault.
    """
    return [document for source, root in sources for document in read_source(source, root)]


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


def named_in_run(sources: Iterable[SourceConfig], run: Mapping[str, object]) -> list[str]:
    """Files of sources that a bundle's run names too, in `data.train` or `data.dev`, from whatever folder.

    Two paths are taken for one file where the shorter is the end of the longer. Parts that have no text in common are
    none of the same file.
    """
    data = run.get("data")
    tables = [*data.get("train", ()), *data.get("dev", ())] if isinstance(data, Mapping) else []
    known = [(Path(table["path"]), table.get("part", (0.0, 1.0))) for table in tables]
    return sorted(
        source.path
        for source in sources
        if any(_may_be_one(Path(source.path), path) and _overlap(source.part, part) for path, part in known)
    )


def _share_documents(one: SourceConfig, one_folder: Path, other: SourceConfig, other_folder: Path) -> bool:
    same = (one_folder / one.path).resolve() == (other_folder / other.path).resolve()
    return same and one.where == other.where and _overlap(one.part, other.part)


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])


def _may_be_one(one: Path, other: Path) -> bool:
    num_parts = min(len(one.parts), len(other.parts))
    return one.parts[-num_parts:] == other.parts[-num_parts:]
