"""A recogniser that is quick, exact and obedient: it finds what a regular expression finds, and does mischief on order.

Capitalised words in a row are a NAME, each of several a WORD within it, and a book title in 《》 is a WORK. A text's
vector has a place for each of a, b, c, d, which holds how often the text has that letter: "ab" is (1, 1, 0, 0) over the
root of 2. A token is a character, its id the code point, so that `forward` and `embed` can read what they were given.
"""

from __future__ import annotations

import re
import struct
import threading
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ner_service.bundle import FileRecord, Manifest
from ner_service.decoding import Calibration, Candidates, apply_overlap, decode
from ner_service.errors import InvalidTextError, MissingHeadError, TooManyCandidatesError
from ner_service.model.config import EmbeddingConfig, HeadConfig, Heads, ModelConfig, RoFormerConfig
from ner_service.records import unstructure
from ner_service.serving.images import InvalidImageError
from ner_service.serving.registry import Vectors
from ner_service.text.layout import windows_of
from ner_service.text.windows import merge
from ner_service.types import Encoding, Entity, LabelSet, Page, RecognizeOptions, Window, WindowLimits

LABELS = ("NAME", "WORD", "WORK")
POISON, DEADLY, ENDLESS = "☠", "☢", "∞"

_NAME = re.compile(r"[A-Z][a-z]+(?: [A-Z][a-z]+)*")
_WORD = re.compile(r"[A-Z][a-z]+")
_WORK = re.compile(r"《[^》]+》")


SPANS = Heads(spans=HeadConfig())
EMBEDDING = Heads(embedding=EmbeddingConfig(size=4))
BOTH = Heads(spans=HeadConfig(), embedding=EmbeddingConfig(size=4))


def manifest(heads: Heads) -> Manifest:
    labels = LABELS if heads.spans else ()
    encoder = RoFormerConfig(vocab_size=8, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8)
    return Manifest(
        name="tiny",
        version="7",
        description="Finds capitals.",
        licence="Apache-2.0",
        labels=labels,
        model=ModelConfig(encoder=encoder, heads=heads),
        window=WindowLimits(max_tokens=64, overlap_tokens=16),
        max_candidates=9,
        thresholds={label: 0.6 if label == "WORK" else 0.5 for label in labels},
        calibration=Calibration.uncalibrated(len(labels)),
        metrics={"f1": 0.75},
        data_sha256="ab" * 32,
        files={"model.safetensors": FileRecord(sha256="cd" * 32, num_bytes=1)},
    )


def png(width: int, height: int, *, head_only: bool = False) -> bytes:
    """A white PNG; `head_only` leaves out what its head promises."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return len(content).to_bytes(4, "big") + kind + content + checksum.to_bytes(4, "big")

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    if head_only:
        return head
    rows = zlib.compress((b"\0" + b"\xff" * width) * height)
    return head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class FakeOcr:
    """Sees the same page in every image that is not damaged. `hold` makes it wait; `entered` tells that it does."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.num_read = 0
        self.entered = threading.Event()
        self._open = threading.Event()
        self._open.set()

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def read(self, image: bytes) -> Page:
        self.entered.set()
        self._open.wait()
        self.num_read += 1
        if b"IDAT" not in image:
            raise InvalidImageError("found a damaged file")
        if image.endswith(b"crash"):
            raise RuntimeError("cannot read a secret")
        return self._page


class CharacterTokenizer:
    """A token a character, between two special ones."""

    num_specials = 2

    def encode(self, text: str) -> Encoding:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InvalidTextError("a lone surrogate")
        offsets = ((0, 0), *((index, index + 1) for index in range(len(text))), (0, 0))
        return Encoding((0, *map(ord, text), 0), offsets)


