"""A pair of sentences -> token ids: what is read of it, with noise or without, and what is written from it.

Knows no tensor, no model and no loss.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ner_service.errors import ConfigError
from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import Encoding
from training.corruption import Vocabulary, noise_words
from training.data.pairs import INFERENCES, Pair
from training.data.words import word_groups, word_spans

SIMILARITY_CLASSES = range(2)
"""Unlike, alike."""
INFERENCE_CLASSES = range(2, 2 + len(INFERENCES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One side of a pair: `source` is read, with noise or without, `target` written from it, empty if nothing is.

    `sentence` is the text of the source before any noise.
    """

    sentence: str
    source: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Pairs of a batch that are in memory at a time: rows 2i and 2i + 1 are pair i, `labels[i]` its class.

    The loss of a batch is a mean, so a chunk knows how many rows and target tokens its whole batch has.
    """

    rows: tuple[Row, ...]
    labels: tuple[int, ...]
    num_batch_rows: int
    num_batch_targets: int

    @property
    def share(self) -> float:
        """Of the rows of its batch."""
        return len(self.rows) / self.num_batch_rows

    @property
    def num_tokens(self) -> int:
        return sum(len(row.source) + len(row.target) for row in self.rows)


def class_of(pair: Pair) -> int:
    """The class of its label: of `SIMILARITY_CLASSES` or of `INFERENCE_CLASSES`."""
    if isinstance(pair.label, str):
        return INFERENCE_CLASSES[INFERENCES.index(pair.label)]
    return SIMILARITY_CLASSES[int(pair.alike)]


class PairReader:
    """Pairs to rows of token ids.

    Args:
        tokenizer: the model's.
        noise: the share of sources with words masked or replaced.
        max_tokens: what a sentence may have where its partner has as many; it may take up what its partner leaves.
        writes: whether each sentence of a pair is written from the other.

    Raises:
        ConfigError: the tokenizer has no mask for the noise, nothing at the end of a text to end what is written, or
            more tokens around a text than `max_tokens` leaves room for.
    """

    def __init__(self, tokenizer: TextTokenizer, *, noise: float, max_tokens: int, writes: bool) -> None:
        self.tokenizer = tokenizer
        self.noise = noise
        self.max_tokens = max_tokens
        self.writes = writes
        self.vocabulary = Vocabulary.of_tokenizer(tokenizer, "objectives.similarity.noise") if noise else None
        if writes and not tokenizer.end_ids:
            raise ConfigError(
                "objectives.similarity.generation: found a tokenizer that puts no token after a text, expected one "
                "that ends what is written"
            )
        if max_tokens <= tokenizer.num_specials:
            raise ConfigError(
                f"objectives.similarity.max_tokens: found {max_tokens}, expected more than the "
                f"{tokenizer.num_specials} special tokens around a text"
            )

    def rows(self, pair: Pair, generator: random.Random) -> tuple[Row, Row]:
        """The first sentence and what is written from it, then the second."""
        first, second = self.tokenizer.encode(pair.first), self.tokenizer.encode(pair.second)
        first, second = self._cut(first, len(second)), self._cut(second, len(first))
        return (
            self._row(pair.first, first, second, generator),
            self._row(pair.second, second, first, generator),
        )

    def _row(self, sentence: str, encoding: Encoding, other: Encoding, generator: random.Random) -> Row:
        target = other.token_ids[len(self.tokenizer.start_ids) :] if self.writes else ()
        return Row(sentence=sentence, source=self._noised(sentence, encoding, generator), target=target)

    def _noised(self, sentence: str, encoding: Encoding, generator: random.Random) -> tuple[int, ...]:
        if self.vocabulary is None or generator.random() >= self.noise:
            return encoding.token_ids
        groups = word_groups(encoding, word_spans(sentence))
        return noise_words(encoding.token_ids, groups, self.vocabulary, generator)

    def _cut(self, encoding: Encoding, num_partner: int) -> Encoding:
        """The encoding without the last tokens before its end, as if the longer of two lost one until both fit.

        Source: github.com/ZhuiyiTechnology/roformer-sim.
        """
        most = max(self.max_tokens, 2 * self.max_tokens - num_partner)
        if len(encoding) <= most:
            return encoding
        kept, end = most - len(self.tokenizer.end_ids), len(encoding) - len(self.tokenizer.end_ids)
        return Encoding(
            token_ids=encoding.token_ids[:kept] + encoding.token_ids[end:],
            offsets=encoding.offsets[:kept] + encoding.offsets[end:],
        )
