from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ner_service.errors import ConfigError
from ner_service.text.tokenizer import TextTokenizer
from training.data.tokenizer_training import SPECIALS, train_tokenizer

SENTENCES = ["the lowest lower low slower slowly", "newest newer new 北京的新书 新", "wide wider widest"] * 4


def vocabulary(tokenizer: TextTokenizer) -> dict[str, int]:
    vocab: dict[str, int] = json.loads(tokenizer.to_json())["model"]["vocab"]
    return vocab


def pieces(tokenizer: TextTokenizer, text: str) -> list[str]:
    names = {index: token for token, index in vocabulary(tokenizer).items()}
    return [names[token_id] for token_id in tokenizer.encode(text).token_ids]


def test_special_tokens_come_first() -> None:
    vocab = vocabulary(train_tokenizer(SENTENCES, vocab_size=250))
    assert [vocab[special] for special in SPECIALS] == [0, 1, 2, 3, 4]
    assert pieces(train_tokenizer(SENTENCES, vocab_size=250), "") == ["[CLS]", "[SEP]"]


def test_size_is_kept_and_ids_have_no_gaps() -> None:
    tokenizer = train_tokenizer(SENTENCES, vocab_size=170)
    assert tokenizer.vocab_size == 170
    assert sorted(vocabulary(tokenizer).values()) == list(range(170))


def test_frequent_words_become_whole_and_chinese_stays_single() -> None:
    tokenizer = train_tokenizer(SENTENCES, vocab_size=300)
    assert pieces(tokenizer, "lowest 新书") == ["[CLS]", "lowest", "新", "书", "[SEP]"]
    assert not any(
        len(token) > 1 and "\u4e00" <= character <= "\u9fff" for token in vocabulary(tokenizer) for character in token
    )


def test_digits_and_punctuation_stay_single() -> None:
    tokenizer = train_tokenizer(["room 1999, room 1999; (room) " * 5], vocab_size=300)
    assert pieces(tokenizer, "1999,,")[1:-1] == ["1", "9", "9", "9", ",", ","]


def test_an_unknown_word_falls_apart_into_known_pieces_and_single_unknown_characters() -> None:
    tokenizer = train_tokenizer(SENTENCES, vocab_size=160)
    assert pieces(tokenizer, "QжQ")[1:-1] == ["Q", "[UNK]", "##Q"]
    assert "[UNK]" not in pieces(tokenizer, "".join(chr(code) for code in range(0x20, 0x7F)))
    assert len(pieces(tokenizer, "Q" * 5000)) == 5002


def test_case_is_kept() -> None:
    tokenizer = train_tokenizer(["Apple apple"] * 3, vocab_size=300)
    assert pieces(tokenizer, "Apple") != pieces(tokenizer, "apple")


def test_rare_characters_are_unknown() -> None:
    tokenizer = train_tokenizer(["新新旧"], vocab_size=300, min_frequency=2)
    assert pieces(tokenizer, "新旧")[1:-1] == ["新", "[UNK]"]


def test_rarer_characters_give_way_when_there_is_no_room() -> None:
    tokenizer = train_tokenizer(["新新新新旧旧旧书书"], vocab_size=len(SPECIALS) + 94 + 52 + 2)
    assert pieces(tokenizer, "新旧书a")[1:-1] == ["新", "旧", "[UNK]", "a"]


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="vocab_size: found 100"):
        train_tokenizer(SENTENCES, vocab_size=100)


def test_a_generator_will_do() -> None:
    assert (
        train_tokenizer(iter(SENTENCES), vocab_size=250).to_json()
        == train_tokenizer(SENTENCES, vocab_size=250).to_json()
    )


def test_other_processes_learn_the_same() -> None:
    """Ties abound here, and hash maps are seeded by process."""
    words = " ".join(f"{first}{second}x{second}{first}" for first in "abcdefgh" for second in "klmnop")
    program = (
        "import hashlib, sys; from training.data.tokenizer_training import train_tokenizer;"
        "print(hashlib.sha256(train_tokenizer([sys.argv[1]] * 2, vocab_size=260).to_json().encode()).hexdigest())"
    )
    digests = {subprocess.check_output([sys.executable, "-c", program, words]) for _ in range(3)}
    assert len(digests) == 1
