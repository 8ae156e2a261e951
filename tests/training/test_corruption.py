"""Noise and masks: their statistics, and what they never touch."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ner_service.errors import ConfigError
from tests.text.sample_tokenizers import trained, word_piece
from training.corruption import Masked, Vocabulary, mask_words, noise_words

MASK = 4
VOCABULARY = Vocabulary(mask_id=MASK, size=20_000, specials=frozenset(range(5)))
Groups = list[tuple[int, ...]]


def corpus(num_words: int) -> tuple[tuple[int, ...], Groups]:
    """Words of one to three tokens, a special token at either end and an unknown one after each tenth word."""
    generator = random.Random(0)
    token_ids, groups = [2], []
    for number in range(num_words):
        length = generator.randint(1, 3)
        groups.append(tuple(range(len(token_ids), len(token_ids) + length)))
        token_ids += [generator.randrange(5, 20_000) for _ in range(length)]
        token_ids += [1] if number % 10 == 0 else []
    return (*token_ids, 3), groups


def kinds(before: tuple[int, ...], after: tuple[int, ...], groups: Groups) -> Counter[str]:
    """How many words are masked whole, random, untouched, or masked in part."""

    def kind(group: tuple[int, ...]) -> str:
        num_masked = sum(after[index] == MASK for index in group)
        if num_masked:
            return "masked" if num_masked == len(group) else "in part"
        return "untouched" if all(before[index] == after[index] for index in group) else "random"

    return Counter(kind(group) for group in groups)


def test_s6_noise_statistics() -> None:
    """12 % of 100,000 words are masked, 1.5 % random (+- 3 standard deviations), whole words each."""
    token_ids, groups = corpus(100_000)
    noised = noise_words(token_ids, groups, VOCABULARY, random.Random(1))
    found = kinds(token_ids, noised, groups)
    assert found["masked"] / 100_000 == pytest.approx(0.12, abs=0.003)
    assert found["random"] / 100_000 == pytest.approx(0.015, abs=0.0012)
    assert found["in part"] == 0


def test_s6_tokens_taken_for_words_are_masked_in_part() -> None:
    """The twin: without the groups of tokens, words fall apart."""
    token_ids, groups = corpus(1000)
    alone = [(index,) for group in groups for index in group]
    assert kinds(token_ids, noise_words(token_ids, alone, VOCABULARY, random.Random(1)), groups)["in part"] > 100


def test_s6_the_target_is_not_altered() -> None:
    token_ids, groups = corpus(1000)
    target = list(token_ids)
    noised = noise_words(target, groups, VOCABULARY, random.Random(1))
    masked = mask_words(target, groups, VOCABULARY, random.Random(1))
    assert target == list(token_ids)
    assert target != list(noised)
    assert target != list(masked.token_ids)


def test_mask_statistics() -> None:
    """15 % of the tokens; of those 80 % masked, 10 % random, 10 % kept."""
    token_ids, groups = corpus(100_000)
    num_tokens = sum(len(group) for group in groups)
    masked = mask_words(token_ids, groups, VOCABULARY, random.Random(1))
    num_chosen = len(masked.positions)
    assert num_chosen / num_tokens == pytest.approx(0.15, abs=1e-4)
    after = [masked.token_ids[index] for index in masked.positions]
    before = [token_ids[index] for index in masked.positions]
    num_kept = sum(one == other for one, other in zip(before, after, strict=True))
    assert after.count(MASK) / num_chosen == pytest.approx(0.8, abs=0.01)
    assert num_kept / num_chosen == pytest.approx(0.1, abs=0.01)


def test_a_budget_below_a_word_still_chooses_one() -> None:
    """Three words of five tokens have a budget of 2.25 tokens."""
    groups = [tuple(range(start, start + 5)) for start in (0, 5, 10)]
    generator = random.Random(1)
    chosen = [mask_words(range(100, 115), groups, VOCABULARY, generator).positions for _ in range(600)]
    assert set(chosen) == set(groups)
    assert min(Counter(chosen).values()) > 150


def test_long_words_are_chosen_as_often_as_short_ones() -> None:
    """Half of eight tokens: each token in half of the texts (+- 3 standard deviations)."""
    groups = [(0,), (1,), (2,), (3,), (4, 5, 6, 7)]
    generator = random.Random(1)
    chosen: Counter[int] = Counter()
    for _ in range(4000):
        chosen.update(mask_words(range(100, 108), groups, VOCABULARY, generator, share=0.5).positions)
    assert [chosen[index] / 4000 for index in range(8)] == pytest.approx([0.5] * 8, abs=0.024)


@st.composite
def tokenised(draw: st.DrawFn) -> tuple[tuple[int, ...], Groups]:
    """Any ids of a vocabulary of 8 with 5 specials, cut into words; some tokens are in none."""
    token_ids = tuple(draw(st.lists(st.integers(0, 7), max_size=20)))
    cuts = sorted(draw(st.sets(st.integers(0, len(token_ids)), max_size=8)))
    return token_ids, [tuple(range(start, end)) for start, end in pairwise(cuts)]


SMALL = Vocabulary(mask_id=MASK, size=8, specials=frozenset(range(5)))


def noised(token_ids: tuple[int, ...], groups: Groups, generator: random.Random) -> Masked:
    after = noise_words(token_ids, groups, SMALL, generator)
    return Masked(token_ids=after, positions=tuple(index for group in groups for index in group))


def masked(token_ids: tuple[int, ...], groups: Groups, generator: random.Random) -> Masked:
    return mask_words(token_ids, groups, SMALL, generator, share=0.6)


@pytest.mark.parametrize("corrupt", [noised, masked])
@given(tokenised(), st.integers(0, 2**32))
def test_what_corruption_never_does(
    corrupt: Callable[[tuple[int, ...], Groups, random.Random], Masked],
    text: tuple[tuple[int, ...], Groups],
    seed: int,
) -> None:
    token_ids, groups = text
    result = corrupt(token_ids, groups, random.Random(seed))
    assert len(result.token_ids) == len(token_ids)
    for index, (before, after) in enumerate(zip(token_ids, result.token_ids, strict=True)):
        if before in SMALL.specials or index not in result.positions:
            assert after == before
        else:
            assert after == MASK or after not in SMALL.specials
    assert corrupt(token_ids, groups, random.Random(seed)) == result


@given(tokenised(), st.integers(0, 2**32))
def test_positions_are_whole_words_without_their_special_tokens(
    text: tuple[tuple[int, ...], Groups], seed: int
) -> None:
    token_ids, groups = text
    words = [{index for index in group if token_ids[index] not in SMALL.specials} for group in groups]
    positions = masked(token_ids, groups, random.Random(seed)).positions
    assert list(positions) == sorted(set(positions))
    assert all(word <= set(positions) or word.isdisjoint(positions) for word in words)
    assert bool(positions) == any(words)


def test_a_share_of_all_chooses_every_word() -> None:
    token_ids, groups = corpus(50)
    positions = mask_words(token_ids, groups, VOCABULARY, random.Random(1), share=1.0).positions
    assert list(positions) == [index for group in groups for index in group]


def test_random_ids_are_every_ordinary_one() -> None:
    generator = random.Random(0)
    drawn = Counter(SMALL.draw(generator) for _ in range(3000))
    assert set(drawn) == {5, 6, 7}
    assert min(drawn.values()) > 900


@pytest.mark.parametrize(
    ("mask_id", "size", "message"), [(9, 20, "mask_id 9, expected one of the specials"), (1, 3, "all of 3 ids")]
)
def test_a_vocabulary_without_a_choice_is_refused(mask_id: int, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(mask_id=mask_id, size=size, specials=frozenset(range(3)))


def test_a_tokenizers_vocabulary_is_all_of_its_ids() -> None:
    tokenizer = trained()
    vocabulary = Vocabulary.of_tokenizer(tokenizer, "noise")
    assert (vocabulary.mask_id, vocabulary.size) == (tokenizer.mask_id, tokenizer.vocab_size)
    assert vocabulary.specials == tokenizer.special_ids


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="noise: found a tokenizer without a mask token, expected one"):
        Vocabulary.of_tokenizer(word_piece(), "noise")
