"""Rewrites the golden files; `make golden`. Read the difference before you commit it: it is what users see change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rich.text import Text
from typer import Typer
from typer.testing import CliRunner

from ner_service import cli as service
from ner_service.serving.app import build_app
from ner_service.serving.metrics import Metrics
from ner_service.serving.registry import Registry, ServedModel
from ner_service.serving.settings import Settings
from tests.serving.fakes import FakeRecognizer
from training import cli as training

OPENAPI = Path(__file__).parent / "serving" / "golden" / "openapi.json"


def openapi() -> str:
    """The OpenAPI document as the golden file holds it; it does not depend on the model."""
    settings, metrics = Settings(model=Path("unused")), Metrics()
    model = ServedModel(FakeRecognizer(), settings=settings, metrics=metrics, on_death=lambda: None)
    document = build_app(settings, Registry(model), metrics).openapi()
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


PROGRAMS = {"ner-service": service.app, "ner-train": training.app}
HELP = Path(__file__).parent / "golden"


def help_of(program: str) -> str:
    """`--help` of a program and of each of its verbs, 100 columns wide, without colours."""
    app = PROGRAMS[program]
    pages = []
    for verb in ((), *verbs_of(app)):
        result = CliRunner().invoke(app, [*verb, "--help"], prog_name=program, env={"COLUMNS": "100"})
        lines = [line.rstrip() for line in Text.from_ansi(result.stdout).plain.splitlines()]
        pages.append("\n".join([" ".join(["$", program, *verb, "--help"]), *lines]))
    return "\n".join(pages) + "\n"


def verbs_of(app: Typer) -> Iterator[tuple[str, ...]]:
    """The words that name each verb, those of groups among them."""
    for command in app.registered_commands:
        yield (command.name or getattr(command.callback, "__name__", ""),)
    for group in app.registered_groups:
        assert group.name is not None
        assert group.typer_instance is not None
        yield (group.name,)
        yield from ((group.name, *verb) for verb in verbs_of(group.typer_instance))


if __name__ == "__main__":
    OPENAPI.write_text(openapi(), encoding="utf-8")
    for program in PROGRAMS:
        (HELP / f"{program}.txt").write_text(help_of(program), encoding="utf-8")
