"""A vocabulary cut down to some scripts."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from ner_service.bundle import Bundle
from ner_service.errors import ConfigError
from ner_service.text.tokenizer import TextTokenizer
from tests.training.checkpoints.model_file import PIECES, ids_of
from training.checkpoints.huggingface import ForeignEncoder
from training.checkpoints.parts import hidden_states, keep_rows
from training.checkpoints.vocabulary import MIN_COUNT, _renumber, prune

HAN_LATIN = ("Han", "Latin")
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
WORD_PIECES = (
    *("[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *"ab1.。北京の",
    *("##a", "##b", "##1", "##北", "the", "##ing", "ab", "2019", "1a", "...", "мир", "м", "##ир", "北京"),
)


def word_piece_tokenizer() -> TextTokenizer:
    """BERT's way to read, with its own framing."""
    ids = {token: index for index, token in enumerate(WORD_PIECES)}
    tokenizer = Tokenizer(models.WordPiece(vocab=ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return TextTokenizer(tokenizer)


def tokens_of(tokenizer: TextTokenizer) -> list[str]:
    raw = Tokenizer.from_str(tokenizer.to_json())
    return [raw.id_to_token(index) or "" for index in range(tokenizer.vocab_size)]


def read(tokenizer: TextTokenizer, text: str) -> list[tuple[str, tuple[int, int]]]:
    """Tokens and their ranges, without the framing."""
    encoding = tokenizer.encode(text)
    names = tokens_of(tokenizer)
    return [(names[i], offsets) for i, offsets in zip(encoding.token_ids, encoding.offsets, strict=True)][1:-1]


def test_what_is_kept_is_of_the_scripts_or_of_none(foreign: ForeignEncoder) -> None:
    tokenizer, token_ids = prune(foreign.tokenizer, HAN_LATIN, None)
    unwanted = {"и", "ий", "の", "北京", "▁在", "。」"}
    expected = [piece for piece in PIECES if piece not in unwanted]
    assert tokens_of(tokenizer) == expected
    assert list(token_ids) == ids_of(*expected)


@pytest.mark.parametrize(
    ("scripts", "kept"),
    [
        (("Latin",), {"▁the", "ing"}),
        (("Han",), {"北", "京", "在", "读"}),
        (("Cyrillic",), {"и", "ий"}),
        (("Hiragana", "Cyrillic"), {"の", "и", "ий"}),
    ],
)
def test_each_script_brings_its_own(foreign: ForeignEncoder, scripts: tuple[str, ...], kept: set[str]) -> None:
    found = set(tokens_of(prune(foreign.tokenizer, scripts, None)[0]))
    assert found & {"▁the", "ing", "北", "京", "在", "读", "北京", "▁在", "и", "ий", "の", "。」"} == kept
    assert {*SPECIALS, *"0189.,!?()。」～", "19", "▁"} <= found


def test_pieces_of_several_characters_must_occur(foreign: ForeignEncoder) -> None:
    texts = ["the reading"] * (MIN_COUNT - 1) + ["19 ab ab", "the 19 北京", "19"]
    found = tokens_of(prune(foreign.tokenizer, HAN_LATIN, texts)[0])
    assert [token for token in found if len(token.removeprefix("▁")) > 1 and token not in SPECIALS] == ["▁the", "19"]
    assert {*SPECIALS, *"abcdefgz()。」北京读", "▁A", "▁"} <= set(found)


def test_special_tokens_keep_their_part(foreign: ForeignEncoder) -> None:
    """Their ids move with the rows: unknown and mask come after what is dropped before them."""
    tokenizer, _ = prune(foreign.tokenizer, ("Latin",), None)
    names = tokens_of(tokenizer)
    assert (names[tokenizer.pad_id], names[tokenizer.mask_id or 0]) == ("<pad>", "<mask>")
    assert len(names) < len(PIECES)
    assert [names[index] for index in tokenizer.encode("bad Ж").token_ids] == (
        ["<s>", "▁", "b", "a", "d", "▁", "<unk>", "</s>"]
    )
    assert {names[index] for index in tokenizer.special_ids} == set(SPECIALS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("在 北京", [("在", (0, 1)), ("北", (2, 3)), ("京", (3, 4))]),
        ("A北京", [("▁A", (0, 1)), ("北", (1, 2)), ("京", (2, 3))]),
        ("  在北京", [("在", (2, 3)), ("北", (3, 4)), ("京", (4, 5))]),
        ("龘龘", [("<unk>", (0, 1)), ("<unk>", (1, 2))]),
        ("读。」A", [("读", (0, 1)), ("。", (1, 2)), ("」", (2, 3)), ("A", (3, 4))]),
    ],
)
def test_every_chinese_character_is_a_token(
    foreign: ForeignEncoder, text: str, expected: list[tuple[str, tuple[int, int]]]
) -> None:
    assert read(prune(foreign.tokenizer, HAN_LATIN, None)[0], text) == expected
    assert read(foreign.tokenizer, text) != expected


@given(text=st.text(st.sampled_from("在北京龘の Aabthe19。」(ＡЖ\x01"), max_size=30))
def test_a_span_may_begin_and_end_at_any_chinese_character(foreign: ForeignEncoder, text: str) -> None:
    tokenizer, _ = prune(foreign.tokenizer, HAN_LATIN, None)
    offsets = tokenizer.encode(text).offsets[1:-1]
    for index, character in enumerate(text):
        if character in "在北京龘の":
            assert offsets.count((index, index + 1)) == 1
    covered = {index for start, end in offsets for index in range(start, end)}
    assert {index for index, character in enumerate(text) if character not in " \x01"} <= covered
    assert all(start <= later for (start, _), (later, _) in pairwise(offsets))


def test_hidden_states_stay_where_all_pieces_do(foreign: ForeignEncoder) -> None:
    texts = ("the reading in a A19!", "abc", "(ab) ~ 19.")
    tokenizer, token_ids = prune(foreign.tokenizer, HAN_LATIN, None)
    pruned = keep_rows(foreign, tokenizer, token_ids)
    assert len(token_ids) < foreign.tokenizer.vocab_size
    for kept, whole in zip(hidden_states(pruned, texts, 24), hidden_states(foreign, texts, 24), strict=True):
        torch.testing.assert_close(kept, whole, rtol=0, atol=1e-6)
    [kept], [whole] = hidden_states(pruned, ["北京"], 24), hidden_states(foreign, ["北京"], 24)
    assert kept.shape == whole.shape  # two characters, or a mark and the word: other tokens, other states
    assert not torch.allclose(kept, whole, atol=1e-2)


def test_word_pieces_are_pruned_too() -> None:
    tokenizer, token_ids = prune(word_piece_tokenizer(), HAN_LATIN, None)
    unwanted = {"[unused1]", "の", "##北", "1a", "...", "мир", "м", "##ир", "北京"}
    assert tokens_of(tokenizer) == [token for token in WORD_PIECES if token not in unwanted]
    assert [WORD_PIECES[index] for index in token_ids] == tokens_of(tokenizer)


def test_pruned_word_pieces_read_as_before() -> None:
    before, after = word_piece_tokenizer(), prune(word_piece_tokenizer(), HAN_LATIN, None)[0]
    for text in ("the a1 北京.", "AB thea", "zz 2019。"):
        assert read(after, text) == read(before, text)
    framed = after.encode("ab").token_ids
    assert [tokens_of(after)[index] for index in framed] == ["[CLS]", "ab", "[SEP]"]


def test_the_outcome_is_kept_by_a_file(foreign: ForeignEncoder) -> None:
    tokenizer, _ = prune(foreign.tokenizer, HAN_LATIN, ["the the the"])
    again = TextTokenizer.from_json(tokenizer.to_json())
    assert read(again, "the A北京 龘") == read(tokenizer, "the A北京 龘")
    assert again.special_ids == tokenizer.special_ids


@pytest.mark.parametrize("framing", ["wrapped twice", "no template"])
def test_framing_in_a_sequence_is_renumbered(foreign: ForeignEncoder, framing: str) -> None:
    raw, [mask] = Tokenizer.from_str(foreign.tokenizer.to_json()), ids_of("<mask>")
    steps = [processors.ByteLevel(trim_offsets=False), raw.post_processor]
    if framing == "no template":
        steps[1] = processors.RobertaProcessing(("</s>", 2), ("<mask>", mask))
    raw.post_processor = processors.Sequence([processors.Sequence(steps)])
    tokenizer, token_ids = prune(TextTokenizer(raw), ("Latin",), None)
    first = "<s>" if framing == "wrapped twice" else "<mask>"
    names = tokens_of(tokenizer)
    assert [names[index] for index in tokenizer.encode("bad").token_ids] == [first, "▁", "b", "a", "d", "</s>"]
    assert [names[index] for index in (*tokenizer.start_ids, *tokenizer.end_ids)] == [first, "</s>"]
    assert len(token_ids) <= mask  # its old id is beyond the rows


def test_framing_that_is_not_known_is_refused() -> None:
    """Its ids would stay the old ones."""
    with pytest.raises(ConfigError, match="scripts: found a post-processor of type Other, expected TemplateProcessing"):
        _renumber({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "Other", "ids": [9]}]}, {})


@pytest.mark.parametrize("han", ["han", "HAN", "Hani", "hani"])
def test_however_a_script_is_written_it_is_the_same(foreign: ForeignEncoder, han: str) -> None:
    """Han by another name brings no words of several characters: nothing would ever read them."""
    tokenizer, token_ids = prune(foreign.tokenizer, (han, "latn"), None)
    expected, expected_ids = prune(foreign.tokenizer, HAN_LATIN, None)
    assert (tokenizer.to_json(), token_ids) == (expected.to_json(), expected_ids)
    assert not {"北京", "▁北京", "▁在"} & set(tokens_of(tokenizer))


@pytest.mark.parametrize("script", ["Klingon", "", "Han}|\\p{L", "L", "Alphabetic", "Common"])
def test_what_is_no_script_is_refused(foreign: ForeignEncoder, script: str) -> None:
    with pytest.raises(ConfigError, match=r"scripts: found .*, expected some of Arabic, .*, Han, .*, Latin, "):
        prune(foreign.tokenizer, ("Han", script), None)


def test_another_kind_of_tokenizer_is_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="scripts: found a tokenizer of type BPE, expected Unigram or WordPiece"):
        prune(tiny_bundle.tokenizer, HAN_LATIN, None)
