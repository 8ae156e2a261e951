"""Results in a file, one a line: going on where an interrupted command stopped. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ner_service.formats.checks import parse_json
from ner_service.formats.inputs import Input
from ner_service.formats.lines import Line


def pass_answered(inputs: Iterator[Input], results: Path) -> None:
    """Pass over the inputs that a file has results of, and cut off what it has of an unfinished line.

    Raises:
        DataError: a line is no result, or its id is not that of the input in its place: the inputs have changed.
    """
    size = 0
    with results.open("rb+") as file:
        for number, content in enumerate(file, start=1):
            if not content.endswith(b"\n"):
                break
            _compare(Line(results, number, content.decode("utf-8", "replace")), next(inputs, None))
            size += len(content)
        file.truncate(size)


def _compare(line: Line, item: Input | None) -> None:
    result = parse_json(line, dict)
    if not {"id", "status"} <= result.keys():
        raise line.error("found no id and status, expected a result to go on after")
    if item is None:
        raise line.error(f"found the result of {result['id']!r}, expected none: there are fewer inputs")
    if item.id != result["id"]:
        raise line.error(f"found the result of {result['id']!r}, expected that of {item.id!r}: the inputs have changed")
