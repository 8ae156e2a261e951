"""The service around a real model: what is served is what the recogniser says, alone or among many clients."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from ner_service.bundle import Bundle
from ner_service.model.batch import pad
from ner_service.model.config import RoFormerConfig
from ner_service.model.text_model import TextModel
from ner_service.recognizer import Recognizer
from ner_service.serving.app import build_app
from ner_service.serving.metrics import Metrics
from ner_service.serving.registry import Registry, ServedModel
from ner_service.serving.server import load_model
from ner_service.serving.settings import Settings
from ner_service.text.reading_order import reading_order
from ner_service.text.windows import split
from ner_service.types import Page, Recognition, RecognizeOptions, WindowLimits, codepoints_to_words
from tests.conftest import SENTENCES
from tests.serving.conftest import until

CPU = torch.device("cpu")
TEXTS = (*SENTENCES, " ".join(SENTENCES * 3), "", "😀 Ada 李雷", "\r\n\t ")


@contextmanager
def served(folder: Path) -> Iterator[TestClient]:
    settings, metrics = Settings(model=folder, device="cpu"), Metrics()
    model = load_model(settings, metrics, lambda: None)
    with TestClient(build_app(settings, Registry(model), metrics)) as client:
        until(lambda: client.get("/health/ready").status_code == 200)
        yield client


@pytest.fixture(scope="module")
def client(tiny_bundle_folder: Path) -> Iterator[TestClient]:
    with served(tiny_bundle_folder) as client:
        yield client


@pytest.fixture(scope="module")
def two_headed(tiny_two_headed_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("served") / "both"
    tiny_two_headed_bundle.save(folder)
    with served(folder) as client:
        yield client


def embeddings(client: TestClient, inputs: str | list[str]) -> list[list[float]]:
    results = client.post("/v1/embed", json={"inputs": inputs}).json()["results"]
    return [result["embedding"] for result in results]


def entities(result: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(entity["start"], entity["end"], entity["label"]) for entity in result["entities"]]


def test_the_warm_up_reads_a_full_window(tiny_bundle: Bundle) -> None:
    """What no window is longer than: here no power of two, nor one and the special tokens."""
    limits = WindowLimits(max_tokens=29, overlap_tokens=8)
    recognizer = Recognizer(replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, window=limits)), CPU)
    model = ServedModel(recognizer, settings=Settings(model=Path("x")), metrics=Metrics(), on_death=lambda: None)
    lengths: list[int] = []
    submit = model.batcher.submit

    def spy(items: Any, lengths_of_items: Any) -> Any:
        lengths.append(max(lengths_of_items))
        return submit(items, lengths_of_items)

    model.batcher.submit = spy  # type: ignore[method-assign]
    model.warm_up()
    model.batcher.close()
    assert model.state == "ready"
    assert lengths[-1] == max(lengths) == 29


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


@pytest.fixture(scope="module")
def of_pages(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Recognizer]]:
    """The tiny model with two axes, served, and beside the service."""
    encoder = tiny_bundle.manifest.model.encoder
    assert isinstance(encoder, RoFormerConfig)
    model = replace(tiny_bundle.manifest.model, encoder=replace(encoder, num_axes=2))
    folder = tmp_path_factory.mktemp("served") / "pages"
    replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, model=model)).save(folder)
    with served(folder) as client:
        yield client, Recognizer.load(folder, "cpu")


def test_pages_are_served_as_they_are_recognised(of_pages: tuple[TestClient, Recognizer]) -> None:
    client, recognizer = of_pages
    words = tuple(" ".join(SENTENCES).split())
    boxes = tuple(
        (60.0 * (i % 4), 14.0 * (i // 4), 60.0 * (i % 4) + 6 * len(w), 14.0 * (i // 4) + 10)
        for i, w in enumerate(words)
    )
    page = Page(words, boxes, (2000, 500))
    backwards = {"words": words[::-1], "boxes": boxes[::-1], "page": page.size}
    given = {"words": words, "boxes": boxes, "page": page.size, "order": "given"}
    order = reading_order(page.boxes)
    options = RecognizeOptions(threshold=0.3)
    answers = recognizer.recognize([page.reordered(order), page], options)
    body = {"inputs": ["Ada", backwards, given, *TEXTS], "threshold": 0.3}
    _, found_sorted, found_given, *of_texts = client.post("/v1/extract", json=body).json()["results"]
    read = [(page.reordered(order), [len(words) - 1 - i for i in order]), (page, list(range(len(words))))]
    for (seen, indices), answer, result in zip(read, answers, (found_sorted, found_given), strict=True):
        assert isinstance(answer, Recognition)
        assert len(answer.entities) > 3
        assert result["windows"] == answer.num_windows > 1
        expected = [(e.label, indices[slice(*codepoints_to_words(seen, e.start, e.end))]) for e in answer.entities]
        assert sorted((e["label"], e["words"]) for e in result["entities"]) == sorted(expected)
    # Texts that are read together with pages are read as if there were none.
    plain = client.post("/v1/extract", json={"inputs": list(TEXTS), "threshold": 0.3}).json()["results"]
    assert [entities(result) for result in of_texts] == [entities(result) for result in plain]


@pytest.mark.parametrize("threshold", [0, 1])
def test_the_ends_of_the_threshold(client: TestClient, threshold: float) -> None:
    body = {"inputs": "Ada 李雷", "threshold": threshold}
    (result,) = client.post("/v1/extract", json=body).json()["results"]
    # Every span of 3 letters, or word pieces of them, for every label; or none at all.
    assert bool(result["entities"]) == (threshold == 0)


def test_the_vectors_that_are_served_are_the_models(two_headed: TestClient, tiny_two_headed_bundle: Bundle) -> None:
    """The oracle knows neither recogniser nor service: windows, encoder, head, lengths."""
    bundle = tiny_two_headed_bundle
    model = TextModel(bundle.manifest.model, len(bundle.manifest.labels)).eval()
    model.load_state_dict(bundle.weights)
    found = embeddings(two_headed, list(TEXTS))
    for text, embedding in zip(TEXTS, found, strict=True):
        units = []
        for window in split(text, bundle.tokenizer, bundle.manifest.window):
            with torch.inference_mode():
                vector_E = model.embed(pad([window.encoding.token_ids], pad_id=0))[0].double()
            units.append(vector_E / vector_E.norm())
        mean_E = torch.stack(units).mean(0)
        assert embedding == pytest.approx((mean_E / mean_E.norm()).tolist(), abs=1e-5)


def test_candidates_are_ranked_by_the_cosines_of_their_vectors(two_headed: TestClient) -> None:
    vectors = np.array(embeddings(two_headed, list(TEXTS)))
    body = {"input": TEXTS[1], "candidates": list(TEXTS)}
    results = two_headed.post("/v1/similar", json=body).json()["results"]
    scores = {result["index"]: result["score"] for result in results}
    assert [scores[index] for index in range(len(TEXTS))] == pytest.approx(vectors @ vectors[1], abs=1e-5)
    assert list(scores) == sorted(scores, key=lambda index: -scores[index])
    assert (results[0]["index"], results[0]["score"]) == (1, 1.0)
    # The twin: a model that says the same of every text would rank nothing.
    assert results[1]["score"] < 0.99


def test_among_requests_of_every_kind_the_answers_are_the_same(two_headed: TestClient) -> None:
    def ask(path: str, text: str) -> list[dict[str, Any]]:
        body = {"input": text, "candidates": list(SENTENCES)} if path == "similar" else {"inputs": text}
        results: list[dict[str, Any]] = two_headed.post(f"/v1/{path}", json=body).json()["results"]
        return results

    asked = [(path, text) for text in TEXTS for path in ("extract", "embed", "similar")]
    alone = [ask(*each) for each in asked]
    with ThreadPoolExecutor(32) as threads:
        together = list(threads.map(lambda each: ask(*each), asked * 4))
    for (path, _), one, other in zip(asked * 4, alone * 4, together, strict=True):
        if path == "extract":
            assert entities(one[0]) == entities(other[0])
        elif path == "embed":
            assert other[0]["embedding"] == pytest.approx(one[0]["embedding"], abs=1e-5)
        else:
            scores = {result["index"]: result["score"] for result in one}
            assert {result["index"]: result["score"] for result in other} == pytest.approx(scores, abs=1e-5)


def test_a_bundle_that_only_embeds_is_served(tiny_embedding_bundle: Bundle, tmp_path: Path) -> None:
    tiny_embedding_bundle.save(tmp_path / "vectors")
    with served(tmp_path / "vectors") as client:
        assert [len(vector) for vector in embeddings(client, list(SENTENCES))] == [24] * len(SENTENCES)
        assert client.post("/v1/extract", json={"inputs": "Ada"}).status_code == 409
        assert client.get("/v1/models/vectors").json()["heads"] == {"embedding": {"size": 24}}


def test_the_app_needs_no_torch() -> None:
    program = "import sys, ner_service.serving.app; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"
