"""ner-train as a user meets it: init, train, evaluate, export, and what it says when it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ner_service.bundle import Bundle, read_manifest
from ner_service.cli import app as service
from tests.training.commands import invoke, refusal
from tests.training.runs import set_options, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run in `run`, its figures in `metrics.json`; dev documents are training documents, so it is good."""
    folder = tmp_path_factory.mktemp("cli")
    write_run(folder / "sample", num_train=24, num_dev=1)
    (folder / "sample/dev.jsonl").write_bytes((folder / "sample/train.jsonl").read_bytes())
    fast = ("epochs=16", "optimizer.lr=5e-3", "optimizer.head_lr=5e-3", "model.encoder.dropout=0.0", "seed=1")
    result = invoke("train", folder / "sample/run.toml", "-o", folder / "run", "--json", *set_options(*fast))
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("dev F1") == 16
    assert f"Wrote {folder}/run/bundle. Next: ner-service serve --model {folder}/run/bundle\n" in result.stderr
    (folder / "metrics.json").write_text(result.stdout, encoding="utf-8")
    return folder


def metrics(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return value


def test_init_says_what_comes_next(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with a name that is longer than a line of a narrow terminal would be"
    result = invoke("init", folder)
    assert result.exit_code == 0
    assert result.stderr == f"Wrote {folder}. Next: ner-train train {folder}/run.toml -o {folder}/run\n"
    assert refusal("init", folder) == f"{folder}: exists and is not empty; expected a new folder"


def test_the_bundle_says_how_it_was_made(folder: Path) -> None:
    manifest = read_manifest(folder / "run/bundle")
    assert manifest.labels == ("LOC", "ORG", "PER")
    assert manifest.run["epochs"] == 16
    assert manifest.run["optimizer"]["lr"] == 5e-3  # type: ignore[index]
    assert manifest.metrics == metrics(folder)


def test_figures_of_the_best_and_of_the_last_epoch(folder: Path) -> None:
    found = metrics(folder)
    f1 = {int(epoch): record["f1"] for epoch, record in found["history"].items()}
    assert list(f1) == list(range(1, 17))
    assert found["last_epoch_f1"] == f1[16]
    assert found["best_epoch"] == min(epoch for epoch in f1 if f1[epoch] == max(f1.values()))
    assert found["scores"]["micro"]["f1"] == f1[found["best_epoch"]] > 0.9
    assert found["unrepresentable_entities"] == 0


def test_a_run_that_measures_every_other_epoch(tmp_path: Path) -> None:
    """It learns nothing, so it ends by patience, after epoch 4; its files are JSON without Infinity."""
    run = write_run(tmp_path / "sample", num_train=8, num_dev=2)
    still = ("optimizer.lr=0.0", "optimizer.head_lr=0.0", "evaluate_every=2", "patience=1", "epochs=9")
    result = invoke("train", run, "-o", tmp_path / "run", "--json", *set_options(*still))
    assert result.exit_code == 0, result.stderr
    manifest = (tmp_path / "run/bundle/manifest.json").read_text(encoding="utf-8")
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert json.loads(manifest, parse_constant=pytest.fail)["metrics"] == found
    assert [set(record) for record in found["history"].values()] == [{"loss"}, {"loss", "f1"}] * 2
    assert found["best_epoch"] == 2
    assert found["last_epoch_f1"] == found["history"]["4"]["f1"]


def test_a_run_says_what_it_starts_from(folder: Path, tmp_path: Path) -> None:
    bundle = folder / "run/bundle"
    settings = set_options(f"model.start_from={bundle}", "epochs=1", 'data.labels=["PER", "ORG", "LOC"]')
    result = invoke("train", folder / "sample/run.toml", "-o", tmp_path / "run", *settings)
    assert result.exit_code == 0, result.stderr
    said = f"Starts from {bundle}; taken along: encoder; anew: spans\n"
    assert result.stderr.startswith(said)


def test_evaluate_measures_what_training_measured(folder: Path) -> None:
    result = invoke("evaluate", folder / "run/bundle", folder / "sample/dev.jsonl", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    for measure in ("calibration", "label_calibration"):  # of probabilities, which a run does not measure
        assert found.pop(measure)
    assert [*found.pop("sources").values()] == [*metrics(folder)["sources"].values()]  # here by path, there by name
    assert found.items() <= metrics(folder).items()
    table = invoke("evaluate", folder / "run/bundle", folder / "sample/dev.jsonl")
    assert table.exit_code == 0
    assert f"{metrics(folder)['scores']['micro']['f1']:.4f}" in table.stdout
    assert "\x1b" not in table.stdout


def test_export_in_half_precision_and_recognize(folder: Path) -> None:
    exported = folder / "exported"
    result = invoke(
        "export", folder / "run/bundle", "-o", exported, "--precision", "fp16", "--name", "mini", "--version", "2"
    )
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith(f"Wrote {exported}: 0.")
    manifest = read_manifest(exported)
    assert (manifest.name, manifest.version) == ("mini", "2")
    whole, half = Bundle.load(folder / "run/bundle").weights, Bundle.load(exported).weights
    assert all(str(half[name].dtype) == "torch.float16" and (half[name] == whole[name].half()).all() for name in whole)

    document = json.loads((folder / "sample/train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    answer = CliRunner().invoke(service, ["recognize", "--model", str(exported)], input=document["text"])
    assert answer.exit_code == 0, answer.stderr
    found = [{key: e[key] for key in ("start", "end", "label")} for e in json.loads(answer.stdout)["entities"]]
    assert found == document["entities"]


def test_entities_that_cannot_be_predicted_are_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "sample", num_train=8, num_dev=2)
    odd = {"id": "odd", "text": "Ines Valente left.", "entities": [{"start": 0, "end": 5, "label": "PER"}]}
    with (tmp_path / "sample/train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(odd) + "\n")
    result = invoke("train", run, "-o", tmp_path / "run", "--json", *set_options("epochs=1"))
    assert result.exit_code == 0, result.stderr
    assert "1 entities cannot be predicted" in result.stderr
    assert "'Ines '" in result.stderr
    assert json.loads(result.stdout)["unrepresentable_entities"] == 1


def test_labels_are_counted_before_the_first_step(tmp_path: Path) -> None:
    """Here a mistyped one shows, and one that is measured on nothing."""
    run = write_run(tmp_path / "sample", num_train=8, num_dev=2)
    typo = {"id": "t", "text": "Ines left.", "entities": [{"start": 0, "end": 4, "label": "PRE"}]}
    with (tmp_path / "sample/train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(typo) + "\n")
    result = invoke("train", run, "-o", tmp_path / "run", "--json", *set_options("epochs=1"))
    assert result.exit_code == 0, result.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stderr.split("epoch 1")[0].splitlines()]
    assert ["documents", "9", "2"] in rows
    assert ["PRE", "1", "0"] in rows


def test_a_bad_line_is_refused_naming_file_line_and_reason(tmp_path: Path) -> None:
    run = write_run(tmp_path / "sample", num_train=3, num_dev=1)
    data = tmp_path / "sample/train.jsonl"
    good = data.read_text(encoding="utf-8")
    bad = {
        '{"text": "Bo", "entities": [{"start": 0, "end": 3, "label": "PER"}]}': (
            "entities[0]: found the span [0, 3), expected 0 <= start < end <= 2, the length of the text"
        ),
        '{"text": "Bo"}': "entities: missing; found the keys 'text', expected a list",
        "Bo sat.": "found no valid JSON (Expecting value: line 1 column 1 (char 0)), expected an object",
    }
    for line, reason in bad.items():
        data.write_text(f"{good}{line}\n", encoding="utf-8")
        said = refusal("train", run, "-o", tmp_path / "run", *set_options("data.train.0.format=jsonl"))
        assert said == f"{data}:4: {reason}"
    assert not (tmp_path / "run").exists()


def test_a_bad_line_is_refused_by_evaluate(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "Bo", "entities": []}\n{"text": 7, "entities": []}\n', encoding="utf-8")
    said = refusal("evaluate", folder / "run/bundle", data)
    assert said == f"{data}:2: text: found 7, expected a string"


def test_refusals_of_train(folder: Path, tmp_path: Path) -> None:
    run, output = folder / "sample/run.toml", tmp_path / "run"
    assert (
        refusal("train", tmp_path / "no.toml", "-o", output) == f"{tmp_path}/no.toml: not found; expected a run in TOML"
    )
    said = refusal("train", run, "-o", output, "--set", "optimizer.lrs=1")
    assert said == f"{run}: optimizer.lrs: unknown key; did you mean 'lr'?"
    said = refusal("train", run, "-o", output, "--set", "data.train.0.path=no.jsonl")
    assert said.startswith(f"{folder}/sample/no.jsonl: cannot be read: ")
    said = refusal("train", run, "-o", output, "--set", "data.train.0.format=xml")
    assert said.startswith("format: found 'xml', expected one of jsonl, ")
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert refusal("train", run, "-o", tmp_path / "file", *set_options()) == f"{tmp_path}/file: File exists"


def test_refusals_of_evaluate_and_export(folder: Path, tmp_path: Path) -> None:
    data = folder / "sample/dev.jsonl"
    expected = f"{tmp_path}/manifest.json: not found; expected a bundle folder with a manifest"
    assert refusal("evaluate", tmp_path, data) == expected
    assert refusal("export", tmp_path, "-o", tmp_path / "out") == expected
    (tmp_path / "taken").mkdir()
    said = refusal("export", folder / "run/bundle", "-o", tmp_path / "taken")
    assert said == f"{tmp_path}/taken: exists and is not a bundle; expected a new path or an older bundle"


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "run.toml"],
        ["fly"],
        ["export", "a", "-o", "b", "--precision", "fp8"],
        ["evaluate", "a", "b", "--device", "tpu"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("has_bf16", [True, False])
def test_train_in_bf16_where_the_processor_has_it(
    has_bf16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.assembly.cpu_has_bf16", lambda: has_bf16)
    run = write_run(tmp_path / "sample", num_train=8, num_dev=2)
    result = invoke("train", run, "-o", tmp_path / "run", *set_options("epochs=1", "precision=bf16", "device=cpu"))
    assert result.exit_code == 0, result.stderr
    assert ("no bf16 arithmetic: training in fp32" in result.stderr) is not has_bf16
    weights = Bundle.load(tmp_path / "run/bundle").weights
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float32"}


def test_documents_from_another_folder(tmp_path: Path, run_folder: Path) -> None:
    """`--data` moves the documents, not the run: the bundle is the same."""
    run = tmp_path / "run.toml"
    run.write_bytes((run_folder / "run.toml").read_bytes())
    result = invoke(
        "train", run, "--data", run_folder, "-o", tmp_path / "run", *set_options("epochs=1", "batch.tokens=2048")
    )
    assert result.exit_code == 0, result.stderr
    assert refusal("train", run, "-o", tmp_path / "other").startswith(f"{tmp_path}/train.jsonl: cannot be read")
