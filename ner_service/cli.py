"""ner-service: serve, recognize, inspect. Exit codes: 0; 1, refused or some texts without an answer; 2, usage."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ner_service.bundle import Bundle
from ner_service.bundle.card import model_card
from ner_service.bundle.manifest import dump_manifest
from ner_service.errors import ConfigError, DataError, NerServiceError, writing
from ner_service.formats.inputs import Input, check_inputs, read_inputs
from ner_service.formats.results import pass_answered
from ner_service.recognizer import Recognizer
from ner_service.replies import page_result, text_result
from ner_service.terminal import check_output, console, refusals, say
from ner_service.text.reading_order import OrderedPage, ordered
from ner_service.types import OffsetUnit, OverlapPolicy, Page, Recognition, RecognizeOptions

app = typer.Typer(
    help="Recognise named entities, nested and scored.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

TEXTS_AT_ONCE = 64

Model = Annotated[Path, typer.Option("--model", "-m", help="Folder of the bundle.")]


@app.command()
def serve(
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Folder of the bundle; else NER_MODEL.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; else NER_HOST or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; else NER_PORT or 8000.")] = None,
) -> None:
    """Serve a bundle over HTTP until SIGTERM. Every other setting is a variable NER_..., see docs/serving.md."""
    with refusals():
        try:
            from pydantic import ValidationError

            from ner_service.serving.server import serve as run_server
            from ner_service.serving.settings import Settings
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"serve: found no {error.name}, expected the extra: pip install 'ner-service[serve]'"
            ) from None
        given: dict[str, Any] = {"model": model, "host": host, "port": port}
        try:
            settings = Settings(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            raise ConfigError(
                "; ".join(_setting_fault(str(f["loc"][0]), f["msg"], given) for f in error.errors())
            ) from None
        run_server(settings)


@app.command()
def recognize(
    model: Model,
    files: Annotated[
        list[Path] | None, typer.Argument(help="Texts, JSON, JSON Lines, pages; else standard input.")
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Every line of a text file is a text.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File for the results.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the results that --output holds.")] = False,
    label: Annotated[list[str] | None, typer.Option(help="Only this label; may be repeated.")] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Probability a score must exceed.")] = None,
    overlap: Annotated[OverlapPolicy, typer.Option(help="Which overlapping entities to keep.")] = "all",
    offset_unit: Annotated[OffsetUnit, typer.Option(help="What offsets count.")] = "codepoint",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the model runs.")] = "auto",
) -> None:
    """Recognise the entities of texts and pages; one JSON result a line, in their order."""
    with refusals():
        if resume and output is None:
            raise ConfigError("--resume: found no --output, expected the file to go on with")
        check_inputs(files or [])
        if output is not None:
            check_output(output, files or [])
        recognizer = Recognizer.load(model, device)
        options = RecognizeOptions(labels=frozenset(label) if label else None, threshold=threshold, overlap=overlap)
        recognizer.cutoffs(options)  # an unknown label is refused before the results file is touched
        inputs = read_inputs(files or [], lines=lines)
        if resume and output is not None and output.exists():
            pass_answered(inputs, output)
        with _results_file(output, append=resume) as file:
            results = _results(recognizer, inputs, options, offset_unit)
            failed = sum(_write(result, file) for result in _shown(results, quiet=output is None))
        if failed:
            say(f"{failed} without an answer; the results say why")
            raise typer.Exit(1)


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest instead of the model card.")] = False,
) -> None:
    """Verify a bundle, every file by its digest, and show what it is."""
    with refusals():
        manifest = Bundle.load(bundle).manifest
        if as_json:
            print(dump_manifest(manifest), end="")
        else:
            Console().print(Markdown(model_card(manifest)))


def _setting_fault(name: str, message: str, options: Mapping[str, object]) -> str:
    option = f"--{name} or " if name in options else ""
    return f"{option}NER_{name.upper()}: {message}"


def _results(
    recognizer: Recognizer, inputs: Iterator[Input], options: RecognizeOptions, unit: OffsetUnit
) -> Iterator[Mapping[str, object]]:
    while chunk := list(islice(inputs, TEXTS_AT_ONCE)):
        contents = [_as_read(item) for item in chunk]
        sent = [_sent(content) for content in contents if not isinstance(content, DataError)]
        answers = iter(recognizer.recognize(sent, options))
        for item, content in zip(chunk, contents, strict=True):
            if isinstance(content, DataError):
                yield _fault(item, content)
            else:
                yield _answer(item, content, next(answers), unit)


def _as_read(item: Input) -> str | OrderedPage | DataError:
    return ordered(item.content, item.order) if isinstance(item.content, Page) else item.content


def _sent(content: str | OrderedPage) -> str | Page:
    return content if isinstance(content, str) else content.page


def _answer(
    item: Input, content: str | OrderedPage, answer: Recognition | NerServiceError, unit: OffsetUnit
) -> Mapping[str, object]:
    if isinstance(answer, NerServiceError):
        return _fault(item, answer)
    if isinstance(content, str):
        return text_result(item.id, content, answer.num_windows, answer.entities, unit)
    return page_result(item.id, content, answer.num_windows, answer.entities)


def _fault(item: Input, error: NerServiceError) -> Mapping[str, object]:
    return {"id": item.id, "status": "error", "error": {"code": error.code, "detail": str(error)}}


def _shown(results: Iterator[Mapping[str, object]], *, quiet: bool) -> Iterator[Mapping[str, object]]:
    """Pass results on, with a bar on a terminal; how many there will be is not known."""
    columns = (BarColumn(), TextColumn("{task.completed:,.0f} texts"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        yield from bar.track(results)


def _write(result: Mapping[str, object], file: TextIO) -> bool:
    """Write one result; whether it is an error."""
    file.write(json.dumps(result, ensure_ascii=False) + "\n")
    file.flush()
    return result["status"] == "error"


@contextmanager
def _results_file(path: Path | None, *, append: bool) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    with writing(path), path.open("a" if append else "w", encoding="utf-8") as file:
        yield file
