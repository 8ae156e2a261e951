from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner, Result

from benchmarks.consistency import (
    MOST_TEXTS,
    Answer,
    Comparison,
    Replies,
    Report,
    Service,
    compare,
    evaluated,
    main,
    measure,
    merged_windows,
    random_requests,
    requests_of,
    running_service,
)
from ner_service.bundle import Bundle
from ner_service.errors import InferenceError
from ner_service.formats import write_documents
from ner_service.recognizer import Recognizer
from ner_service.types import Document, Entity
from training.evaluation import Score

THRESHOLDS = {"PER": 0.5, "LOC": 0.8}
SENTENCES = (
    "Ada Lovelace opened a new laboratory in London.",
    "韩梅梅去了上海市第一人民医院读书。",
    "",
    "Charles 王医生 wrote 😀 to the University of Manchester in May, and Babbage went to 广州 and back to 北京大学。",
    "李雷在北京。",
)


def found(start: int, end: int, score: float, label: str = "PER") -> Entity:
    return Entity(start, end, label, score)


def answer(*entities: Entity, num_windows: int = 1) -> Answer:
    return Answer(entities, num_windows)


def compared(expected: Answer, *answers: Answer) -> Comparison:
    return compare("way", [expected], Replies([list(answers)], 1.0), THRESHOLDS)


# ---- comparing


def test_same_answers_have_no_fault() -> None:
    comparison = compared(
        answer(found(0, 2, 0.9), found(0, 2, 0.9, "LOC")), answer(found(0, 2, 0.900009), found(0, 2, 0.9, "LOC"))
    )
    assert comparison.faults == []
    assert comparison.num_entities == 2
    assert comparison.largest_difference == pytest.approx(9e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        (answer(), "text 0: PER [0, 2): missing, score 0.900000"),
        (answer(found(0, 2, 0.90002)), "text 0: PER [0, 2): found score 0.900020, expected 0.900000"),
        (answer(found(0, 2, 0.9), found(1, 2, 0.7)), "text 0: PER [1, 2): not expected, score 0.700000"),
        (answer(found(0, 2, 0.9), num_windows=2), "text 0: found 2 windows, expected 1 windows"),
        (
            dataclasses.replace(answer(found(0, 2, 0.9)), error="inference_failed"),
            "text 0: found inference_failed, expected 1 windows",
        ),
    ],
)
def test_what_differs_is_a_fault(other: Answer, fault: str) -> None:
    assert compared(answer(found(0, 2, 0.9)), other).faults == [fault]


@pytest.mark.parametrize(
    "sides", [(answer(found(0, 2, 0.800009, "LOC")), answer()), (answer(), answer(found(0, 2, 0.800009, "LOC")))]
)
def test_an_entity_at_the_threshold_of_its_label_is_excepted(sides: tuple[Answer, Answer]) -> None:
    comparison = compared(*sides)
    assert (comparison.num_excepted, comparison.faults) == (1, [])


def test_the_same_error_is_the_same_answer() -> None:
    assert compared(Answer(error="too_many_candidates"), Answer(error="too_many_candidates")).faults == []


@pytest.mark.parametrize("answers", [(), (answer(), answer())])
def test_every_text_has_one_answer(answers: Sequence[Answer]) -> None:
    assert compared(answer(), *answers).faults == [f"text 0: found {len(answers)} answers, expected one"]


@pytest.mark.parametrize(("right", "num_faults"), [(991, 0), (989, 1)])
def test_f1_of_the_long_text_may_be_a_point_lower(right: int, num_faults: int) -> None:
    report = Report(
        model="m", model_sha256="", comparisons=[], single=Score(1000, 1000, 1000), long=Score(1000, 1000, right)
    )
    assert len(report.faults) == num_faults


# ---- asking


@pytest.mark.parametrize(
    "requests", [requests_of(1, 50), requests_of(64, 50), requests_of(7, 50), random_requests(50, random.Random(1))]
)
def test_requests_hold_every_text_once(requests: list[list[int]]) -> None:
    assert sorted(index for request in requests for index in request) == list(range(50))


def test_random_requests_are_of_many_sizes() -> None:
    sizes = {len(request) for request in random_requests(200, random.Random(1))}
    assert sizes == set(range(1, MOST_TEXTS + 1))


# ---- a real service


@pytest.fixture(scope="module")
def recognizer(tiny_bundle_folder: Path) -> Recognizer:
    return Recognizer.load(tiny_bundle_folder, "cpu")


