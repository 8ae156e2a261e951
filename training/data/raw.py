"""Texts and pairs without labels, epoch by epoch, and those held out to measure by. Knows no tokenizer.

A text is held out by its hash, wherever it occurs, so what is measured on was never learnt from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.data.pairs import Pair
from training.data.texts import TextStream


@dataclass(frozen=True, slots=True, kw_only=True)
class RawCorpus:
    """What a run reads besides documents: a stream of texts, or else fixed texts; and pairs.

    `dev_fraction` of the texts is held out; a pair is held out if either of its sentences is.
    """

    stream: TextStream | None = None
    fixed: tuple[str, ...] = ()
    all_pairs: tuple[Pair, ...] = ()
    dev_fraction: float = 0.0
    files: tuple[Path, ...] = field(default=(), repr=False)

    def texts(self, epoch: int) -> list[str]:
        """The texts of an epoch: the stream's next round, or all there are."""
        return [text for text in self._texts(epoch) if not self._held_out(text)]

    def dev_texts(self) -> list[str]:
        """Texts held out, of the first round if they are streamed."""
        return [text for text in self._texts(0) if self._held_out(text)]

    def tokenizer_texts(self) -> list[str]:
        """Texts that a tokenizer may learn from, besides those of documents: the first round, and the pairs'."""
        streamed = [] if self.stream is None else self.texts(0)
        return [*streamed, *_sentences(self.pairs())]

    def pairs(self) -> list[Pair]:
        """Pairs to learn from."""
        return [pair for pair in self.all_pairs if not self._holds_out(pair)]

    def dev_pairs(self) -> list[Pair]:
        """Pairs held out."""
        return [pair for pair in self.all_pairs if self._holds_out(pair)]

    def sha256(self) -> str:
        """Over the bytes of every file."""
        total = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()

    def _texts(self, epoch: int) -> Sequence[str]:
        if self.stream is not None:
            return self.stream.round(epoch)
        return self.fixed or _sentences(self.all_pairs)

    def _holds_out(self, pair: Pair) -> bool:
        return self._held_out(pair.first) or self._held_out(pair.second)

    def _held_out(self, text: str) -> bool:
        return fraction_of(text) < self.dev_fraction


def fraction_of(text: str) -> float:
    """A number from 0 to below 1 that the text alone decides."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:4], "big") / 2**32


def _sentences(pairs: Iterable[Pair]) -> list[str]:
    return list(dict.fromkeys(sentence for pair in pairs for sentence in (pair.first, pair.second)))
