from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ner_service.errors import CallerError
from ner_service.text.offsets import OffsetConverter
from ner_service.types import OffsetUnit
from tests.strategies import texts

ENCODINGS: dict[OffsetUnit, tuple[str, int]] = {
    "codepoint": ("utf-32-le", 4),
    "utf16": ("utf-16-le", 2),
    "utf8": ("utf-8", 1),
}


@given(text=texts(), unit=st.sampled_from(list(ENCODINGS)))
def test_an_offset_is_the_length_of_the_encoded_prefix(text: str, unit: OffsetUnit) -> None:
    converter = OffsetConverter(text, unit)
    encoding, width = ENCODINGS[unit]
    for offset in range(len(text) + 1):
        converted = converter.from_codepoint(offset)
        assert converted == len(text[:offset].encode(encoding)) // width
        assert type(converted) is int


def test_known_values() -> None:
    text = "a北😀b"
    assert [OffsetConverter(text, "utf16").from_codepoint(offset) for offset in range(5)] == [0, 1, 2, 4, 5]
    assert [OffsetConverter(text, "utf8").from_codepoint(offset) for offset in range(5)] == [0, 1, 4, 8, 9]


@pytest.mark.parametrize("unit", list(ENCODINGS))
@pytest.mark.parametrize("text", ["ab", "北😀"])
def test_outside_the_text_is_refused(text: str, unit: OffsetUnit) -> None:
    converter = OffsetConverter(text, unit)
    for offset in (-1, 100):
        with pytest.raises(CallerError, match=f"found {offset}, expected 0 to"):
            converter.from_codepoint(offset)
