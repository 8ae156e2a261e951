"""What `manifest.json` says. Plain records: knows no tensor and reads no file but the manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ner_service.decoding import Calibration
from ner_service.errors import BundleError, ConfigError
from ner_service.model.config import ModelConfig
from ner_service.records import structure, unstructure
from ner_service.types import WindowLimits

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
_DIGEST = "sha256"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """What a file of the bundle must be."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything a bundle says of itself.

    `thresholds` are probabilities, one a label. `max_candidates` bounds the spans a window may emit for one label.
    `window.overlap_tokens` is also the longest entity, in tokens, that is found wherever a long text is cut.
    `run` is the resolved configuration of the training run, `metrics` what was measured on its dev documents.
    """

    format_version: int = FORMAT_VERSION
    name: str
    version: str = "1"
    description: str = ""
    licence: str | None = None
    labels: tuple[str, ...]
    model: ModelConfig
    window: WindowLimits = field(default_factory=WindowLimits)
    max_candidates: int = 1000
    thresholds: Mapping[str, float]
    calibration: Calibration | None = None
    metrics: Mapping[str, object] = field(default_factory=dict)
    data_sha256: str | None = None
    run: Mapping[str, object] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels are {list(self.labels)}, expected each once")
        if bool(self.labels) != (self.model.heads.spans is not None):
            raise ValueError(f"labels are {list(self.labels)}, expected some where there is a `spans` head, else none")
        if set(self.thresholds) != set(self.labels):
            raise ValueError(
                f"thresholds for {sorted(self.thresholds)}, expected one for each of {sorted(self.labels)}"
            )
        if not all(0 <= threshold <= 1 for threshold in self.thresholds.values()):
            raise ValueError(f"thresholds are {dict(self.thresholds)}, expected probabilities")
        if self.calibration is not None and len(self.calibration.slopes) != len(self.labels):
            raise ValueError(f"calibration of {len(self.calibration.slopes)} labels, expected {len(self.labels)}")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, without its weights.

    Raises:
        BundleError: missing, not JSON, of another format version, altered, or with a value of the wrong kind.
    """
    path = folder / MANIFEST
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: not found; expected a bundle folder with a manifest") from None
    except (ValueError, OSError) as error:
        raise BundleError(f"{path}: cannot be read as JSON: {error}") from error
    found = value.get("format_version") if isinstance(value, dict) else None
    if found != FORMAT_VERSION:
        raise BundleError(f"{path}: found format_version {found!r}, expected {FORMAT_VERSION}")
    told, expected = value.pop(_DIGEST, None), manifest_digest(value)
    if told != expected:
        raise BundleError(f"{path}: altered: found {_DIGEST} {told!r}, expected {expected!r} for what it says")
    try:
        return structure(Manifest, value)
    except ConfigError as error:
        raise BundleError(f"{path}: {error}") from error


def dump_manifest(manifest: Manifest) -> str:
    """The manifest as JSON text, its own digest last; `read_manifest` gives it back.

    Raises:
        BundleError: a number in it is not finite, which JSON has no word for.
    """
    value = unstructure(manifest)
    try:
        signed = {**value, _DIGEST: manifest_digest(value)}
        return json.dumps(signed, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise BundleError(f"{MANIFEST}: found a number that is not finite, expected finite ones: {error}") from error


def manifest_digest(value: Mapping[str, object]) -> str:
    """SHA-256 over what a manifest says, whatever the order of its keys and the white space between them."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()
