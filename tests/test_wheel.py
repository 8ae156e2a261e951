"""The wheel of the service holds `ner_service/` and nothing else; training is a distribution of its own."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import ner_service

ROOT = Path(__file__).parent.parent


def build_wheel(source: Path, target: Path) -> zipfile.ZipFile:
    """Build without network and without isolation. `source` is a copy: building leaves folders behind."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", target, source], check=True)
    (wheel,) = target.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("ner_service", "training"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / file, copy)
    return copy


@pytest.fixture(scope="module")
def service_wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return build_wheel(checkout, tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="module")
def training_wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return build_wheel(checkout / "training", tmp_path_factory.mktemp("training"))


def package_files(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def source_files(folder: str, *patterns: str) -> set[str]:
    found = {file for pattern in patterns for file in (ROOT / folder).rglob(pattern) if file.is_file()}
    return {file.relative_to(ROOT).as_posix() for file in found}


def read_dist_info(wheel: zipfile.ZipFile, file: str) -> str:
    (name,) = (name for name in wheel.namelist() if name.endswith(f".dist-info/{file}"))
    return wheel.read(name).decode()


def scripts(wheel: zipfile.ZipFile) -> dict[str, dict[str, str]]:
    entry_points = ConfigParser()
    entry_points.read_string(read_dist_info(wheel, "entry_points.txt"))
    return {section: dict(entry_points[section]) for section in entry_points.sections()}


def metadata(wheel: zipfile.ZipFile) -> Message:
    return email.message_from_string(read_dist_info(wheel, "METADATA"))


def requirements(wheel: zipfile.ZipFile, extra: str | None = None) -> set[str]:
    """Names of what `extra` asks for; None is the base."""
    listed = [Requirement(line) for line in metadata(wheel).get_all("Requires-Dist", [])]
    if extra is None:
        return {item.name for item in listed if item.marker is None}
    return {item.name for item in listed if item.marker and item.marker.evaluate({"extra": extra})}


def test_the_service_wheel_holds_the_service_alone(service_wheel: zipfile.ZipFile) -> None:
    assert package_files(service_wheel) == source_files("ner_service", "*.py", "py.typed", "page/*")
    assert "ner_service/serving/page/index.html" in package_files(service_wheel)
    assert scripts(service_wheel) == {"console_scripts": {"ner-service": "ner_service.cli:app"}}


def test_the_service_wheel_says_what_it_needs(service_wheel: zipfile.ZipFile) -> None:
    assert metadata(service_wheel)["Version"] == ner_service.__version__
    base = {"numpy", "rich", "safetensors", "tokenizers", "torch", "typer", "typing-extensions"}
    assert requirements(service_wheel) == base
    extras = {"dev", "huggingface", "ocr", "serve", "train"}
    assert set(metadata(service_wheel).get_all("Provides-Extra", [])) == extras
    assert requirements(service_wheel, "huggingface") == {"transformers"}
    assert requirements(service_wheel, "train") == {"accelerate", "rjieba", "seqeval", "transformers"}
    serve = {"fastapi", "prometheus-client", "pydantic", "pydantic-settings", "uvicorn", "uvloop"}
    assert requirements(service_wheel, "serve") == serve
    assert requirements(service_wheel, "ocr") == {"onnxruntime", "pillow", "rapidocr"}


def test_the_service_wheel_carries_its_licence(service_wheel: zipfile.ZipFile) -> None:
    assert read_dist_info(service_wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert read_dist_info(service_wheel, "licenses/NOTICE") == (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_the_service_wheel_works_where_it_is_unpacked(service_wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    service_wheel.extractall(tmp_path)
    program = "import ner_service.serving.app, sys; print(ner_service.__file__, 'training' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [str(tmp_path / "ner_service" / "__init__.py"), "False"]


def test_the_training_wheel_holds_training_alone(training_wheel: zipfile.ZipFile) -> None:
    assert package_files(training_wheel) == source_files("training", "*.py", "recipes/*.toml", "recipes/starter/*.toml")
    assert scripts(training_wheel) == {"console_scripts": {"ner-train": "training.cli:app"}}


def test_the_training_wheel_needs_the_service_of_its_own_version(training_wheel: zipfile.ZipFile) -> None:
    version = metadata(training_wheel)["Version"]
    assert version == ner_service.__version__
    assert metadata(training_wheel).get_all("Requires-Dist") == [f"ner-service[train]=={version}"]
