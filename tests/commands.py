"""`ner-service` as a user calls it, in this process."""

from __future__ import annotations

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
