"""Rewrites the golden files; `make golden`. Read the difference before you commit it: it is what users see change."""

from __future__ import annotations

import json
from pathlib import Path

from ner_service.serving.app import build_app
from ner_service.serving.metrics import Metrics
from ner_service.serving.registry import Registry, ServedModel
from ner_service.serving.settings import Settings
from tests.serving.fakes import FakeRecognizer

OPENAPI = Path(__file__).parent / "serving" / "golden" / "openapi.json"


def openapi() -> str:
    """The OpenAPI document as the golden file holds it; it does not depend on the model."""
    settings, metrics = Settings(model=Path("unused")), Metrics()
    model = ServedModel(FakeRecognizer(), padded=True, settings=settings, metrics=metrics, on_death=lambda: None)
    document = build_app(settings, Registry(model), metrics).openapi()
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


if __name__ == "__main__":
    OPENAPI.write_text(openapi(), encoding="utf-8")
