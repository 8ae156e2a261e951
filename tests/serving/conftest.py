"""An app around the fake recogniser, ready to be asked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ner_service.serving.app import build_app
from ner_service.serving.images import ImageReader
from ner_service.serving.metrics import Metrics
from ner_service.serving.registry import Registry, ServedModel
from ner_service.serving.settings import Settings
from tests.serving.fakes import FakeOcr, FakeRecognizer


@dataclass
class Service:
    """A service in this process. `client` raises what the app lets through: nothing should come."""

    client: TestClient
    recognizer: FakeRecognizer
    model: ServedModel
    deaths: list[str]

    def post(self, path: str, body: object, **headers: str) -> Any:
        """Send JSON; ASCII, so that a lone surrogate can be sent."""
        content = json.dumps(body).encode("ascii")
        return self.client.post(path, content=content, headers={"Content-Type": "application/json", **headers})


Serve = Callable[..., AbstractContextManager[Service]]


def until(condition: Callable[[], bool]) -> None:
    """Wait for what must come."""
    patience = time.monotonic() + 120.0
    while not condition():
        assert time.monotonic() < patience, "it did not come"


def await_ready(service: Service) -> None:
    until(lambda: service.client.get("/health/ready").status_code == 200)


@contextmanager
def _serve(
    recognizer: FakeRecognizer | None = None, ocr: FakeOcr | None = None, **overrides: object
) -> Iterator[Service]:
    settings = Settings(model=Path("unused"), **overrides)  # type: ignore[arg-type]
    deaths: list[str] = []
    recognizer, metrics = recognizer or FakeRecognizer(), Metrics()
    model = ServedModel(recognizer, settings=settings, metrics=metrics, on_death=lambda: deaths.append("died"))
    metrics.model_served(model.digest, "float32")
    images = None
    if ocr is not None:
        images = ImageReader(ocr, settings=settings, metrics=metrics, on_death=lambda: deaths.append("blind"))
    with TestClient(build_app(settings, Registry(model), metrics, images)) as client:
        service = Service(client, recognizer, model, deaths)
        try:
            await_ready(service)
            yield service
        finally:
            recognizer.release()
            if ocr is not None:
                ocr.release()


@pytest.fixture
def serve() -> Serve:
    """Starts a service with these settings, and with this `recognizer` and this `ocr` if they are given."""
    return _serve


@pytest.fixture
def service() -> Iterator[Service]:
    """A service with the settings that it has out of the box."""
    with _serve() as service:
        yield service
