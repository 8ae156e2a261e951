from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from ner_service.errors import ConfigError, InvalidTextError
from ner_service.text.tokenizer import TextTokenizer
from tests.strategies import texts
from tests.text.sample_tokenizers import ALL, SENTENCES, byte_level, metaspace, trained, word_piece


def surfaces(tokenizer: TextTokenizer, text: str) -> list[str]:
    return [text[start:end] for start, end in tokenizer.encode(text).offsets if start < end]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("北京 Ann", ["北", "京", "Ann"]),
        ("😀Ann👩\u200d👧", ["😀", "Ann", "👩", "👧"]),
        ("\U00020bb7北", ["\U00020bb7", "北"]),
        ("Ａｎｎ　１２", ["Ａｎｎ", "１", "２"]),
        ("a\r\nb\t\tc", ["a", "b", "c"]),
        ("ANN", ["A", "N", "N"]),
        ("A\u200bB", ["A", "B"]),
        ("[SEP]", ["[", "S", "E", "P", "]"]),
        ("㍿", ["㍿"] * 4),
        ("❤\ufe0f!", ["❤\ufe0f", "!"]),
    ],
)
def test_offsets_of_awkward_texts(text: str, expected: list[str]) -> None:
    assert surfaces(trained(), text) == expected


@pytest.mark.parametrize("tokenizer", ALL)
def test_a_decomposed_accent_belongs_to_its_letter(tokenizer: Callable[[], TextTokenizer]) -> None:
    text = "Malmo\u0308 xe\u0301"
    ends = [end for start, end in tokenizer().encode(text).offsets if start < end]
    assert 6 in ends
    assert ends[-1] == len(text)


def test_bytes_of_one_character_each_have_the_whole_character() -> None:
    encoding = byte_level().encode("a😀b")
    inside = [offset for offset in encoding.offsets if offset[0] < offset[1]]
    assert inside == [(0, 1), *[(1, 2)] * 4, (2, 3)]


@pytest.mark.parametrize("tokenizer", [byte_level, metaspace])
def test_a_space_before_a_word_is_not_part_of_it(tokenizer: Callable[[], TextTokenizer]) -> None:
    mentions = surfaces(tokenizer(), "Ann visited Bob")
    assert not any(" " in mention for mention in mentions)


@pytest.mark.parametrize("tokenizer", ALL)
def test_special_tokens_cover_nothing(tokenizer: Callable[[], TextTokenizer]) -> None:
    encoding = tokenizer().encode("Ann")
    empty = [index for index, (start, end) in enumerate(encoding.offsets) if start == end]
    assert len(tokenizer().encode("")) == tokenizer().num_specials == len(empty)
    assert len(encoding) - 1 in empty


def test_a_file_s_truncation_and_padding_are_switched_off() -> None:
    assert len(word_piece().encode("北 " * 50)) == 52
    assert len(word_piece().encode("北")) == 3


def test_lower_casing_keeps_offsets() -> None:
    assert surfaces(word_piece(), "ANN Zürich İ")[:1] == ["ANN"]
    assert "".join(surfaces(word_piece(), "ANN ZÜRICH")) == "ANNZÜRICH"


@pytest.mark.parametrize(("tokenizer", "pad_id"), [(trained, 0), (byte_level, 1), (word_piece, 0), (metaspace, 0)])
def test_pad_id(tokenizer: Callable[[], TextTokenizer], pad_id: int) -> None:
    assert tokenizer().pad_id == pad_id


def test_what_stands_for_no_text_is_special_though_no_token_is_marked_as_such() -> None:
    assert word_piece().special_ids == {0, 2, 3}
    assert metaspace().special_ids == {0, 2}
    names = ["a", "[MASK]", "b", "[PAD]"]
    bare = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}))
    assert TextTokenizer(bare).special_ids == {1, 3}
    assert TextTokenizer(bare).decode([0, 1, 2, 3]) == "a b"


def test_a_file_that_leaves_an_empty_text_without_a_token_is_refused() -> None:
    bare = Tokenizer(models.WordLevel({"a": 0}))
    with pytest.raises(
        ConfigError, match=r"tokenizer\.json: found no special token beside a text, expected one or more"
    ):
        TextTokenizer.from_json(bare.to_str())


@given(text=texts(), tokenizer=st.sampled_from(ALL))
@settings(deadline=None)
def test_offsets_are_ranges_of_the_text_in_order(text: str, tokenizer: Callable[[], TextTokenizer]) -> None:
    encoding = tokenizer().encode(text)
    spans = [(start, end) for start, end in encoding.offsets if start < end]
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)
    for start, end in spans:
        mention = text[start:end]
        assert mention == mention.strip() or mention.isspace()
    assert all(0 <= token_id < tokenizer().vocab_size for token_id in encoding.token_ids)


@given(text=texts())
@settings(deadline=None)
def test_every_visible_character_lies_in_a_token(text: str) -> None:
    covered = {position for start, end in trained().encode(text).offsets for position in range(start, end)}
    missing = [text[position] for position in range(len(text)) if position not in covered]
    assert all(not character.isprintable() or character.isspace() for character in missing), missing


@given(batch=st.lists(texts(), max_size=4), tokenizer=st.sampled_from(ALL))
@settings(deadline=None, max_examples=30)
def test_a_batch_is_its_texts_one_by_one(batch: list[str], tokenizer: Callable[[], TextTokenizer]) -> None:
    assert tokenizer().encode_batch(batch) == [tokenizer().encode(text) for text in batch]


def test_a_lone_surrogate_is_named() -> None:
    with pytest.raises(InvalidTextError, match=r"U\+D83D at character 2"):
        trained().encode("ab\ud83d")
    with pytest.raises(InvalidTextError, match="character 0"):
        trained().encode_batch(["fine", "\udc00"])


@pytest.mark.parametrize("tokenizer", ALL)
def test_json_round_trip(tokenizer: Callable[[], TextTokenizer]) -> None:
    again = TextTokenizer.from_json(tokenizer().to_json())
    assert again.encode(SENTENCES[0] + " [SEP]") == tokenizer().encode(SENTENCES[0] + " [SEP]")


@pytest.mark.parametrize("content", ["", "{}", '{"model": 3}', "not json"])
def test_other_content_than_a_tokenizer_is_refused(content: str) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json: found .*, expected"):
        TextTokenizer.from_json(content)


def test_threads_get_the_answers_of_one_thread() -> None:
    batch = [sentence * length for sentence in SENTENCES[:4] for length in range(1, 20)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(trained().encode, batch)) == [trained().encode(text) for text in batch]
