"""Replacing single characters, with offsets on the text as given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from training.checkpoints.charsmap import replacing

CHARACTERS = st.characters(exclude_categories=("Cs", "M"), exclude_characters="\0\r\n")
TABLES = st.dictionaries(CHARACTERS, st.text(CHARACTERS, max_size=3), max_size=40)


@given(TABLES, st.data())
def test_characters_of_the_table_are_replaced_and_no_others(table: dict[str, str], data: st.DataObject) -> None:
    character = data.draw(CHARACTERS | st.sampled_from(sorted(table)) if table else CHARACTERS)
    assert replacing(table).normalize_str(character) == table.get(character, character)


def test_a_table_as_large_as_nfkc_is_kept_exactly() -> None:
    """Replacements of one to three characters at places spread over all of Unicode."""
    table = {
        chr(code): chr(0x4E00 + code % 999) * (1 + code % 3) for code in range(0x21, 0x2FFFF, 41) if _is_text(code)
    }
    normalizer = replacing(table)
    for code in range(0x21, 0x30000, 13):
        if _is_text(code):
            assert normalizer.normalize_str(chr(code)) == table.get(chr(code), chr(code))


def _is_text(code: int) -> bool:
    return not 0xD800 <= code < 0xE000


def test_offsets_count_the_characters_that_were_given() -> None:
    """Dropped at the beginning, in the middle; one for two and two for one."""
    tokenizer = Tokenizer(models.WordLevel({"fi": 0, "nd": 1, "?": 2}, unk_token="?"))
    tokenizer.normalizer = replacing({"\x01": "", "ﬁ": "fi", "ｎ": "n"})
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    encoding = tokenizer.encode("\x01ﬁ ｎ\x01d")
    assert (encoding.tokens, encoding.offsets) == (["fi", "nd"], [(1, 2), (3, 6)])


def test_an_empty_table_changes_nothing() -> None:
    assert replacing({}).normalize_str("Ａ①") == "Ａ①"
