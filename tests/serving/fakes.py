"""A recogniser that is quick, exact and obedient: it finds what a regular expression finds, and does mischief on order.

Capitalised words in a row are a NAME, each of several a WORD within it, and a book title in 《》 is a WORK. A token is
a character, its id the code point, so that `forward` can read what it was given.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence

import numpy as np

from ner_service.bundle import FileRecord, Manifest
from ner_service.decoding import Calibration, Candidates, apply_overlap, decode
from ner_service.errors import InvalidTextError, TooManyCandidatesError
from ner_service.model.config import HeadConfig, Heads, ModelConfig, RoFormerConfig
from ner_service.text.windows import merge, split
from ner_service.types import Encoding, Entity, LabelSet, RecognizeOptions, Window, WindowLimits

LABELS = ("NAME", "WORD", "WORK")
POISON, DEADLY, ENDLESS = "☠", "☢", "∞"

_NAME = re.compile(r"[A-Z][a-z]+(?: [A-Z][a-z]+)*")
_WORD = re.compile(r"[A-Z][a-z]+")
_WORK = re.compile(r"《[^》]+》")


def manifest() -> Manifest:
    encoder = RoFormerConfig(vocab_size=8, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8)
    return Manifest(
        name="tiny",
        version="7",
        description="Finds capitals.",
        licence="Apache-2.0",
        labels=LABELS,
        model=ModelConfig(encoder=encoder, heads=Heads(spans=HeadConfig())),
        window=WindowLimits(max_tokens=64, overlap_tokens=16),
        max_candidates=9,
        thresholds={"NAME": 0.5, "WORD": 0.5, "WORK": 0.6},
        calibration=Calibration(slopes=(2.0, 2.0, 2.0), intercepts=(0.0, 0.0, 0.0)),
        metrics={"f1": 0.75},
        data_sha256="ab" * 32,
        files={"model.safetensors": FileRecord(sha256="cd" * 32, num_bytes=1)},
    )


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

    def __init__(self) -> None:
        self.manifest = manifest()
        self.labels = LabelSet(LABELS)
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

    def encode(self, text: str) -> list[Window]:
        return split(text, CharacterTokenizer(), self.manifest.window)  # type: ignore[arg-type]

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
        self.entered.set()
        self._open.wait()
        self.batches.append(len(encodings))
        return [self._candidates(*pair) for pair in zip(encodings, cutoffs, strict=True)]

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

    def _candidates(self, encoding: Encoding, cutoffs: tuple[float, ...]) -> Candidates:
        text = "".join(map(chr, encoding.token_ids[1:-1]))
        if POISON in text:
            raise RuntimeError(f"cannot read {text}")
        if DEADLY in text:
            raise SystemExit(f"died of {text}")
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
