"""Token ids -> corrupted token ids of the same length: BART's noise and whole-word masks.

Pure functions of token ids, the tokens of each word and a random generator. Special tokens, the unknown token among
them, are neither altered nor drawn, even if a word holds one. Knows no text, no tensor and no loss.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ner_service.errors import ConfigError
from ner_service.text.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What corruption may put in a token's place: `mask_id`, or any of the `size` ids that is not in `specials`.

    Raises:
        ValueError: `mask_id` is not among the special ids, or nothing else is left.
    """

    mask_id: int
    size: int
    specials: frozenset[int]

    def __post_init__(self) -> None:
        if self.mask_id not in self.specials:
            raise ValueError(f"found mask_id {self.mask_id}, expected one of the specials {sorted(self.specials)}")
        if self.specials.issuperset(range(self.size)):
            raise ValueError(f"all of {self.size} ids are special, expected an ordinary one")

    @classmethod
    def of_tokenizer(cls, tokenizer: TextTokenizer, wanted_by: str) -> Vocabulary:
        """All of a tokenizer's ids.

        Raises:
            ConfigError: it names no mask token; names what wanted one.
        """
        if tokenizer.mask_id is None:
            raise ConfigError(f"{wanted_by}: found a tokenizer without a mask token, expected one")
        return cls(mask_id=tokenizer.mask_id, size=tokenizer.vocab_size, specials=tokenizer.special_ids)

    def draw(self, generator: random.Random) -> int:
        """An ordinary id, each as likely as the other."""
        while (token_id := generator.randrange(self.size)) in self.specials:
            pass
        return token_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """Corrupted ids, and the positions to predict, in order: the chosen tokens, also those that kept their id."""

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]


def noise_words(
    token_ids: Sequence[int], groups: Sequence[Sequence[int]], vocabulary: Vocabulary, generator: random.Random
) -> tuple[int, ...]:
    """Choose 15 % of the words; of those 80 % are masked token by token, 10 % kept, 10 % become random ids.

    So 12 % of all words are masked, 1.5 % are random. `groups` holds the indices of the tokens of each word.

    Source: kexue.fm/archives/8454 and its code, github.com/ZhuiyiTechnology/roformer-sim.
    """
    noised = list(token_ids)
    for group in _ordinary(token_ids, groups, vocabulary):
        chance = generator.random()
        for index in group:
            if chance < 0.12:
                noised[index] = vocabulary.mask_id
            elif chance < 0.135:
                noised[index] = vocabulary.draw(generator)
    return tuple(noised)


def mask_words(
    token_ids: Sequence[int],
    groups: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    generator: random.Random,
    share: float = 0.15,
) -> Masked:
    """Choose whole words with `share` of the tokens; of those tokens 80 % are masked, 10 % kept, 10 % random ids.

    `groups` holds the indices of the tokens of each word. At least one word is chosen if there is any.

    Source: Devlin et al. 2019, section 3.1; whole words: Cui et al. 2019, arXiv 1906.08101.
    """
    words = _ordinary(token_ids, groups, vocabulary)
    budget = share * sum(len(word) for word in words)
    positions = sorted(index for word in _choose(words, budget, generator) for index in word)
    masked = list(token_ids)
    for index in positions:
        chance = generator.random()
        if chance < 0.8:
            masked[index] = vocabulary.mask_id
        elif chance < 0.9:
            masked[index] = vocabulary.draw(generator)
    return Masked(token_ids=tuple(masked), positions=tuple(positions))


def _ordinary(
    token_ids: Sequence[int], groups: Sequence[Sequence[int]], vocabulary: Vocabulary
) -> list[tuple[int, ...]]:
    """The words without their special tokens, if anything is left of them."""
    words = (tuple(index for index in group if token_ids[index] not in vocabulary.specials) for group in groups)
    return [word for word in words if word]


def _choose(words: Sequence[tuple[int, ...]], budget: float, generator: random.Random) -> list[tuple[int, ...]]:
    """Words in random order with `budget` tokens, on the average.

    The word that does not fit is taken with the probability of the part that fits: the number of tokens comes out
    right, and long words are not passed over.
    """
    shuffled = generator.sample(words, len(words))
    chosen: list[tuple[int, ...]] = []
    for word in shuffled:
        if generator.random() * len(word) >= budget:
            break
        chosen.append(word)
        budget -= len(word)
    return chosen or shuffled[:1]
