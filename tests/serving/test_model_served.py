"""The service around a real model: what is served is what the recogniser says, alone or among many clients."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ner_service.recognizer import Recognizer
from ner_service.serving.app import build_app
from ner_service.serving.metrics import Metrics
from ner_service.serving.registry import Registry
from ner_service.serving.server import load_model
from ner_service.serving.settings import Settings
from ner_service.types import Recognition, RecognizeOptions
from tests.conftest import SENTENCES
from tests.serving.conftest import until

TEXTS = (*SENTENCES, " ".join(SENTENCES * 3), "", "😀 Ada 李雷", "\r\n\t ")


@pytest.fixture(scope="module")
def client(tiny_bundle_folder: Path) -> Iterator[TestClient]:
    settings, metrics = Settings(model=tiny_bundle_folder, device="cpu"), Metrics()
    model = load_model(settings, metrics, lambda: None)
    with TestClient(build_app(settings, Registry(model), metrics)) as client:
        until(lambda: client.get("/health/ready").status_code == 200)
        yield client


def entities(result: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(entity["start"], entity["end"], entity["label"]) for entity in result["entities"]]


@pytest.mark.parametrize("threshold", [None, 0.9])
@pytest.mark.parametrize("overlap", ["all", "flat"])
def test_what_is_served_is_what_is_recognised(
    client: TestClient, tiny_bundle_folder: Path, threshold: float | None, overlap: Any
) -> None:
    options = RecognizeOptions(threshold=threshold, overlap=overlap)
    expected = Recognizer.load(tiny_bundle_folder, "cpu").recognize(TEXTS, options)
    body = {"inputs": list(TEXTS), "threshold": threshold, "overlap": overlap}
    found = client.post("/v1/extract", json=body).json()["results"]
    assert any(result["entities"] for result in found)
    for text, answer, result in zip(TEXTS, expected, found, strict=True):
        assert isinstance(answer, Recognition)
        assert [entity["text"] for entity in result["entities"]] == [text[e.start : e.end] for e in answer.entities]
        assert entities(result) == [(entity.start, entity.end, entity.label) for entity in answer.entities]
        scores = [entity.score for entity in answer.entities]
        assert [entity["score"] for entity in result["entities"]] == pytest.approx(scores, abs=1e-5)
        assert result["windows"] == answer.num_windows


def test_among_many_clients_the_answer_is_the_same(client: TestClient) -> None:
    def ask(text: str) -> dict[str, Any]:
        (result,) = client.post("/v1/extract", json={"inputs": text}).json()["results"]
        return dict(result)

    alone = [ask(text) for text in TEXTS]
    with ThreadPoolExecutor(32) as threads:
        together = list(threads.map(ask, TEXTS * 8))
    for one, other in zip(alone * 8, together, strict=True):
        assert entities(one) == entities(other)
        scores = [entity["score"] for entity in one["entities"]]
        assert [entity["score"] for entity in other["entities"]] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("threshold", [0, 1])
def test_the_ends_of_the_threshold(client: TestClient, threshold: float) -> None:
    body = {"inputs": "Ada 李雷", "threshold": threshold}
    (result,) = client.post("/v1/extract", json=body).json()["results"]
    # Every span of 3 letters, or word pieces of them, for every label; or none at all.
    assert bool(result["entities"]) == (threshold == 0)


def test_the_app_needs_no_torch() -> None:
    program = "import sys, ner_service.serving.app; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"
