"""What an import drags in, seen in a fresh interpreter: a served RoFormer needs neither training nor transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def packages_after(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after `statement`."""
    program = f"{statement}\nimport sys\nprint(*sys.modules, sep='\\n')"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in answer.stdout.split()}


def test_the_package_itself_is_light() -> None:
    ours_and_standard = {"ner_service", "__main__"} | sys.stdlib_module_names
    added = packages_after("import ner_service") - packages_after("pass")
    assert added - ours_and_standard == set()


@pytest.mark.parametrize("module", ["serving.batcher", "serving.schemas", "formats", "text.tokenizer"])
def test_torch_waits_until_a_model_is_loaded(module: str) -> None:
    assert "torch" not in packages_after(f"import ner_service.{module}")


def test_the_service_carries_no_training_and_no_foreign_encoders() -> None:
    loaded = packages_after("import ner_service.serving.app")
    assert "fastapi" in loaded
    assert loaded & {"training", "transformers", "accelerate", "seqeval", "sklearn"} == set()
    assert loaded & {"rapidocr", "onnxruntime", "cv2", "PIL"} == set()


def test_a_heavy_import_would_be_seen() -> None:
    assert "torch" in packages_after("import ner_service.recognizer")
