"""An app around the fake recogniser, ready to be asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ner_service.serving.app import build_app
from ner_service.serving.metrics import Metrics
from ner_service.serving.registry import Registry, ServedModel
from ner_service.serving.settings import Settings
from tests.serving.fakes import FakeRecognizer


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


@contextmanager
def _serve(**overrides: object) -> Iterator[Service]:
    settings = Settings(model=Path("unused"), **overrides)  # type: ignore[arg-type]
    deaths: list[str] = []
    recognizer, metrics = FakeRecognizer(), Metrics()
    model = ServedModel(
        recognizer, padded=True, settings=settings, metrics=metrics, on_death=lambda: deaths.append("died")
    )
    metrics.model_served(model.digest, "float32")
    with TestClient(build_app(settings, Registry(model), metrics)) as client:
        while client.get("/health/ready").status_code != 200:
            pass
        yield Service(client, recognizer, model, deaths)
        recognizer.release()


@pytest.fixture
def serve() -> Serve:
    """Starts a service with these settings."""
    return _serve


@pytest.fixture
def service() -> Iterator[Service]:
    """A service with the settings that it has out of the box."""
    with _serve() as service:
        yield service
