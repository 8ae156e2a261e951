"""Which pairs are learnt from, and which are held out. Knows no token and no tensor."""

from __future__ import annotations

from collections.abc import Sequence

from ner_service.errors import ConfigError
from training.config import SimilarityConfig
from training.data.pairs import Pair, mine_pairs
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

    def epoch(self, epoch: int) -> list[Pair]:
        """What is learnt from in an epoch.

        Raises:
            ConfigError: labels are to be learnt, and there is no pair file, or one label alone of a kind of pairs.
        """
        if not self.raw.all_pairs:
            return self._of_texts(self.raw.texts(epoch))
        pairs = self._of_files(self.raw.pairs())
        if self.config.stage == "supervised":
            _check_labels(pairs)
        return pairs

    def dev(self) -> list[Pair]:
        """What is held out."""
        return self._of_files(self.raw.dev_pairs()) if self.raw.all_pairs else self._of_texts(self.raw.dev_texts())

    def _of_files(self, pairs: list[Pair]) -> list[Pair]:
        return pairs if self.config.stage == "supervised" else [pair for pair in pairs if pair.alike]

    def _of_texts(self, texts: Sequence[str]) -> list[Pair]:
        if self.config.stage == "supervised":
            raise ConfigError("objectives.similarity.stage: found no pair file, expected data.pairs for 'supervised'")
        if self.config.mine is not None:
            return list(mine_pairs(texts, self.config.mine))
        return [Pair(each, each) for each in dict.fromkeys(each for text in texts for each in sentences(text))]


def _check_labels(pairs: Sequence[Pair]) -> None:
    """A kind of pairs with one label alone teaches nothing."""
    if len({pair.alike for pair in pairs if not pair.infers}) == 1:
        raise ConfigError("objectives.similarity.stage: found pairs of one label, expected both for 'supervised'")
    if len({pair.label for pair in pairs if pair.infers}) == 1:
        raise ConfigError(
            "objectives.similarity.stage: found inference pairs of one label, expected more for 'supervised'"
        )
