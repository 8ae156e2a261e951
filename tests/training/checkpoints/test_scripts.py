"""Names of scripts."""

from __future__ import annotations

import pytest
from tokenizers import Regex, normalizers

from ner_service.errors import ConfigError
from training.checkpoints.scripts import _NAMES, script_names
from training.checkpoints.vocabulary import _WITHOUT_SPACES


def test_names_and_codes_in_any_case() -> None:
    assert script_names(["latin", "HANI", "Kana", "bopo", "HIRAGANA"]) == (
        ("Latin", "Han", "Katakana", "Bopomofo", "Hiragana")
    )
    assert script_names(["han", "Latn", "Han", "hani"]) == ("Han", "Latin")
    assert script_names([]) == ()


def test_scripts_without_spaces_have_these_names() -> None:
    assert script_names(_WITHOUT_SPACES) == _WITHOUT_SPACES


@pytest.mark.parametrize("wanted", ["L", "Alphabetic", "Any", "Common", "Zyyy", "Emoji", "Hanic", "", " Han"])
def test_properties_that_are_no_scripts_are_refused(wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"scripts: found {wanted!r}, expected some of Arabic, .*, Han, "):
        script_names([wanted])


@pytest.mark.parametrize(("code", "name"), _NAMES.items())
def test_regular_expressions_know_code_and_name_as_one(code: str, name: str) -> None:
    """Over all of Unicode's first plane the two take the same characters, and some."""
    characters = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000)]))
    by_code, by_name = (normalizers.Replace(Regex(rf"\p{{{each}}}+"), "") for each in (code, name))
    left = by_name.normalize_str(characters)
    assert by_code.normalize_str(characters) == left != characters
