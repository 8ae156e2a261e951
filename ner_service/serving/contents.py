"""An item of a request -> what the model reads: a text, or a page with its words in the order of reading.

Here the words, boxes and size of a page are checked to be what they should be; whether they make a page, `Page` knows.
Knows no web and no model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import NoneType

from ner_service.errors import InvalidPageError, TextTooLongError
from ner_service.serving.items import PageItem
from ner_service.serving.json_text import Constant
from ner_service.text.reading_order import OrderedPage, ordered
from ner_service.types import CORNERS, SIDES, Page

_KINDS: dict[type, str] = {
    NoneType: "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}

Content = str | OrderedPage


def ordered_page(item: PageItem, max_words: int) -> OrderedPage:
    """The page of an item.

    Raises:
        InvalidPageError: names what is wrong and where.
        TextTooLongError: more than `max_words` words.
    """
    words = _items(item.words, "words")
    _check_count(words, max_words)
    page = Page(
        tuple(_word(index, word) for index, word in enumerate(words)),
        tuple(_box(index, box) for index, box in enumerate(_items(item.boxes, "boxes"))),
        _size(item.page),
    )
    return ordered(page, item.order)


def page_of_image(page: Page, max_words: int) -> OrderedPage:
    """What was read from an image; its words are numbered in the order of reading, for the client has not seen them.

    Raises:
        TextTooLongError: more than `max_words` words.
    """
    _check_count(page.words, max_words)
    return ordered(ordered(page, "reading").page, "given")


def _check_count(words: Sequence[object], max_words: int) -> None:
    if len(words) > max_words:
        raise TextTooLongError(f"found {len(words)} words, expected at most {max_words}")


def _items(value: object, name: str) -> list[object]:
    if not isinstance(value, list):
        raise InvalidPageError(name, f"found {_shown(value)}, expected a list of {name}")
    return value


def _word(index: int, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidPageError(f"words/{index}", f"word {index}: found {_shown(value)}, expected a string")
    return value


def _box(index: int, value: object) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = _numbers(value, f"boxes/{index}", f"box of word {index}: ", CORNERS)
    return x0, y0, x1, y1


def _size(value: object) -> tuple[float, float]:
    width, height = _numbers(value, "page", "", SIDES)
    return width, height


def _numbers(value: object, pointer: str, where: str, names: Sequence[str]) -> list[float]:
    """A number for each name, as the client wrote it."""
    expected = f"expected {len(names)} numbers: {', '.join(names)}"
    if not isinstance(value, list):
        raise InvalidPageError(pointer, f"{where}found {_shown(value)}, {expected}")
    if len(value) != len(names):
        raise InvalidPageError(pointer, f"{where}found {len(value)} items, {expected}")
    for place, (number, name) in enumerate(zip(value, names, strict=True)):
        if isinstance(number, bool) or not isinstance(number, int | float):
            found = f"found {name} = {_shown(number)}, expected a number"
            raise InvalidPageError(f"{pointer}/{place}", f"{where}{found}")
        # Compared as it is: a whole number of hundreds of digits is no float.
        if abs(number) > sys.float_info.max:
            raise InvalidPageError(f"{pointer}/{place}", f"{where}found an endless {name}, expected a finite number")
    return value


def _shown(value: object) -> str:
    """What kind of JSON value it is; a string is not quoted, for it may be text."""
    return value.name if isinstance(value, Constant) else _KINDS[type(value)]
