"""Which pairs are learnt from, and which are held out. Knows no token and no tensor."""

from __future__ import annotations

from collections.abc import Sequence

from ner_service.errors import ConfigError
from training.config import SimilarityConfig
from training.data.pairs import MAX_SCORE, Pair, mine_pairs, positives
from training.data.raw import RawCorpus
from training.data.texts import sentences


class PairSource:
    """The pairs of each epoch and those held out.

    They come from the pair files: all of them where labels are learnt, else those that are alike. Without files they
    are mined from the texts or, where nothing is to be mined, are every sentence with itself.
    """

    def __init__(self, raw: RawCorpus, config: SimilarityConfig) -> None:
        self.raw = raw
        self.config = config
        labels = [pair.label for pair in raw.all_pairs if pair.label is not None]
        self.half = MAX_SCORE / 2 if max(labels, default=0.0) > 1 else 0.5

    def epoch(self, epoch: int) -> list[Pair]:
        """What is learnt from in an epoch."""
        return self._of_files(self.raw.pairs()) if self.raw.all_pairs else self._of_texts(self.raw.texts(epoch))

    def dev(self) -> list[Pair]:
        """What is held out."""
        return self._of_files(self.raw.dev_pairs()) if self.raw.all_pairs else self._of_texts(self.raw.dev_texts())

    def alike(self, pair: Pair) -> bool:
        """Whether a pair has no label, or one of at least half of its scale: 0 to 1, or 0 to 5 if any is above 1."""
        return bool(positives([pair], self.half))

    def _of_files(self, pairs: list[Pair]) -> list[Pair]:
        if self.config.stage != "supervised":
            return positives(pairs, self.half)
        if len({self.alike(pair) for pair in pairs}) == 1:
            raise ConfigError("objectives.similarity.stage: found pairs of one label, expected both for 'supervised'")
        return pairs

    def _of_texts(self, texts: Sequence[str]) -> list[Pair]:
        if self.config.stage == "supervised":
            raise ConfigError("objectives.similarity.stage: found no pair file, expected data.pairs for 'supervised'")
        if self.config.mine is not None:
            return list(mine_pairs(texts, self.config.mine))
        return [Pair(each, each) for each in dict.fromkeys(each for text in texts for each in sentences(text))]
