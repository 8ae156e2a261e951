"""What a request sends to be read: texts, pages and images, each with a name of the client's own. Knows no model.

The words, boxes and size of a page are taken as they come: a fault of theirs is the item's own, found by `contents`.
What is wrong around them (a missing or unknown field, an id that is no string of Unicode) is the request's.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError

from ner_service.types import MAX_LENGTH, PageOrder, lone_surrogate


def _check_unicode(value: str) -> str:
    if lone_surrogate(value):
        raise PydanticCustomError("unicode", "Input should be Unicode, without a lone surrogate")
    return value


Id = Annotated[str, AfterValidator(_check_unicode)]

# Pydantic puts these into the place of a fault; they are no part of the body.
_TEXT, _TEXT_ITEM, _PAGE_ITEM, _IMAGE_ITEM, _LIST = "<text>", "<text item>", "<page>", "<image>", "<list>"
TAGS = frozenset((_TEXT, _TEXT_ITEM, _PAGE_ITEM, _IMAGE_ITEM, _LIST))


class Strict(BaseModel):
    """A part of a request: nothing is converted, and an unknown field is a fault."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextItem(Strict):
    """A text with a name of the client's own, which the reply repeats."""

    text: str
    id: Id | None = None


_NUMBER = {"type": "number", "minimum": 0}
_WORDS = {"type": "array", "items": {"type": "string", "minLength": 1}}
_BOXES = {"type": "array", "items": {"type": "array", "items": _NUMBER, "minItems": 4, "maxItems": 4}}
_SIDE = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_LENGTH}
_SIZE = {"type": "array", "items": _SIDE, "minItems": 2, "maxItems": 2}


class PageItem(Strict):
    """A page: its words, and where they stand. Any unit of length, counted from the upper left corner."""

    words: Annotated[Any, WithJsonSchema(_WORDS)] = Field(description="The words, none empty, no white space around.")
    boxes: Annotated[Any, WithJsonSchema(_BOXES)] = Field(description="For each word its x0, y0, x1, y1.")
    page: Annotated[Any, WithJsonSchema(_SIZE)] = Field(description="Width and height of the page.")
    order: PageOrder = Field(
        default="reading",
        description="reading: the words are read in the order that their boxes tell. given: as they come.",
    )
    id: Id | None = None


class ImageItem(Strict):
    """An image of a page, PNG or JPEG, whose words the service reads itself; where that is switched on."""

    image: str = Field(description="The file's bytes in base64.")
    id: Id | None = None


Item = TextItem | PageItem | ImageItem


def _kind(value: object) -> str | None:
    match value:
        case str():
            return _TEXT
        case ImageItem() | {"image": _}:
            return _IMAGE_ITEM
        case PageItem() | {"words": _} | {"boxes": _} | {"page": _}:
            return _PAGE_ITEM
        case TextItem() | dict():
            return _TEXT_ITEM
        case list():
            return _LIST
        case _:
            return None


def _kind_of_text(value: object) -> str | None:
    kind = _kind(value)
    return None if kind in (_PAGE_ITEM, _IMAGE_ITEM) else kind


_Text = Annotated[str, Tag(_TEXT)] | Annotated[TextItem, Tag(_TEXT_ITEM)]
_Content = _Text | Annotated[PageItem, Tag(_PAGE_ITEM)] | Annotated[ImageItem, Tag(_IMAGE_ITEM)]

TextInput = Annotated[
    _Text,
    Discriminator(
        _kind_of_text, custom_error_type="input", custom_error_message="Input should be a text or an object with a text"
    ),
]
TextInputs = Annotated[
    _Text | Annotated[list[TextInput], Tag(_LIST)],
    Discriminator(
        _kind_of_text,
        custom_error_type="inputs",
        custom_error_message="Input should be a text, an object with a text, or a list of them",
    ),
]
Input = Annotated[
    _Content,
    Discriminator(
        _kind,
        custom_error_type="input",
        custom_error_message="Input should be a text, or an object with a text, a page or an image",
    ),
]
Inputs = Annotated[
    _Content | Annotated[list[Input], Tag(_LIST)],
    Discriminator(
        _kind,
        custom_error_type="inputs",
        custom_error_message="Input should be a text, an object with a text, a page or an image, or a list of them",
    ),
]


def text_item(given: str | TextItem) -> TextItem:
    """A text as an item; one that came alone has no id."""
    return TextItem.model_construct(text=given, id=None) if isinstance(given, str) else given


def item(given: str | Item) -> Item:
    """Whatever came, as an item."""
    return text_item(given) if isinstance(given, str) else given
