"""Encoders that do not attend, as a user meets them: trained by one word in a run, exported, served, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from ner_service.bundle import Bundle, read_manifest
from ner_service.recognizer import Recognizer
from ner_service.serving.app import build_app
from ner_service.serving.metrics import Metrics
from ner_service.serving.registry import Registry
from ner_service.serving.server import load_model
from ner_service.serving.settings import Settings
from ner_service.types import Recognition
from tests.serving.conftest import until
from tests.training.commands import invoke, refusal
from tests.training.raw_runs import set_raw_options, write_raw_run
from tests.training.runs import set_options, write_run
from training.sample import sample_documents

SIZES = "hidden_size = 32, num_layers = 2, intermediate_size = 64"
ENCODERS = {
    "gmlp": f'{{ kind = "gmlp", {SIZES}, kernel_size = 7 }}',
    "amlp": f'{{ kind = "gmlp", {SIZES}, kernel_size = 7, attention_size = 8 }}',
    "fnet": f'{{ kind = "fnet", {SIZES} }}',
    "hypermixer": f'{{ kind = "hypermixer", {SIZES}, num_heads = 2, mixing_size = 32 }}',
}
CLASSES = {"gmlp": "GMLP", "amlp": "GMLP", "fnet": "FNet", "hypermixer": "HyperMixer"}
THRESHOLD = 0.5
SENTENCES = [document.text for document in sample_documents(12)]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents whose dev part is their training part, and a run on them."""
    folder = tmp_path_factory.mktemp("attention_free") / "sample"
    write_run(folder, num_train=24, num_dev=1)
    (folder / "dev.jsonl").write_bytes((folder / "train.jsonl").read_bytes())
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of raw text and pairs."""
    return write_raw_run(tmp_path_factory.mktemp("attention_free") / "raw", num_texts=60).parent


@pytest.fixture(scope="module", params=ENCODERS)
def trained(request: pytest.FixtureRequest, sample: Path) -> tuple[str, Path]:
    """A kind and its bundle, which knows its training documents; trained in bf16."""
    kind: str = request.param
    settings = (
        f"model.encoder={ENCODERS[kind]}",
        "model.encoder.dropout=0.0",
        "epochs=25",
        "evaluate_every=25",
        "optimizer.lr=5e-3",
        "optimizer.head_lr=5e-3",
        'precision="bf16"',
    )
    result = invoke("train", sample / "run.toml", "-o", sample / kind, "--json", *set_options(*settings))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["last_epoch_f1"] > 0.9
    return kind, sample / kind / "bundle"


def entities(answers: list[Any]) -> list[list[tuple[int, int, str, float]]]:
    assert all(isinstance(answer, Recognition) for answer in answers)
    return [[(e.start, e.end, e.label, e.score) for e in answer.entities] for answer in answers]


def assert_alike(found: list[list[tuple[int, int, str, float]]], expected: Any, tolerance: float) -> None:
    """The same entities in the same order, with scores as near."""
    for ours, theirs in zip(found, expected, strict=True):
        assert [entity[:3] for entity in ours] == [entity[:3] for entity in theirs]
        assert [entity[3] for entity in ours] == pytest.approx([entity[3] for entity in theirs], abs=tolerance)


def test_the_manifest_says_which_encoder_it_is(trained: tuple[str, Path]) -> None:
    kind, folder = trained
    encoder = read_manifest(folder).model.encoder
    assert encoder.kind == ("gmlp" if kind == "amlp" else kind)
    assert type(Recognizer.load(folder, "cpu").model.encoder).__name__ == CLASSES[kind]


def test_in_company_texts_have_the_entities_that_they_have_alone(trained: tuple[str, Path]) -> None:
    recognizer = Recognizer.load(trained[1], "cpu")
    together = entities(recognizer.recognize(SENTENCES))
    assert sum(map(len, together)) > 12
    assert_alike(together, [entities(recognizer.recognize([text]))[0] for text in SENTENCES], 1e-5)


def test_a_half_precision_export_finds_the_same(trained: tuple[str, Path], tmp_path: Path) -> None:
    """What one alone finds is as near to the threshold as scores are to each other."""
    _, folder = trained
    result = invoke("export", folder, "-o", tmp_path / "half", "--precision", "fp16")
    assert result.exit_code == 0, result.output
    assert {weight.dtype for weight in Bundle.load(tmp_path / "half").weights.values()} == {torch.float16}
    half, single = (Recognizer.load(path, "cpu") for path in (tmp_path / "half", folder))
    for ours, theirs in zip(entities(half.recognize(SENTENCES)), entities(single.recognize(SENTENCES)), strict=True):
        first, second = ({entity[:3]: entity[3] for entity in each} for each in (ours, theirs))
        for key in first.keys() | second.keys():
            assert first.get(key, THRESHOLD) == pytest.approx(second.get(key, THRESHOLD), abs=0.02), key


def test_it_is_served_as_any_other(trained: tuple[str, Path]) -> None:
    _, folder = trained
    settings, metrics = Settings(model=folder, device="cpu"), Metrics()
    model = load_model(settings, metrics, lambda: None)
    with TestClient(build_app(settings, Registry(model), metrics)) as client:
        until(lambda: client.get("/health/ready").status_code == 200)
        results = client.post("/v1/extract", json={"inputs": SENTENCES}).json()["results"]
    served = [[(e["start"], e["end"], e["label"], e["score"]) for e in result["entities"]] for result in results]
    assert_alike(served, entities(Recognizer.load(folder, "cpu").recognize(SENTENCES)), 1e-5)


def test_it_is_not_enlarged(trained: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = trained
    kind = read_manifest(folder).model.encoder.kind
    said = refusal("enlarge", folder, "--width-factor", "2", "-o", tmp_path / "large")
    assert f"enlarge: found an encoder of kind '{kind}', expected 'roformer' or 'roformer_v2'" in said
    assert not (tmp_path / "large").exists()


@pytest.mark.parametrize("kind", ENCODERS)
def test_masked_words_and_contrast_are_learnt(kind: str, raw: Path) -> None:
    settings = (
        f"model.encoder={ENCODERS[kind]}",
        "objectives.masked_language_model.weight=1.0",
        "objectives.similarity={ size = 8, batch_pairs = 16, generation = 0.0, noise = 0.0 }",
    )
    output = raw / kind
    result = invoke("pretrain", raw / "run.toml", "-o", output, "--json", *set_raw_options(*settings))
    assert result.exit_code == 0, result.output
    losses = json.loads(result.stdout)["history"]
    assert losses["2"]["masked_language_model"] < losses["1"]["masked_language_model"]
    heads = read_manifest(output / "bundle").model.heads
    assert heads.embedding is not None
    assert heads.language_model is not None


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize(
    ("objective", "where"),
    [
        ("objectives.similarity={ size = 8, batch_pairs = 16 }", "objectives.similarity.generation"),
        ("objectives.univae={ latent = { num_latents = 1 } }", "heads.latent"),
    ],
)
def test_what_needs_another_mask_is_refused(kind: str, objective: str, where: str, raw: Path) -> None:
    settings = (f"model.encoder={ENCODERS[kind]}", objective)
    said = refusal("pretrain", raw / "run.toml", "-o", raw / "refused", *set_raw_options(*settings))
    assert said == (
        f"{where}: found the encoder {CLASSES[kind]}, expected one that attends under any mask: "
        "'roformer' or 'roformer_v2'"
    )
    assert not (raw / "refused").exists()


@pytest.mark.parametrize("kind", ENCODERS)
def test_it_learns_from_a_teacher_that_attends(kind: str, raw: Path) -> None:
    settings = (
        f"model.encoder={ENCODERS[kind]}",
        'objectives.distillation={ teacher = "teacher", weight = 0.01 }',
        'tokenizer.file="teacher/tokenizer.json"',
    )
    output = raw / f"{kind}-distilled"
    result = invoke("pretrain", raw / "run.toml", "-o", output, "--json", *set_raw_options(*settings))
    assert result.exit_code == 0, result.output
    losses = json.loads(result.stdout)["history"]
    assert losses["2"]["distillation"] < losses["1"]["distillation"]


def test_what_another_kind_has_is_unknown_to_it(sample: Path) -> None:
    settings = set_options('model.encoder.kind="gmlp"')
    said = refusal("train", sample / "run.toml", "-o", sample / "refused", *settings)
    assert "model.encoder.num_heads: unknown key of kind 'gmlp'; " in said