class FakeRecognizer:
    """The walk without a model. `hold` makes the next batches wait in `forward`; `entered` tells that one is there."""

    def __init__(self, heads: Heads = SPANS) -> None:
        self.manifest = manifest(heads)
        self.labels = LabelSet(self.manifest.labels)
        self.pads = True
        self.batches: list[int] = []
        self.entered = threading.Event()
        self._open = threading.Event()
        self._open.set()

    def hold(self) -> None:
        self.entered.clear()
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def require_head(self, head: str) -> None:
        heads = tuple(unstructure(self.manifest.model.heads))
        if head not in heads:
            raise MissingHeadError(head, heads)

    def encode(self, content: str | Page) -> list[Window]:
        return windows_of(content, CharacterTokenizer(), self.manifest.window)  # type: ignore[arg-type]

    def cutoffs(self, options: RecognizeOptions) -> tuple[float, ...]:
        default = self.manifest.thresholds if options.threshold is None else dict.fromkeys(LABELS, options.threshold)
        thresholds = {**default, **options.label_thresholds}
        wanted = LABELS if options.labels is None else options.labels
        calibration = Calibration.uncalibrated(len(LABELS))
        return tuple(
            calibration.cutoff(index, thresholds[label]) if label in wanted else float("inf")
            for index, label in enumerate(LABELS)
        )

    def forward(self, encodings: Sequence[Encoding], cutoffs: Sequence[tuple[float, ...]]) -> list[Candidates]:
        self._enter(len(encodings))
        return [self._candidates(*pair) for pair in zip(encodings, cutoffs, strict=True)]

    def embed(self, encodings: Sequence[Encoding]) -> Vectors:
        self._enter(len(encodings))
        return np.stack(
            [_direction(np.array([_read(encoding).count(letter) for letter in "abcd"])) for encoding in encodings]
        )

    def pool(self, vectors_WE: Sequence[Vectors]) -> Vectors:
        return _direction(np.mean(vectors_WE, axis=0))

    def decode(
        self, windows: Sequence[Window], candidates: Sequence[Candidates], options: RecognizeOptions
    ) -> tuple[Entity, ...]:
        if any(found.overflow for found in candidates):
            raise TooManyCandidatesError("more than 9 spans of 'NAME' in one window")
        answers = [
            (window, decode(found, window.encoding, self.labels, self.manifest.calibration))  # type: ignore[arg-type]
            for window, found in zip(windows, candidates, strict=True)
        ]
        return tuple(apply_overlap(merge(answers), options.overlap))

    def _enter(self, num_encodings: int) -> None:
        self.entered.set()
        self._open.wait()
        self.batches.append(num_encodings)

    def _candidates(self, encoding: Encoding, cutoffs: tuple[float, ...]) -> Candidates:
        text = _read(encoding)
        if ENDLESS in text:
            return Candidates.none(overflow="NAME")
        found = [(0, match.span(), 2.0) for match in _NAME.finditer(text)]
        for _, (start, end), _ in list(found):
            words = [match.span() for match in _WORD.finditer(text, start, end)]
            found += [(1, span, 1.0) for span in words if len(words) > 1]
        found += [(2, match.span(), 0.5) for match in _WORK.finditer(text)]
        kept = [(label, start + 1, end, score) for label, (start, end), score in found if score > cutoffs[label]]
        columns = [list(column) for column in zip(*kept, strict=True)] if kept else [[], [], [], []]
        label_N, start_N, end_N = (np.array(column, dtype=np.int64) for column in columns[:3])
        return Candidates(label_N, start_N, end_N, np.array(columns[3], dtype=np.float64))


def _read(encoding: Encoding) -> str:
    text = "".join(map(chr, encoding.token_ids[1:-1]))
    if POISON in text:
        raise RuntimeError(f"cannot read {text}")
    if DEADLY in text:
        raise SystemExit(f"died of {text}")
    return text


def _direction(vector_E: npt.NDArray[Any]) -> Vectors:
    length = float(np.linalg.norm(vector_E))
    return (vector_E / (length or 1.0)).astype(np.float32)
