"""One truth: what was evaluated is what is served, alone, in batches, under load and out of a long text.

    python -m benchmarks.consistency BUNDLE DATA --texts 1000

Starts `ner-service serve` in a process of its own and asks it for the texts of an annotated file in several ways. Two
answers are the same when they have the same entities, with scores within `TOLERANCE`; an entity whose score is as near
to its threshold may stand in one of them alone. Knows nothing of speed.
"""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ner_service.errors import DataError, InferenceError, NerServiceError
from ner_service.formats import read_documents
from ner_service.recognizer import Recognizer
from ner_service.text.windows import merge
from ner_service.types import Document, Entity
from training.data.augmentation import join
from training.evaluation import Score
from training.evaluation import compare as score_answers

TOLERANCE = 1e-5
"""Of a probability, in fp32."""

LARGEST_LOSS = 0.01
"""How far the F1 of a long text may lie below that of its texts one by one."""

TEXTS_A_REQUEST = 64
NUM_CLIENTS = 32
MOST_TEXTS = 8
MOST_FAULTS = 20
LOG_LINES = 10

START_S = 300.0
REQUEST_S = 600.0

LEGEND = (
    f"batch: windows read together; difference: of scores, at most, {TOLERANCE:g} allowed; "
    "excepted: at their threshold, so on one side alone"
)

console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said of one text: its entities, or the code of its error."""

    entities: tuple[Entity, ...] = ()
    num_windows: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Replies:
    """All the answers that each text got, and the mean number of windows that the model read together."""

    answers: list[list[Answer]]
    windows_a_batch: float


@dataclass(slots=True)
class Comparison:
    """How replies stand to the answers expected.

    `num_excepted` counts the entities that one side has alone because their score is that of their threshold.
    """

    name: str
    windows_a_batch: float
    num_texts: int = 0
    num_entities: int = 0
    num_excepted: int = 0
    largest_difference: float = 0.0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All comparisons, and F1 of the texts one by one and of the long text made of them."""

    model: str
    model_sha256: str
    comparisons: list[Comparison]
    single: Score
    long: Score

    @property
    def faults(self) -> list[str]:
        """What is wrong, in words; nothing in a consistent service."""
        faults = [f"{comparison.name}: {fault}" for comparison in self.comparisons for fault in comparison.faults]
        if self.single.f1 - self.long.f1 > LARGEST_LOSS:
            faults.append(f"F1 of the long text: found {self.long.f1:.4f}, expected near {self.single.f1:.4f}")
        return faults

    def as_dict(self) -> dict[str, object]:
        return {
            "model": self.model,
            "model_sha256": self.model_sha256,
            "tolerance": TOLERANCE,
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "single_texts": self.single.as_dict(),
            "long_text": self.long.as_dict(),
            "consistent": not self.faults,
        }


# ---- asking


class Service:
    """A running `ner-service`, as its clients see it."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def ask(self, texts: Sequence[str], requests: Sequence[Sequence[int]], what: str, num_clients: int = 1) -> Replies:
        """Send requests, each the indices of its texts, `num_clients` at a time."""
        answers: list[list[Answer]] = [[] for _ in texts]
        batches_before, windows_before = self._counts()
        with ThreadPoolExecutor(num_clients) as clients:
            replies = clients.map(lambda request: self._extract([texts[index] for index in request]), requests)
            shown = track(
                replies, what, len(requests), console=console, transient=True, disable=not console.is_terminal
            )
            for request, results in zip(requests, shown, strict=True):
                in_order = [result["id"] for result in results] == [str(place) for place in range(len(request))]
                for result in results:
                    answers[request[int(result["id"])]].append(_served(result) if in_order else Answer(error="order"))
        batches, windows = self._counts()
        return Replies(answers, (windows - windows_before) / max(1.0, batches - batches_before))

    def _counts(self) -> tuple[float, float]:
        """How many batches the model has read, and how many windows in them."""
        figures = dict(re.findall(r"^ner_batch_sequences_(count|sum) (\S+)$", self._client.get("/metrics").text, re.M))
        return float(figures["count"]), float(figures["sum"])

    def _extract(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Results of one request, whose items are numbered."""
        inputs = [{"id": str(place), "text": text} for place, text in enumerate(texts)]
        reply = self._client.post("/v1/extract", json={"inputs": inputs})
        results: list[dict[str, Any]] = reply.raise_for_status().json()["results"]
        return results


