"""A model on disk: one folder with manifest, weights, tokenizer and a model card. JSON and safetensors, never pickle.

    manifest.json        what the model is, and the SHA-256 of every other file
    model.safetensors    weights
    tokenizer.json       Hugging Face tokenizers' format
    README.md            the model card, generated from the manifest

Saving is atomic: the folder is written beside its place and put there in one step, so a kill at any moment leaves the
old bundle or the new one. Loading verifies every file before it believes any, and needs no network. Knows no text to
recognise and no training.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ner_service.bundle.card import model_card
from ner_service.bundle.folder import put_in_place
from ner_service.bundle.manifest import MANIFEST, FileRecord, Manifest, dump_manifest, read_manifest
from ner_service.errors import BundleError, ConfigError, writing
from ner_service.text.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Bundle", "FileRecord", "Manifest", "free_place", "read_manifest"]

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
CARD = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A model as it is saved and loaded: `weights` by name, in the precision they are stored in."""

    manifest: Manifest
    tokenizer: TextTokenizer
    weights: dict[str, Tensor]

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Read a bundle after verifying all of it.

        Raises:
            BundleError: names the file that is missing, altered or not understood.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        manifest = read_manifest(folder)
        if set(manifest.files) != {WEIGHTS, TOKENIZER, CARD}:
            expected = ", ".join((WEIGHTS, TOKENIZER, CARD))
            raise BundleError(f"{folder / MANIFEST}: files: found {sorted(manifest.files)}, expected {expected}")
        contents = {name: _verified(folder / name, record) for name, record in manifest.files.items()}
        try:
            tokenizer = TextTokenizer.from_json(contents[TOKENIZER].decode("utf-8"))
        except (ConfigError, UnicodeDecodeError) as error:
            raise BundleError(f"{folder / TOKENIZER}: {error}") from error
        try:
            weights = load(contents[WEIGHTS])
        except SafetensorError as error:
            raise BundleError(f"{folder / WEIGHTS}: {error}") from error
        return cls(manifest=manifest, tokenizer=tokenizer, weights=weights)

    def save(self, folder: Path) -> Manifest:
        """Write the bundle, replacing an older bundle of that path; the manifest with the files' digests.

        A link is followed. A killed save may leave its hidden folder beside the path: nothing reads it, and as another
        save may be at work in it, it is not swept away.

        Raises:
            BundleError: the path is taken by something that is not a bundle, or not a bundle alone.
        """
        from safetensors.torch import save

        folder = free_place(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        contents = {
            WEIGHTS: save({name: tensor.contiguous() for name, tensor in self.weights.items()}),
            TOKENIZER: self.tokenizer.to_json().encode("utf-8"),
            CARD: model_card(self.manifest).encode("utf-8"),
        }
        manifest = replace(self.manifest, files={name: _record(content) for name, content in contents.items()})
        contents[MANIFEST] = dump_manifest(manifest).encode("utf-8")
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            scratch.chmod(0o755)
            for name, content in contents.items():
                with writing(folder / name):
                    (scratch / name).write_bytes(content)
            put_in_place(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return manifest


def free_place(folder: Path) -> Path:
    """The path, links followed, where a bundle may be saved: to be asked for before long work as well.

    Raises:
        BundleError: it is taken by something that is not a bundle, or by one with other files beside its own.
    """
    folder = folder.resolve()
    if not folder.exists():
        return folder
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder}: exists and is not a bundle; expected a new path or an older bundle")
    others = sorted({path.name for path in folder.iterdir()} - {MANIFEST, WEIGHTS, TOKENIZER, CARD})
    if others:
        raise BundleError(f"{folder}: found {', '.join(others)} in it, expected a new path or an older bundle alone")
    return folder


def _record(content: bytes) -> FileRecord:
    return FileRecord(sha256=hashlib.sha256(content).hexdigest(), num_bytes=len(content))


def _verified(path: Path, record: FileRecord) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    found = _record(content)
    if found.num_bytes != record.num_bytes:
        raise BundleError(f"{path}: found {found.num_bytes} bytes, expected {record.num_bytes}")
    if found.sha256 != record.sha256:
        raise BundleError(f"{path}: altered: found SHA-256 {found.sha256}, expected {record.sha256}")
    return content