@pytest.fixture(scope="module")
def service(tiny_bundle_folder: Path) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NER_NUM_THREADS", "1")
        with running_service(tiny_bundle_folder) as service:
            yield service


@pytest.fixture(scope="module")
def documents(recognizer: Recognizer) -> list[Document]:
    """Texts whose gold is what the model finds: F1 of the texts one by one is 1."""
    answers = evaluated(recognizer, SENTENCES)
    return [Document(text, each.entities) for text, each in zip(SENTENCES, answers, strict=True)]


def test_a_service_is_consistent(recognizer: Recognizer, service: Service, documents: list[Document]) -> None:
    report = measure(recognizer, service, documents * 5)
    assert [fault for comparison in report.comparisons for fault in comparison.faults] == []
    assert [comparison.num_texts for comparison in report.comparisons] == [25, 25, 25, 1]
    assert all(comparison.num_entities > 50 for comparison in report.comparisons)
    assert report.comparisons[0].windows_a_batch < report.comparisons[1].windows_a_batch
    assert report.single.f1 == 1.0


def test_another_model_is_found_out(tiny_bundle: Bundle, service: Service) -> None:
    """The must-fail twin: scores a hundredth of a logit apart are not those that are served."""
    terms = tiny_bundle.weights["spans.terms.bias"] + 0.01
    other = dataclasses.replace(tiny_bundle, weights={**tiny_bundle.weights, "spans.terms.bias": terms})
    expected = evaluated(Recognizer(other, torch.device("cpu")), SENTENCES)
    replies = service.ask(SENTENCES, requests_of(1, len(SENTENCES)), "")
    assert compare("way", expected, replies, dict.fromkeys(tiny_bundle.manifest.labels, 0.5)).faults


def test_windows_merged_without_their_places_are_found_out(recognizer: Recognizer, service: Service) -> None:
    """The must-fail twin of the long text: what its windows say, laid at its start, is not its answer."""
    text = "\n".join(SENTENCES)
    windows = recognizer.encode(text)
    pieces = [text[window.start : window.end] for window in windows]
    entities = {entity for piece in evaluated(recognizer, pieces) for entity in piece.entities}
    replies = service.ask([text], [[0]], "")
    assert len(windows) > 2
    assert compare("way", [Answer(tuple(entities), len(windows))], replies, recognizer.manifest.thresholds).faults
    merged = merged_windows(recognizer, service, text)
    assert compare("way", [merged], replies, recognizer.manifest.thresholds).faults == []


def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match="nowhere"), running_service(tmp_path / "nowhere"):
        pass


# ---- the command


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, service: Service) -> Callable[..., Result]:
    """Runs the command against the service that runs already."""
    monkeypatch.setattr("benchmarks.consistency.running_service", lambda _: nullcontext(service))
    app = Typer()
    app.command()(main)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_json_and_table(
    run: Callable[..., Result], tiny_bundle_folder: Path, documents: list[Document], tmp_path: Path
) -> None:
    data = tmp_path / "gold.jsonl"
    write_documents([document for document in documents if document.text] * 4, data)
    result = run(tiny_bundle_folder, data, "--texts", 7, "--json")
    report = json.loads(result.stdout)
    assert [each["num_texts"] for each in report["comparisons"]] == [7, 7, 7, 1]
    assert report["single_texts"]["f1"] == 1.0
    # Random weights look across lines, so F1 of the long text says nothing; it alone decides the exit code here.
    assert result.exit_code == (0 if report["consistent"] else 1)
    assert "32 clients" in run(tiny_bundle_folder, data, "--texts", 2).stdout


def test_faults_end_with_1(
    run: Callable[..., Result], tiny_bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "gold.jsonl"
    write_documents([Document("Ada", (Entity(0, 3, "PER"),))], data)
    for long, exit_code in ((Score(9, 9, 9), 0), (Score(9, 9, 5), 1)):
        report = Report(model="m", model_sha256="", comparisons=[], single=Score(9, 9, 9), long=long)
        monkeypatch.setattr("benchmarks.consistency.measure", lambda *_, report=report: report)
        assert run(tiny_bundle_folder, data).exit_code == exit_code


def test_partly_annotated_documents_are_refused(
    run: Callable[..., Result], tiny_bundle_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "gold.jsonl"
    write_documents([Document("Ada", annotated=frozenset({"PER"}))], data)
    result = run(tiny_bundle_folder, data)
    assert result.exit_code == 1
    assert "expected all" in result.stderr
