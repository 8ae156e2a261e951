"""`ner-train` as a user calls it, in this process."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from training.cli import app


def invoke(*arguments: object) -> Result:
    """Run a command on a screen 100 columns wide."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "100"})


def refusal(*arguments: object) -> str:
    """What a refused command says: one line on standard error, exit code 1, no trace."""
    result = invoke(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")
