"""Pairs of sentences, most of which mean the same: read from files, mined from raw text, put into batches.

Knows no tokenizer and no objective.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ner_service.errors import DataError
from ner_service.formats.checks import check_unicode, parse_json, take
from ner_service.formats.lines import Line, read_lines
from training.data.texts import sentences

MAX_SCORE = 5
MIN_CHARACTERS = 5
"""Letters and digits of a sentence worth mining: shorter ones ("Yes.", "谢谢。") are alike by chance."""
REACH = 30
"""How many sentences on a mined sentence may have its partner: the cost of a passage grows with its length alone."""

Inference = Literal["entailment", "neutral", "contradiction"]
"""What a first sentence says of a second."""
INFERENCES: tuple[Inference, ...] = get_args(Inference)

_KEYS = ("a", "b", "label")
_SIMILARITY_LABELS = f"0 or 1, or a score from 0 to {MAX_SCORE}"
_INFERENCE_LABELS = f"one of {', '.join(map(repr, INFERENCES))}"
_NO_LETTER = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sentences, and how alike they are from 0 to 1 or what the first says of the second.

    Without a label they are taken to be alike. Of inference, entailment alone is alike, though it holds one way only;
    neutral and contradicting sentences are not.

    Source: Gao et al. 2021 (SimCSE), section 4: of several data sets, entailment gave the best positives.
    """

    first: str
    second: str
    label: float | Inference | None = None

    @property
    def alike(self) -> bool:
        if isinstance(self.label, str):
            return self.label == "entailment"
        return self.label is None or self.label >= 0.5

    @property
    def infers(self) -> bool:
        """Whether it is one of natural language inference; if not, it is one of similarity."""
        return isinstance(self.label, str)


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file, plain or gzipped: a line each, `{"a", "b", "label"}`, the label optional.

    Labels are 0 and 1 or, where any of the file is above 1, scores from 0 to 5, which become 0 to 1. Or else they are
    those of inference, and then every pair of the file has one.

    Raises:
        DataError: names the line, what was found and what was expected; or the file has no pair.
    """
    pairs: list[Pair] = []
    for line in read_lines(path):
        if line.text.strip():
            pair = _pair(line, parse_json(line, dict))
            if pairs and pair.infers != pairs[0].infers:
                expected = _INFERENCE_LABELS if pairs[0].infers else _SIMILARITY_LABELS
                raise line.error(f"label: found {pair.label!r}, expected {expected}, as before it")
            pairs.append(pair)
    if not pairs:
        raise DataError(path, None, 'found no pair, expected lines like {"a": "...", "b": "...", "label": 1}')
    if not any(isinstance(pair.label, float) and pair.label > 1 for pair in pairs):
        return pairs
    return [replace(pair, label=pair.label / MAX_SCORE) if isinstance(pair.label, float) else pair for pair in pairs]


def mine_pairs(paragraphs: Iterable[str], threshold: float) -> Iterator[Pair]:
    """Pairs of sentences of one paragraph that have much in common; the most alike first, no sentence twice.

    Two sentences are as alike as the sets of their character bigrams are by Jaccard, |A ∩ B| / |A ∪ B|, over letters
    and digits without regard to case. They are a pair if that is at least `threshold`, unless all their letters and
    digits are the same. Alphabetic scripts have fewer bigrams than Chinese, so they want a higher threshold.

    Source: RoFormer-Sim (article 8454), pairs of "sentences of one passage"; it gives neither the exact measure nor the
    threshold. Bigrams are our choice: single letters make any two English sentences look alike.
    """
    used: set[str] = set()
    for paragraph in paragraphs:
        by_letters: dict[str, str] = {}
        for sentence in sentences(paragraph):
            by_letters.setdefault(_letters(sentence), sentence)
        unused = [key for key in by_letters if len(key) >= MIN_CHARACTERS and key not in used]
        for first, second in _alike(unused, threshold):
            if first not in used and second not in used:
                used |= {first, second}
                yield Pair(by_letters[first], by_letters[second])


def pair_batches(pairs: Sequence[Pair], num_pairs: int, generator: random.Random) -> list[list[Pair]]:
    """Batches of an epoch, `num_pairs` pairs each, in random order; no sentence is in two pairs of a batch.

    Within a batch every other sentence counts as unlike, so a pair that shares a sentence with one of the batch goes to
    a later batch. Only the last batches are smaller, where pairs run out or those that are left share a sentence. A
    batch of one pair has nothing to tell it from and is dropped; no other pair is lost.
    """
    batches: list[list[Pair]] = []
    held: list[set[str]] = []  # the sentences of each batch

    def next_open(index: int, own: set[str]) -> int:
        """The first batch from `index` on that has room and none of these sentences; it may be one to begin."""
        while index < len(batches) and (len(batches[index]) == num_pairs or not own.isdisjoint(held[index])):
            index += 1
        return index

    first_open = 0
    earliest: dict[str, int] = {}  # where a sentence's search begins, so that a frequent one stays cheap
    for pair in generator.sample(pairs, len(pairs)):
        own = {pair.first, pair.second}
        earliest |= {sentence: next_open(max(first_open, earliest.get(sentence, 0)), {sentence}) for sentence in own}
        index = next_open(max(earliest[sentence] for sentence in own), own)
        if index == len(batches):
            batches.append([])
            held.append(set())
        batches[index].append(pair)
        held[index] |= own
        first_open = next_open(first_open, set())
    return [batch for batch in batches if len(batch) > 1]


def in_turn(kinds: Sequence[Sequence[list[Pair]]]) -> list[list[Pair]]:
    """Batches of each kind in turn, as many of one as of the other: where there are fewer, they come round again."""
    present = [batches for batches in kinds if batches]
    num_turns = max(map(len, present), default=0)
    return [batches[turn % len(batches)] for turn in range(num_turns) for batches in present]


def _pair(line: Line, record: dict[str, Any]) -> Pair:
    for key in record:
        if key not in _KEYS:
            raise line.error(f"found the key {key!r}, expected {', '.join(map(repr, _KEYS))}")
    return Pair(_sentence(line, record, "a"), _sentence(line, record, "b"), _label(line, record.get("label")))


def _sentence(line: Line, record: dict[str, Any], key: str) -> str:
    sentence = check_unicode(line, take(line, record, key, str), key)
    if not sentence.strip():
        raise line.error(f"{key}: found {sentence!r}, expected a sentence")
    return sentence


def _label(line: Line, value: Any) -> float | Inference | None:
    if value is None:
        return None
    if value in INFERENCES:
        return cast(Inference, value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MAX_SCORE:
        raise line.error(f"label: found {value!r}, expected {_SIMILARITY_LABELS}; or {_INFERENCE_LABELS}")
    return float(value)


def _letters(sentence: str) -> str:
    return _NO_LETTER.sub("", sentence).casefold()


def _alike(keys: Sequence[str], threshold: float) -> list[tuple[str, str]]:
    """Pairs within reach whose similarity is at least `threshold`: the most alike first, then in the text's order."""
    bigrams = [set(pairwise(key)) for key in keys]
    found = []
    for i, first in enumerate(bigrams):
        for j, second in enumerate(bigrams[i + 1 : i + 1 + REACH], start=i + 1):
            if min(len(first), len(second)) / max(len(first), len(second)) < threshold:
                continue  # the sizes alone keep the similarity below the threshold
            num_shared = len(first & second)
            similarity = num_shared / (len(first) + len(second) - num_shared)
            if similarity >= threshold:
                found.append((-similarity, i, j))
    return [(keys[i], keys[j]) for _, i, j in sorted(found)]
