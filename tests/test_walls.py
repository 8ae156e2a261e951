"""Every wall of pyproject.toml stands, and falls when a break is planted: what cannot fail protects nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = Path(sys.executable).parent
SOURCES = ("ner_service", "training", "tests", "benchmarks")
MAX_LINES = 400
SHARED_BY_FORMATS = {"__init__", "checks", "detection", "inputs", "lines", "pages", "results", "tags"}

# contract, file that is added to, what is added
BREAKS = [
    ("layers", "ner_service/errors.py", "import ner_service.types"),
    ("layers", "ner_service/text/tokenizer.py", "import ner_service.decoding"),
    ("layers", "ner_service/model/heads.py", "import ner_service.text.windows"),
    ("layers", "ner_service/recognizer.py", "import ner_service.serving.app"),
    ("service-without-training", "ner_service/cli.py", "import training.loop"),
    ("training-without-web", "training/loop.py", "import ner_service.serving.schemas"),
    ("training-without-web", "training/evaluation.py", "import fastapi"),
    ("no-torch", "ner_service/types.py", "import torch"),
    ("no-torch", "ner_service/decoding.py", "def late() -> None:\n    import torch"),
    ("no-torch", "ner_service/serving/schemas.py", "import ner_service.recognizer"),
    ("encoders", "ner_service/model/encoders/roformer.py", "import ner_service.model.encoders.roformer_v2"),
    ("formats", "ner_service/formats/cmeee.py", "import ner_service.formats.cluener"),
    ("objectives", "training/objectives/another.py", "import training.objectives.spans"),
    ("transformers", "ner_service/model/attention.py", "import transformers"),
    ("transformers", "training/loop.py", "import transformers"),
]


def contracts() -> dict[str, dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {contract["id"]: contract for contract in settings["tool"]["importlinter"]["contracts"]}


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    command = [SCRIPTS / "lint-imports", "--no-cache"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for room in ("ner_service", "training"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_walls_stand(house: Path) -> None:
    answer = lint_imports(house)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert f"Contracts: {len(contracts())} kept, 0 broken." in answer.stdout


@pytest.mark.parametrize(("contract", "file", "statement"), BREAKS)
def test_a_planted_break_is_named(house: Path, contract: str, file: str, statement: str) -> None:
    with (house / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{statement}\n")
    answer = lint_imports(house)
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert f"{contracts()[contract]['name']} BROKEN" in answer.stdout


def test_a_room_without_a_place_is_named(house: Path) -> None:
    (house / "ner_service" / "attic.py").touch()
    answer = lint_imports(house)
    assert answer.returncode == 1
    assert "ner_service.attic" in answer.stdout


def test_every_wall_has_a_planted_break() -> None:
    assert {contract for contract, _, _ in BREAKS} == set(contracts())


def test_every_format_stands_in_its_wall() -> None:
    formats = {file.stem for file in (ROOT / "ner_service" / "formats").glob("*.py")} - SHARED_BY_FORMATS
    assert contracts()["formats"]["modules"] == [f"ner_service.formats.{name}" for name in sorted(formats)]


@pytest.mark.parametrize(
    ("source", "banned"),
    [
        ('import os\n\nos.getenv("NER_PORT")\n', True),
        ('import os\n\nos.environ["NER_PORT"]\n', True),
        ("import pickle\n\npickle.loads(b'')\n", True),
        ("import os\n\nos.getpid()\n", False),
    ],
)
def test_code_reads_no_environment_and_no_pickle(source: str, banned: bool) -> None:
    command = [SCRIPTS / "ruff", "check", "--select", "TID251", "--stdin-filename", "ner_service/recognizer.py", "-"]
    answer = subprocess.run(command, input=source, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ("TID251" in answer.stdout) is banned, answer.stdout


def test_no_file_outgrows_its_room() -> None:
    files = [file for folder in SOURCES for file in (ROOT / folder).rglob("*.py")]
    lengths = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {file: length for file, length in lengths.items() if length > MAX_LINES} == {}
