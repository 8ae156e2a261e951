"""What both command lines say on standard error, and how a refusal ends them. Knows no verb."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

from ner_service.errors import ConfigError, NerServiceError

console = Console(stderr=True)


@contextmanager
def refusals() -> Iterator[None]:
    """A fault of the caller's is a message and exit code 1, never a stack trace."""
    try:
        yield
    except NerServiceError as error:
        say(f"error: {error}", style="red")
        raise typer.Exit(1) from error
    except BrokenPipeError:
        raise  # the reader of our results has had enough: typer ends quietly
    except OSError as error:
        say(f"error: {error.filename}: {error.strerror}", style="red")
        raise typer.Exit(1) from error


def check_output(output: Path, inputs: Iterable[Path]) -> None:
    """Whether a file may be written while the inputs are read.

    Raises:
        ConfigError: it is one of them, under this name or another.
    """
    target = output.resolve()
    if target.is_file() and any(path.exists() and target.samefile(path) for path in inputs):
        raise ConfigError(f"--output: found {output}, which is read as well; expected another file")


def say(message: str, style: str = "") -> None:
    """A line on standard error, never wrapped: paths in it are to be copied."""
    console.print(message, style=style, markup=False, highlight=False, soft_wrap=True)