@contextmanager
def running_service(bundle: Path) -> Iterator[Service]:
    """`ner-service serve` on a free port until the block ends; its other settings are those of the environment.

    Raises:
        InferenceError: it ended by itself or was not ready in time; says what its log says.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from ner_service.cli import app; app()"]
    command += ["serve", "--model", str(bundle), "--host", "127.0.0.1", "--port", str(port)]
    limits = httpx.Limits(max_connections=NUM_CLIENTS)
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stderr=log) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=REQUEST_S, limits=limits, trust_env=False) as client,
    ):
        try:
            patience = time.monotonic() + START_S
            while not _is_ready(client):
                if process.poll() is not None or time.monotonic() > patience:
                    log.seek(0)
                    raise InferenceError("the service did not start:\n" + "".join(log.readlines()[-LOG_LINES:]))
                time.sleep(0.1)
            yield Service(client)
        finally:
            process.terminate()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").is_success
    except httpx.ConnectError:
        return False


def _served(result: Mapping[str, Any]) -> Answer:
    if result["status"] == "error":
        return Answer(error=result["error"]["type"].rpartition(":")[2])
    entities = (Entity(each["start"], each["end"], each["label"], each["score"]) for each in result["entities"])
    return Answer(tuple(entities), result["windows"])


def evaluated(recognizer: Recognizer, texts: Sequence[str]) -> list[Answer]:
    """The recogniser's own answers, as an evaluation gets them."""
    return [
        Answer(error=answer.code)
        if isinstance(answer, NerServiceError)
        else Answer(answer.entities, answer.num_windows)
        for answer in recognizer.recognize(texts)
    ]


# ---- comparing


def compare(name: str, expected: Sequence[Answer], replies: Replies, thresholds: Mapping[str, float]) -> Comparison:
    """Compare the one answer that each text should have got with those that it got."""
    comparison = Comparison(name, replies.windows_a_batch)
    for index, (wanted, answers) in enumerate(zip(expected, replies.answers, strict=True)):
        comparison.num_texts += 1
        comparison.num_entities += len(wanted.entities)
        if len(answers) == 1:
            faults = list(_differences(wanted, answers[0], thresholds, comparison))
        else:
            faults = [f"found {len(answers)} answers, expected one"]
        comparison.faults += [f"text {index}: {fault}" for fault in faults]
    return comparison


def _differences(
    expected: Answer, found: Answer, thresholds: Mapping[str, float], comparison: Comparison
) -> Iterator[str]:
    """What is not the same, in words; `comparison` takes down what is within the tolerance."""
    if (expected.error, expected.num_windows) != (found.error, found.num_windows):
        seen, due = (answer.error or f"{answer.num_windows} windows" for answer in (found, expected))
        yield f"found {seen}, expected {due}"
    wanted, present = ({entity: entity for entity in answer.entities} for answer in (expected, found))
    for entity in sorted(wanted.keys() | present.keys(), key=lambda entity: entity.key):
        scores = [side[entity].score or 0.0 for side in (wanted, present) if entity in side]
        if len(scores) == 2:
            difference = abs(scores[0] - scores[1])
            comparison.largest_difference = max(comparison.largest_difference, difference)
            if difference > TOLERANCE:
                yield f"{_shown(entity)}: found score {scores[1]:.6f}, expected {scores[0]:.6f}"
        elif abs(scores[0] - thresholds[entity.label]) <= TOLERANCE:
            comparison.num_excepted += 1
        else:
            yield f"{_shown(entity)}: {'missing' if entity in wanted else 'not expected'}, score {scores[0]:.6f}"


def _shown(entity: Entity) -> str:
    return f"{entity.label} [{entity.start}, {entity.end})"


# ---- the ways of asking


def requests_of(size: int, num_texts: int) -> list[list[int]]:
    """Every text once, in order, in requests of one size."""
    return [list(range(first, min(first + size, num_texts))) for first in range(0, num_texts, size)]


def random_requests(num_texts: int, generator: random.Random) -> list[list[int]]:
    """Every text once, in any order, in requests of 1 to `MOST_TEXTS`."""
    order = iter(generator.sample(range(num_texts), num_texts))
    requests = []
    while request := list(islice(order, generator.randint(1, MOST_TEXTS))):
        requests.append(request)
    return requests


