"""The whole walk by its commands: train with auxiliary objectives, export, serve, ask."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ner_service.formats import read_documents
from tests.serving.process import running
from tests.training.runs import set_options, write_run
from training.cli import app

OBJECTIVES = (
    "objectives.similarity.size=16",
    "objectives.similarity.batch_pairs=8",
    "objectives.univae.latent.num_latents=1",
    "model.encoder.num_layers=2",
)
FAST = ("epochs=24", "evaluate_every=24", "optimizer.lr=5e-3", "optimizer.head_lr=5e-3", "model.encoder.dropout=0.0")


def invoke(*arguments: object) -> None:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, trained and exported; its last epoch is the one that is measured, and so kept."""
    folder = tmp_path_factory.mktemp("walk")
    run = write_run(folder / "sample", num_train=24, num_dev=2)
    invoke("train", run, "-o", folder / "run", *set_options(*FAST, *OBJECTIVES))
    invoke("export", folder / "run/bundle", "-o", folder / "exported", "--precision", "fp16")
    return folder


def test_train_with_auxiliary_objectives_export_serve(folder: Path) -> None:
    documents = list(read_documents(folder / "sample/train.jsonl"))
    texts = [document.text for document in documents]
    command = [str(Path(sys.executable).with_name("ner-service")), "serve", "--model", str(folder / "exported")]
    with running(command, NER_DEVICE="cpu") as service:
        status, content = service.request("POST", "/v1/extract", {"inputs": texts})
        assert status == 200
        found = [
            {(entity["start"], entity["end"], entity["label"]) for entity in result["entities"]}
            for result in json.loads(content)["results"]
        ]
        gold = [{(e.start, e.end, e.label) for e in document.entities} for document in documents]
        hits = sum(len(one & other) for one, other in zip(found, gold, strict=True))
        assert 2 * hits > 1.8 * (sum(map(len, gold)) + sum(map(len, found))) / 2  # F1 above 0.9
        status, content = service.request("POST", "/v1/similar", {"input": texts[3], "candidates": texts})
        assert status == 200
        [best, *_] = json.loads(content)["results"]
        assert (best["index"], round(best["score"], 5)) == (3, 1.0)


def test_codes_of_the_trained_bundle_are_written(folder: Path) -> None:
    invoke("latent", "reconstruct", folder / "exported", "Ada left Eastwick.", "--device", "cpu")
