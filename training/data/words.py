"""Text -> words, and the tokens of each word: what is masked or noised as a whole.

Knows no vocabulary and no objective.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import rjieba
from tokenizers import Regex, pre_tokenizers

from ner_service.types import Encoding

_CHINESE = r"\p{Han}+"
_PUNCTUATION = r"[\p{P}\p{S}]"
_PIECES = pre_tokenizers.Sequence(
    [
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Split(Regex(f"{_CHINESE}|{_PUNCTUATION}"), behavior="isolated"),
    ]
)
_WITHOUT_CHINESE = pre_tokenizers.Split(Regex(_CHINESE), behavior="removed")


def word_spans(text: str) -> list[tuple[int, int]]:
    """The words of a text in order, as half-open ranges of code points. Every character but white space is in one.

    A run of Chinese characters is segmented by its dictionary; any other run ends at white space. Each punctuation
    mark or symbol is a word of its own.

    Source: github.com/messense/jieba-rs.
    """
    words: list[tuple[int, int]] = []
    for piece, (start, end) in _PIECES.pre_tokenize_str(text):
        if _WITHOUT_CHINESE.pre_tokenize_str(piece):
            words.append((start, end))
        else:
            words += [(start + first, start + last) for _, first, last in rjieba.tokenize(piece)]
    return words


def word_groups(encoding: Encoding, spans: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Indices of the tokens of each word, for words as `word_spans` gives them; a word without a token is left out.

    A token across several words belongs to the first of them. A token of no character (a special token) or of white
    space alone is in no word.
    """
    ends = [end for _, end in spans]
    groups: list[list[int]] = [[] for _ in spans]
    for index, (start, end) in enumerate(encoding.offsets):
        word = bisect_right(ends, start)
        if word < len(spans) and max(start, spans[word][0]) < end:
            groups[word].append(index)
    return [tuple(group) for group in groups if group]