def merged_windows(recognizer: Recognizer, service: Service, text: str) -> Answer:
    """The answer to a text that the rule makes of its windows, each sent alone; an error of theirs is its error."""
    windows = recognizer.encode(text)
    pieces = [text[window.start : window.end] for window in windows]
    replies = service.ask(pieces, requests_of(1, len(pieces)), "windows alone")
    answers = [answer for (answer,) in replies.answers]
    error = next((answer.error for answer in answers if answer.error), None)
    if error is not None:
        return Answer(error=error)
    entities = merge([(window, answer.entities) for window, answer in zip(windows, answers, strict=True)])
    return Answer(tuple(entities), sum(answer.num_windows for answer in answers))


def measure(recognizer: Recognizer, service: Service, documents: Sequence[Document]) -> Report:
    """Ask in every way and compare."""
    texts = [document.text for document in documents]
    thresholds = recognizer.manifest.thresholds
    expected = evaluated(recognizer, texts)
    alone = service.ask(texts, requests_of(1, len(texts)), "texts alone")
    batched = service.ask(texts, requests_of(TEXTS_A_REQUEST, len(texts)), "texts together")
    scattered = random_requests(len(texts), random.Random(0))
    concurrent = service.ask(texts, scattered, "many clients", NUM_CLIENTS)
    whole = join(documents)
    long = service.ask([whole.text], [[0]], "long text")
    merged = merged_windows(recognizer, service, whole.text)
    return Report(
        model=recognizer.manifest.name,
        model_sha256=recognizer.manifest.files["model.safetensors"].sha256,
        comparisons=[
            compare("alone", expected, alone, thresholds),
            compare(f"{TEXTS_A_REQUEST} a request", expected, batched, thresholds),
            compare(f"{NUM_CLIENTS} clients, 1 to {MOST_TEXTS} each", expected, concurrent, thresholds),
            compare("long text, by windows", [merged], long, thresholds),
        ],
        single=score(documents, alone),
        long=score([whole], long),
    )


def score(documents: Sequence[Document], replies: Replies) -> Score:
    """Strict micro F1 of first answers; an error has no entity."""
    found = [answers[0].entities if answers and not answers[0].error else None for answers in replies.answers]
    return score_answers(documents, found).micro


# ---- the command


def main(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    data: Annotated[Path, typer.Argument(help="Annotated documents, of any format that `ner-train` reads.")],
    texts: Annotated[int, typer.Option(min=1, help="How many documents, from the first.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show that a bundle's served answers are its evaluated ones, however they are asked for; exit code 1 if not."""
    try:
        documents = _read(data, texts)
        recognizer = Recognizer.load(bundle)
        with running_service(bundle) as service:
            report = measure(recognizer, service, documents)
    except NerServiceError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if as_json:
        print(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
    else:
        _print(report)
    for fault in report.faults[:MOST_FAULTS]:
        console.print(fault, style="red", markup=False, soft_wrap=True)
    raise typer.Exit(1 if report.faults else 0)


def _read(data: Path, num_texts: int) -> list[Document]:
    documents = list(islice(read_documents(data), num_texts))
    if any(document.annotated is not None for document in documents):
        raise DataError(data, None, "found documents annotated for some labels, expected all: F1 would say nothing")
    return documents


def _print(report: Report) -> None:
    answers = Table(title=f"Answers of {report.model}", caption=LEGEND)
    answers.add_column("asked")
    for column in ("texts", "entities", "batch", "difference", "excepted", "faults"):
        answers.add_column(column, justify="right")
    for each in report.comparisons:
        counts = (each.num_texts, each.num_entities, f"{each.windows_a_batch:.1f}", f"{each.largest_difference:.1e}")
        answers.add_row(each.name, *map(str, counts), str(each.num_excepted), str(len(each.faults)))
    scores = Table(title="F1 of served answers")
    for column in ("", "precision", "recall", "F1"):
        scores.add_column(column, justify="right" if column else "left")
    for name, found in (("texts one by one", report.single), ("one long text of them", report.long)):
        scores.add_row(name, f"{found.precision:.4f}", f"{found.recall:.4f}", f"{found.f1:.4f}")
    Console().print(answers, scores)


if __name__ == "__main__":
    typer.run(main)
