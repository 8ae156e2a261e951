"""`ner-service` as a user calls it, in this process; and a disk that is full."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from ner_service.cli import app


def invoke(*arguments: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def refusal(*arguments: object, stdin: str | bytes | None = None) -> str:
    """What a refused command says: one line on standard error, exit code 1, no trace."""
    result = invoke(*arguments, stdin=stdin)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert "\x1b" not in line
    return line.removeprefix("error: ")


def results(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def spans(result: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(entity["start"], entity["end"], entity["label"]) for entity in result["entities"]]


def write_json_lines(path: Path, texts: Sequence[str]) -> Path:
    lines = [json.dumps({"id": f"t{number}", "text": text}) for number, text in enumerate(texts)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@contextmanager
def files_end_at(num_bytes: int) -> Iterator[None]:
    """Writing fails where a file would grow longer, as on a disk that is full: the error is as nameless."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
