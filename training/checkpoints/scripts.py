"""Names of Unicode's scripts, as a user may write them and as regular expressions know them. Knows no tokenizer.

Source: Unicode Standard Annex 31, table 5 (the scripts in common use), and ISO 15924 for the codes.
"""

from __future__ import annotations

from collections.abc import Iterable

from ner_service.errors import ConfigError

_NAMES = {
    "Arab": "Arabic",
    "Armn": "Armenian",
    "Beng": "Bengali",
    "Bopo": "Bopomofo",
    "Cyrl": "Cyrillic",
    "Deva": "Devanagari",
    "Ethi": "Ethiopic",
    "Geor": "Georgian",
    "Grek": "Greek",
    "Gujr": "Gujarati",
    "Guru": "Gurmukhi",
    "Hang": "Hangul",
    "Hani": "Han",
    "Hebr": "Hebrew",
    "Hira": "Hiragana",
    "Kana": "Katakana",
    "Khmr": "Khmer",
    "Knda": "Kannada",
    "Laoo": "Lao",
    "Latn": "Latin",
    "Mlym": "Malayalam",
    "Mymr": "Myanmar",
    "Orya": "Oriya",
    "Sinh": "Sinhala",
    "Taml": "Tamil",
    "Telu": "Telugu",
    "Thaa": "Thaana",
    "Thai": "Thai",
    "Tibt": "Tibetan",
}
_BY_LOWER_CASE = {known.lower(): name for code, name in _NAMES.items() for known in (code, name)}


def script_names(wanted: Iterable[str]) -> tuple[str, ...]:
    """Unicode's names of scripts, given by name or by ISO code in whatever case; each once, in the order given.

    Raises:
        ConfigError: what is no script in common use.
    """
    return tuple(dict.fromkeys(map(_name, wanted)))


def _name(wanted: str) -> str:
    if wanted.lower() not in _BY_LOWER_CASE:
        raise ConfigError(f"scripts: found {wanted!r}, expected some of {', '.join(sorted(_NAMES.values()))}")
    return _BY_LOWER_CASE[wanted.lower()]
