"""Fixtures of the training room."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ner_service.bundle import Bundle
from ner_service.recognizer import Recognizer
from tests.training.runs import write_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run's TOML and documents; not to be altered."""
    return write_run(tmp_path_factory.mktemp("runs") / "sample").parent


@pytest.fixture(scope="session")
def tiny_recognizer(tiny_bundle: Bundle) -> Recognizer:
    """`tiny_bundle`, loaded."""
    return Recognizer(tiny_bundle, torch.device("cpu"))
