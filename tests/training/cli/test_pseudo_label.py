"""`ner-train pseudo-label` as a user meets it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from ner_service.bundle import Bundle
from ner_service.formats import read_documents
from ner_service.recognizer import Recognizer
from ner_service.types import Document
from tests.conftest import LABELS, SENTENCES
from tests.training.commands import invoke, refusal
from training.pseudo_labels import pseudo_label

LINES = tuple(dict.fromkeys(sentence[:length].strip() for sentence in SENTENCES for length in range(2, 12)))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two files, one of them gzipped, with a sentence that both have."""
    folder = tmp_path_factory.mktemp("texts")
    first, second = folder / "first.txt", folder / "second.txt.gz"
    first.write_text("\n".join(LINES[:20]) + "\n", encoding="utf-8")
    second.write_bytes(gzip.compress("。".join((LINES[0], *LINES[20:])).encode()))
    return first, second


def sentences_of() -> list[str]:
    """What the files hold: a sentence keeps its full stop, and one that stands in both files counts once."""
    return list(dict.fromkeys((*LINES[:20], f"{LINES[0]}。", *(f"{line}。" for line in LINES[20:-1]), LINES[-1])))


def labelled(recognizer: Recognizer, sure: float) -> list[Document]:
    return [found for found in pseudo_label(recognizer, sentences_of(), sure) if found is not None]


def test_sure_sentences_are_written_and_counted(
    tiny_bundle_folder: Path, tiny_recognizer: Recognizer, texts: tuple[Path, Path], tmp_path: Path
) -> None:
    output = tmp_path / "silver.jsonl.gz"
    result = invoke(
        "pseudo-label", tiny_bundle_folder, *texts, "-o", output, "--sure", 0.6, "--device", "cpu", "--json"
    )
    assert result.exit_code == 0, result.stderr
    expected = labelled(tiny_recognizer, 0.6)
    assert list(read_documents(output)) == expected
    assert json.loads(result.stdout) == {
        "sentences": len(sentences_of()),
        "written": len(expected),
        "entities": {label: sum(e.label == label for d in expected for e in d.entities) for label in LABELS},
        "left_open": {label: sum(label not in (d.annotated or ()) for d in expected) for label in LABELS},
    }
    assert result.stderr.startswith(f"Wrote {output}: {len(expected)} documents. Next: name it in data.train")


def test_a_table_counts_entities(
    tiny_bundle_folder: Path, tiny_recognizer: Recognizer, texts: tuple[Path, Path], tmp_path: Path
) -> None:
    result = invoke("pseudo-label", tiny_bundle_folder, *texts, "-o", tmp_path / "silver.jsonl", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    rows = [line.replace("│", " ").split() for line in result.stdout.splitlines()]
    assert ["sentences", str(len(labelled(tiny_recognizer, 0.75))), "of", str(len(sentences_of()))] in rows
    assert {row[0] for row in rows if row} >= set(LABELS)


def test_nothing_sure_is_refused(tiny_bundle_folder: Path, texts: tuple[Path, Path], tmp_path: Path) -> None:
    """An empty file would be the next run's fault; what was there before stays."""
    output = tmp_path / "silver.jsonl"
    output.write_text("earlier\n", encoding="utf-8")
    result = invoke("pseudo-label", tiny_bundle_folder, *texts, "-o", output, "--sure", 1, "--device", "cpu", "--json")
    assert json.loads(result.stdout)["written"] == 0
    assert result.exit_code == 1
    reason = "found no entity surer than that, expected some; nothing is written"
    assert result.stderr == f"error: --sure 1.0: {reason}\n"
    assert output.read_text(encoding="utf-8") == "earlier\n"


def test_refusals(
    tiny_bundle_folder: Path, tiny_embedding_bundle: Bundle, texts: tuple[Path, Path], tmp_path: Path
) -> None:
    first = texts[0]
    tiny_embedding_bundle.save(tmp_path / "vectors")
    said = refusal("pseudo-label", tiny_bundle_folder, first, "-o", first)
    assert said == f"--output: found {first}, which is read as well; expected another file"
    said = refusal("pseudo-label", tmp_path / "vectors", first, "-o", tmp_path / "silver.jsonl")
    assert "spans" in said
    assert "embedding" in said
    assert invoke("pseudo-label", tiny_bundle_folder, first, "-o", "x", "--sure", 0.4).exit_code == 2
