"""ner-train enlarge, and going on training from what it wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from ner_service.bundle import Bundle, read_manifest
from ner_service.model.config import HuggingFaceConfig, RoFormerConfig
from ner_service.recognizer import Recognizer
from ner_service.types import Recognition
from tests.training.commands import invoke, refusal
from tests.training.runs import NO_DROPOUT, small_setup
from training.assembly import new_state
from training.enlargement import Plan
from training.enlargement import enlarge as enlarged
from training.loop import train

TEXTS = ("Charles Babbage met Ada in Manchester.", "王医生在北京大学读书。", "London")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(["", *TEXTS]) + "\n", encoding="utf-8")
    return path


def test_a_larger_bundle_with_the_same_answers(tiny_bundle_folder: Path, texts: Path, tmp_path: Path) -> None:
    """B-3 and B-9 by way of files: entities identical, what was compared said in figures."""
    output = tmp_path / "large"
    result = invoke(
        "enlarge", tiny_bundle_folder, "--width-factor", 2, "--num-layers", 4, "-o", output, "--texts", texts, "--json"
    )
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["outputs"].keys() == {"hidden", "spans"}
    assert 0.0 < max(found["outputs"].values()) < 5e-5
    assert found["answers"]["num_texts"] == 6 + len(TEXTS)
    assert found["answers"]["num_entities"] > 10
    assert found["answers"]["num_differing"] == 0
    weights = Bundle.load(output).weights
    assert found["parameters"] == {
        "before": sum(tensor.numel() for tensor in Bundle.load(tiny_bundle_folder).weights.values()),
        "after": sum(tensor.numel() for tensor in weights.values()),
    }
    encoder = read_manifest(output).model.encoder
    assert isinstance(encoder, RoFormerConfig)
    assert (encoder.hidden_size, encoder.num_heads, encoder.intermediate_size, encoder.num_layers) == (64, 4, 128, 4)
    one, other = (Recognizer.load(path, "cpu") for path in (tiny_bundle_folder, output))
    for expected, answer in zip(one.recognize(TEXTS), other.recognize(TEXTS), strict=True):
        assert isinstance(expected, Recognition)
        assert isinstance(answer, Recognition)
        assert answer.entities == expected.entities


def test_a_table_for_people(tiny_bundle_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "large"
    result = invoke("enlarge", tiny_bundle_folder, "--width-factor", 3, "--scheme", "wider_heads", "-o", output)
    assert result.exit_code == 0, result.output
    rows = [line.replace("│", " ").split() for line in result.stdout.splitlines()]
    assert ["hidden_size", "32", "96"] in rows
    assert ["num_heads", "2", "2"] in rows
    assert ["num_layers", "2", "2"] in rows
    assert [row[0] for row in rows if row[-1:] and "e-" in row[-1]][:2] == ["hidden", "spans"]
    assert result.stderr == (f"Wrote {output}. Next: ner-train train RUN --set model.start_from={output.absolute()}\n")


def test_the_seed_and_the_way_of_parting_are_the_callers(tiny_bundle_folder: Path, tmp_path: Path) -> None:
    name = "encoder.layers.0.feed_in.weight"
    found = {}
    for symmetry, seed in (("shares", 0), ("shares", 1), ("noise", 0), ("equal", 0)):
        options = ("--symmetry", symmetry, "--seed", seed, "-o", tmp_path / "large")
        assert invoke("enlarge", tiny_bundle_folder, "--width-factor", 2, *options).exit_code == 0
        found[symmetry, seed] = Bundle.load(tmp_path / "large").weights[name]
    assert len({tuple(weight.flatten().tolist()) for weight in found.values()}) == 4
    first, second = found["equal", 0].chunk(2, dim=1)
    assert torch.equal(first, second)


def test_refusals(tiny_bundle: Bundle, tiny_bundle_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "large"
    nothing = "found no --width-factor and no more --num-layers than there are, expected one of them"
    assert refusal("enlarge", tiny_bundle_folder, "-o", output) == nothing
    assert refusal("enlarge", tiny_bundle_folder, "--num-layers", 2, "-o", output) == nothing
    said = refusal("enlarge", tiny_bundle_folder, "--num-layers", 1, "-o", output)
    assert said == "num_layers: found 1, expected at least the bundle's own 2"
    model = replace(tiny_bundle.manifest.model, encoder=HuggingFaceConfig(model_type="bert"))
    foreign = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, model=model))
    foreign.save(tmp_path / "foreign")
    said = refusal("enlarge", tmp_path / "foreign", "--width-factor", 2, "-o", output)
    assert said == "enlarge: found an encoder of kind 'huggingface', expected 'roformer' or 'roformer_v2'"
    assert refusal(
        "enlarge", tiny_bundle_folder, "--width-factor", 2, "-o", output, "--texts", tmp_path / "no.txt"
    ).endswith("no.txt: cannot be read: No such file or directory")
    assert not output.exists()


def test_a_place_that_is_taken_and_a_seed_that_is_none_are_refused_before_any_work(
    tiny_bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(bundle: Bundle, plan: Plan) -> Bundle:
        raise AssertionError("the bundle was enlarged")

    monkeypatch.setattr(import_module("training.cli.enlarge"), "enlarged", refuse)
    said = refusal("enlarge", tiny_bundle_folder, "--width-factor", 2, "-o", tmp_path)
    assert said == f"{tmp_path}: exists and is not a bundle; expected a new path or an older bundle"
    result = invoke("enlarge", tiny_bundle_folder, "--width-factor", 2, "-o", tmp_path / "large", "--seed", 2**64)
    assert result.exit_code == 2
    assert "--seed" in result.stderr


def test_one_that_differs_is_not_written(
    tiny_bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The must-fail twin: a factor that is wrong by a thousandth."""

    def faulty(bundle: Bundle, plan: Plan) -> Bundle:
        result = enlarged(bundle, plan)
        name = "encoder.layers.1.feed_out.weight"
        return replace(result, weights={**result.weights, name: result.weights[name] * 1.001})

    monkeypatch.setattr(import_module("training.cli.enlarge"), "enlarged", faulty)  # the package's name is the verb
    said = refusal("enlarge", tiny_bundle_folder, "--width-factor", 2, "-o", tmp_path / "large")
    assert said.startswith("hidden: found a difference of ")
    assert said.endswith(", expected at most 5e-05")
    assert not (tmp_path / "large").exists()


@pytest.mark.parametrize("options", [("--width-factor", "2"), ("--num-layers", "3")])
def test_training_goes_on_from_the_loss_of_the_small_model(
    options: tuple[str, str], run_folder: Path, tmp_path: Path
) -> None:
    """B-10: the loss of the first step is the small model's, of the second no longer."""
    small = small_setup(run_folder, *NO_DROPOUT)
    small.bundle(small.build_model().state_dict(), {}).save(tmp_path / "small")
    assert invoke("enlarge", tmp_path / "small", *options, "-o", tmp_path / "large").exit_code == 0
    losses = []
    for name in ("small", "large"):
        setup = small_setup(run_folder, "epochs=1", f"model.start_from={tmp_path / name}")
        accelerator = Accelerator(cpu=True)
        progress = train(setup, new_state(setup, accelerator), accelerator)
        losses.append([next(progress).loss for _ in range(3)])
    (first, *_, small_third), (large_first, *_, large_third) = losses
    assert large_first == pytest.approx(first, abs=1e-5)
    assert abs(large_third - small_third) > 1e-3
