"""Frozen dataclasses from and to plain JSON or TOML values: every key typed, unknown keys refused.

Knows no particular record. Supported: dataclasses, str, int, float, bool, None, Literal, `X | Y`, tuple[X, ...],
frozenset[X], Mapping[str, X], and unions of dataclasses told apart by a `kind` field with a Literal default.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ner_service.errors import ConfigError

T = TypeVar("T")


def structure(kind: type[T], value: object, where: str = "") -> T:
    """Build `kind` from plain values.

    Raises:
        ConfigError: names the key, what was found and what was expected.
    """
    return _structure(kind, value, where)  # type: ignore[no-any-return]


def unstructure(value: object) -> Any:
    """The plain JSON value of a record; the inverse of `structure`. None fields are left out, TOML has no null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: unstructure(item) for name, item in items if item is not None}
    if isinstance(value, Mapping):
        return {str(key): unstructure(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(unstructure(item) for item in value)
    if isinstance(value, tuple | list):
        return [unstructure(item) for item in value]
    return value


class DoubledKeyError(ValueError):
    """An object of JSON with a key that stands twice: one of its values would be lost."""


def json_object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """What Python's JSON parser makes of an object, as its `object_pairs_hook`.

    Raises:
        DoubledKeyError: a key stands twice.
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise DoubledKeyError(f"the key {twice!r} stands twice in one object")
    return value


def _structure(kind: Any, value: object, where: str) -> Any:
    origin = get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _structure_record(kind, value, where)
    if origin in (Union, types.UnionType):
        return _structure_union(get_args(kind), value, where)
    if origin is Literal:
        if value in get_args(kind):
            return value
        raise _mismatch(where, value, " or ".join(repr(option) for option in get_args(kind)))
    if origin in (tuple, frozenset):
        if not isinstance(value, list | tuple):
            raise _mismatch(where, value, "a list")
        item_kind = get_args(kind)[0]
        return origin(_structure(item_kind, item, f"{where}[{index}]") for index, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _mismatch(where, value, "a table")
        return {str(key): _structure(get_args(kind)[1], item, _join(where, str(key))) for key, item in value.items()}
    return _structure_scalar(kind, value, where)


def _structure_scalar(kind: Any, value: object, where: str) -> Any:
    if kind is object:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is type(None) and value is None:
        return None
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    raise _mismatch(where, value, names.get(kind, getattr(kind, "__name__", str(kind))))


def _structure_record(kind: Any, value: object, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _mismatch(where, value, "a table")
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for key in value:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            of_kind = f" of kind {value['kind']!r}" if "kind" in fields and "kind" in value else ""
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}"
            raise ConfigError(f"{_join(where, str(key))}: unknown key{of_kind}; {hint}")
    hints = get_type_hints(kind)
    arguments = {key: _structure(hints[key], item, _join(where, key)) for key, item in value.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in arguments:
            raise ConfigError(f"{_join(where, name)}: missing")
    try:
        return kind(**arguments)
    except ValueError as error:
        raise ConfigError(f"{where or kind.__name__}: {error}") from error


def _structure_union(options: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    records = [option for option in options if dataclasses.is_dataclass(option)]
    if records and isinstance(value, Mapping):
        return _structure_record(_choose(records, value, where), value, where)
    others = [option for option in options if option is not type(None) and option not in records]
    for option in others[:-1]:
        try:
            return _structure(option, value, where)
        except ConfigError:
            continue
    return _structure((others or records)[-1], value, where)


def _choose(records: list[Any], value: Mapping[Any, Any], where: str) -> Any:
    if len(records) == 1:
        return records[0]
    kinds = {next(f.default for f in dataclasses.fields(record) if f.name == "kind"): record for record in records}
    if value.get("kind") not in kinds:
        raise _mismatch(_join(where, "kind"), value.get("kind"), " or ".join(repr(kind) for kind in kinds))
    return kinds[value["kind"]]


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _mismatch(where: str, value: object, expected: str) -> ConfigError:
    return ConfigError(f"{where or 'value'}: found {value!r}, expected {expected}")
