"""Texts and pairs without labels, epoch by epoch, and those held out to measure by. Knows no tokenizer.

A text is held out by its hash, wherever it occurs. What is measured on are the held-out texts, those of the first round
if they are streamed, and the pairs with a held-out sentence. No sentence of them is learnt from, in any round: neither
in another pair nor in another text. Sentences are compared letter by letter, so one that differs by a comma is another.
What is held out in later rounds is not measured on: that text is not learnt from, but its sentences may be elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from training.data.pairs import Pair
from training.data.texts import TextStream, sentences


@dataclass(frozen=True, kw_only=True)
class RawCorpus:
    """What a run reads besides documents: a stream of texts, or else fixed texts; and pairs.

    `dev_fraction` of the texts is held out; a pair is held out if either of its sentences is. `measured` are texts that
    the run is measured on by other means, those of its dev documents: they are not learnt from either.
    """

    stream: TextStream | None = None
    fixed: tuple[str, ...] = ()
    all_pairs: tuple[Pair, ...] = ()
    dev_fraction: float = 0.0
    measured: frozenset[str] = frozenset()
    files: tuple[Path, ...] = field(default=(), repr=False)

    def texts(self, epoch: int) -> list[str]:
        """The texts of an epoch to learn from: the stream's next round, or all there are."""
        return [text for text in self._texts(epoch) if self._learnable(text)]

    def dev_texts(self) -> list[str]:
        """Texts held out, each once; of the first round if they are streamed."""
        return list(dict.fromkeys(text for text in self._texts(0) if self._held_out(text)))

    def tokenizer_texts(self) -> list[str]:
        """Texts that a tokenizer may learn from, besides those of documents: the first round, and the pairs'."""
        streamed = [] if self.stream is None else self.texts(0)
        return [*streamed, *_sentences(self.pairs())]

    def pairs(self) -> list[Pair]:
        """Pairs to learn from."""
        return [pair for pair in self.all_pairs if self._learnable(pair.first) and self._learnable(pair.second)]

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

    def _learnable(self, text: str) -> bool:
        """Whether it is not held out and shares no sentence with what is measured on."""
        return not self._held_out(text) and self._measured_parts.isdisjoint(_parts(text))

    @cached_property
    def _measured_parts(self) -> frozenset[str]:
        """Sentences of what is held out to measure by; dev documents whole and by the paragraph."""
        held_out = (part for text in (*self.dev_texts(), *_sentences(self.dev_pairs())) for part in _parts(text))
        documents = (part.strip() for text in self.measured for part in (text, *text.splitlines()))
        return frozenset((*held_out, *documents))

    def _held_out(self, text: str) -> bool:
        return fraction_of(text) < self.dev_fraction


def fraction_of(text: str) -> float:
    """A number from 0 to below 1 that the text alone decides."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:4], "big") / 2**32


def _sentences(pairs: Iterable[Pair]) -> list[str]:
    return list(dict.fromkeys(sentence for pair in pairs for sentence in (pair.first, pair.second)))


def _parts(text: str) -> list[str]:
    """A text and its sentences, without the white space around them."""
    return [text.strip(), *sentences(text)]
