"""JSON as bytes, both ways. Knows no schema.

Python's parser, for it lets an escaped lone surrogate pass (it is JSON, though not Unicode), so that it can be the
fault of one text; in a key, which replies point to, it is the body's. It also knows NaN and Infinity, which JSON does
not have: each becomes a `Constant`, which is of no type that a field may have, so that it can be the fault of one page.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic_core import to_json

from ner_service.errors import CallerError
from ner_service.records import DoubledKeyError, json_object
from ner_service.types import lone_surrogate


class InvalidJsonError(CallerError):
    """Bytes that are not JSON in UTF-8."""

    code = "invalid_json"


@dataclass(frozen=True, slots=True)
class Constant:
    """What stands for a number and is none: `name` is NaN, Infinity or -Infinity."""

    name: str


def parse_json(body: bytes) -> object:
    """The value of a body; a byte order mark is skipped.

    Raises:
        InvalidJsonError: not UTF-8, not JSON, nested too deeply, a number beyond all use, or a key that stands twice or
            has a lone surrogate.
    """
    try:
        return json.loads(
            body.decode("utf-8-sig"),
            parse_int=_whole,
            parse_float=_decimal,
            parse_constant=Constant,
            object_pairs_hook=_object,
        )
    except UnicodeDecodeError as error:
        raise InvalidJsonError(f"the body is not UTF-8 at byte {error.start}") from None
    except DoubledKeyError as error:
        raise InvalidJsonError(str(error)) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidJsonError(f"the body is not JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise InvalidJsonError("the body is nested too deeply") from None
    except ValueError:
        raise InvalidJsonError("the body has a number of too many digits") from None


# Python code, however little: the parser itself never lets another thread in, and a long body is mostly numbers.
def _whole(digits: str) -> int:
    return int(digits)


def _decimal(digits: str) -> float:
    return float(digits)


def json_bytes(value: object) -> bytes:
    """A value as JSON. Its strings are Unicode."""
    return to_json(value)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = json_object(pairs)
    for key in value:
        if found := lone_surrogate(key):
            raise InvalidJsonError(f"the key {key!r} has {found}, expected Unicode")
    return value
