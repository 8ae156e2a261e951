"""ner-train calibrate, and how it and evaluate are given documents."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ner_service.bundle import Bundle, read_manifest
from ner_service.formats import read_documents, write_documents
from ner_service.recognizer import Recognizer
from ner_service.types import Document, Entity, Recognition
from tests.training.commands import invoke, refusal
from training.cli.documents import named_in_run, sources_of
from training.config import SourceConfig

TEXTS = ("Ada Lovelace wrote to London.", "北京大学在上海。", "May opened a laboratory.", "李雷去了广州。")


def told(*arguments: object) -> dict[str, Any]:
    """What a command answers with `--json`."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout, parse_constant=pytest.fail)
    return value


@pytest.fixture(scope="module")
def folder(tiny_bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of which the model finds every second entity in `gold.jsonl`; the same with other names in `named`."""
    folder = tmp_path_factory.mktemp("documents")
    texts = [f"{one} {other}" for one in TEXTS for other in TEXTS]
    gold, named = [], []
    for text, answer in zip(texts, Recognizer.load(tiny_bundle_folder, "cpu").recognize(texts), strict=True):
        assert isinstance(answer, Recognition)
        entities = [Entity(e.start, e.end, e.label) for e in answer.entities[::2]]
        gold.append(Document(text, tuple(entities)))
        named.append(Document(text, tuple(Entity(e.start, e.end, e.label.lower()) for e in entities)))
    write_documents(gold, folder / "gold.jsonl")
    write_documents(named, folder / "named.jsonl")
    return folder


def write_sources(path: Path, more: str = "") -> Path:
    path.write_text(
        '[[data.dev]]\npath = "named.jsonl"\nlabels = { per = "PER", org = "ORG", loc = "LOC" }\n' + more,
        encoding="utf-8",
    )
    return path


def test_a_calibrated_bundle_says_so(tiny_bundle_folder: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "calibrated"
    figures = told("calibrate", tiny_bundle_folder, folder / "gold.jsonl", "-o", output)
    manifest = read_manifest(output)
    assert manifest.calibration is not None
    for index, label in enumerate(manifest.labels):
        fit = figures["label_calibration"][label]
        assert (fit["slope"], fit["intercept"]) == (
            manifest.calibration.slopes[index],
            manifest.calibration.intercepts[index],
        )
        assert fit["threshold"] == manifest.thresholds[label]
    assert figures["calibration"]["documents"] == 16
    assert figures["calibration"]["gold"] == sum(len(d.entities) for d in read_documents(folder / "gold.jsonl"))
    assert dict(manifest.metrics) == figures
    before, after = Bundle.load(tiny_bundle_folder), Bundle.load(output)
    assert all((after.weights[name] == weight).all() for name, weight in before.weights.items())
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "Scores are probabilities: calibrated on held-out texts." in card
    assert "### label_calibration\n\n|  | slope | intercept | threshold |" in card


def test_a_card_has_the_figures_of_the_thresholds_it_names(tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    """Calibration takes away what was measured before it, and `evaluate` writes what is measured then."""
    before = {"best_epoch": 2, "macro_f1": 0.9, "labels": {"PER": {"f1": 0.9}}, "history": {"1": {"loss": 3.5}}}
    replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, metrics=before)).save(tmp_path / "trained")
    figures = told("calibrate", tmp_path / "trained", folder / "gold.jsonl", "-o", tmp_path / "calibrated")
    kept = {"best_epoch": 2, "history": {"1": {"loss": 3.5}}}
    assert dict(read_manifest(tmp_path / "calibrated").metrics) == {**kept, **figures}
    report = told("evaluate", tmp_path / "calibrated", folder / "gold.jsonl", "-o", tmp_path / "measured")
    assert dict(read_manifest(tmp_path / "measured").metrics) == {**kept, **report}
    assert report == told("evaluate", tmp_path / "measured", folder / "gold.jsonl")
    assert "### sources" in (tmp_path / "measured" / "README.md").read_text(encoding="utf-8")


def test_evaluation_tells_what_no_span_fits(
    tiny_bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as not found, and is listed with its file."""
    monkeypatch.chdir(tmp_path)
    odd = {"id": "odd", "text": "Ines Valente left.", "entities": [{"start": 0, "end": 5, "label": "PER"}]}
    Path("odd.jsonl").write_text(json.dumps(odd), encoding="utf-8")
    result = invoke("evaluate", tiny_bundle_folder, "odd.jsonl", "--json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["unrepresentable_entities"] == 1
    assert figures["labels"]["PER"]["support"] == 1
    assert "1 entities cannot be predicted" in result.stderr
    assert "odd.jsonl" in result.stderr


def test_labels_that_the_bundle_has_not_are_warned_of(tiny_bundle_folder: Path, folder: Path) -> None:
    result = invoke("evaluate", tiny_bundle_folder, folder / "named.jsonl", "--json")
    found, known = "'loc', 'org', 'per'", "'PER', 'ORG', 'LOC'"
    missed = "which the bundle has not: each of their mentions counts as missed"
    assert result.stderr == f"warning: found the labels {found}, {missed}. It has {known}\n"
    assert json.loads(result.stdout)["scores"]["micro"]["recall"] == 0.0
    assert "warning" not in invoke("evaluate", tiny_bundle_folder, folder / "gold.jsonl").stderr


def test_calibrating_twice_and_exporting(tiny_bundle_folder: Path, folder: Path, tmp_path: Path) -> None:
    once, twice, exported = (tmp_path / name for name in ("once", "twice", "exported"))
    told("calibrate", tiny_bundle_folder, folder / "gold.jsonl", "-o", once)
    told("calibrate", once, folder / "gold.jsonl", "-o", twice)
    assert invoke("export", twice, "-o", exported, "--precision", "fp16").exit_code == 0
    first, second, third = map(read_manifest, (once, twice, exported))
    assert first.calibration == second.calibration == third.calibration
    assert first.thresholds == second.thresholds == third.thresholds


def test_a_table_for_people(tiny_bundle_folder: Path, folder: Path, tmp_path: Path) -> None:
    result = invoke("calibrate", tiny_bundle_folder, folder / "gold.jsonl", "-o", tmp_path / "calibrated")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines() if "→" in line] == ["all", "PER", "ORG", "LOC"]
    assert result.stderr == f"Wrote {tmp_path}/calibrated\n"


def test_documents_with_other_labels(tiny_bundle_folder: Path, folder: Path, tmp_path: Path) -> None:
    """Both verbs read `data.dev` of a TOML file, from its folder or another, and several files together."""
    plain = told("evaluate", tiny_bundle_folder, folder / "gold.jsonl")
    [score] = plain.pop("sources").values()
    elsewhere = write_sources(tmp_path / "run.toml", 'format = "jsonl"\n[model]\nstart_from = "x"\n')
    for named in ([write_sources(folder / "sources.toml")], [elsewhere, "--data", folder]):
        found = told("evaluate", tiny_bundle_folder, *named)
        assert found.pop("sources") == {"named.jsonl": score}
        assert found == plain
    both = told("evaluate", tiny_bundle_folder, elsewhere, folder / "gold.jsonl", "--data", folder)
    assert both["sources"] == {"named.jsonl": score, str(folder / "gold.jsonl"): score}
    assert both["documents"] == 2 * plain["documents"]
    assert both["scores"]["micro"]["f1"] == plain["scores"]["micro"]["f1"]
    fits = [
        told("calibrate", tiny_bundle_folder, data, "-o", tmp_path / "calibrated")["label_calibration"]
        for data in (folder / "sources.toml", folder / "gold.jsonl")
    ]
    assert fits[0] == fits[1]


def test_documents_of_the_bundles_own_run_are_warned_of(tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    run = {"data": {"train": [{"path": "train.jsonl"}], "dev": [{"path": "gold.jsonl"}]}}
    replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, run=run)).save(tmp_path / "bundle")
    result = invoke("calibrate", tmp_path / "bundle", folder / "gold.jsonl", "-o", tmp_path / "calibrated")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(f"warning: {folder}/gold.jsonl is named in the bundle's own run: ")
    other = invoke("calibrate", tmp_path / "bundle", folder / "sources.toml", "-o", tmp_path / "other")
    assert "warning" not in other.stderr


@pytest.mark.parametrize(
    ("argument", "in_run", "same"),
    [
        ("gold.jsonl", "gold.jsonl", True),
        ("/data/ner/gold.jsonl", "gold.jsonl", True),
        ("gold.jsonl", "/data/ner/gold.jsonl", True),
        ("./ner/gold.jsonl", "/data/ner/gold.jsonl", True),
        ("/data/ner/gold.jsonl", "/data/ner/gold.jsonl", True),
        ("/data/ner/gold.jsonl", "/copy/ner/gold.jsonl", False),
        ("/ner/gold.jsonl", "/data/ner/gold.jsonl", False),
        ("old.jsonl", "/data/ner/gold.jsonl", False),
        ("other/gold.jsonl", "/data/ner/gold.jsonl", False),
    ],
)
def test_which_file_a_run_names(argument: str, in_run: str, same: bool) -> None:
    """The shorter path is the end of the longer, in whole parts, whichever of the two is the argument."""
    source = SourceConfig(path=argument)
    for part in ("train", "dev"):
        assert named_in_run([source], {"data": {part: [{"path": in_run}]}}) == [argument] * same
    assert named_in_run([source], {}) == []


@pytest.mark.parametrize(("part", "named"), [((0.9, 1.0), False), ((0.85, 1.0), True), ((0.0, 0.1), True)])
def test_parts_without_a_common_text_are_not_warned_of(part: tuple[float, float], named: bool) -> None:
    run = {"data": {"train": [{"path": "a", "part": [0.0, 0.8]}], "dev": [{"path": "a", "part": [0.8, 0.9]}]}}
    assert named_in_run([SourceConfig(path="a", part=part)], run) == ["a"] * named


def test_refusals(tiny_bundle_folder: Path, tiny_embedding_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "calibrated"
    tiny_embedding_bundle.save(tmp_path / "vectors")
    assert "spans" in refusal("calibrate", tmp_path / "vectors", folder / "gold.jsonl", "-o", output)
    said = refusal("calibrate", tiny_bundle_folder, folder / "named.jsonl", "-o", output)
    place = f"{folder}/named.jsonl, document 'Ada Lovelace wrote to London. Ada Lovela…'"
    assert said.startswith(f"{place}: found the label '")
    assert said.endswith("expected one of 'PER', 'ORG', 'LOC'; rename it")
    assert not output.exists()


def test_a_file_is_not_read_twice(tiny_bundle_folder: Path, folder: Path) -> None:
    """Its documents would count twice; parts that have no text in common are two files."""
    gold, again = folder / "gold.jsonl", folder / ".." / folder.name / "gold.jsonl"
    expected = "found twice, expected once: its documents would count twice"
    assert refusal("evaluate", tiny_bundle_folder, gold, again) == f"{again}: {expected}"
    parts = 'part = [0.0, 0.5]\n[[data.dev]]\npath = "named.jsonl"\npart = [{}, 1.0]\n'
    assert len(sources_of([write_sources(folder / "parts.toml", parts.format(0.5))], "auto", None)) == 2
    common = write_sources(folder / "common.toml", parts.format(0.4))
    assert refusal("evaluate", tiny_bundle_folder, common) == f"named.jsonl: {expected}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "not TOML: "),
        ('name = "run"', "data.dev: found None, expected tables [[data.dev]], each with a `path`"),
        ("[data]\ndev = 3", "data.dev: found 3, expected tables [[data.dev]], each with a `path`"),
        ('[[data.dev]]\npaht = "x"', "data.dev[0].paht: unknown key; did you mean 'path'?"),
        (
            '[[data.dev]]\npath = "x"\n[[data.dev]]\npath = "y"\ninner = { ORG = ["LOC"] }',
            "data.dev[1].inner: found {'ORG': ('LOC',)}, expected none: gold alone is measured by",
        ),
    ],
)
def test_a_toml_file_that_names_no_documents(tiny_bundle_folder: Path, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "sources.toml"
    path.write_text(text, encoding="utf-8")
    assert refusal("evaluate", tiny_bundle_folder, path).startswith(f"{path}: {said}")
    assert refusal("evaluate", tiny_bundle_folder, tmp_path / "no.toml").endswith("no.toml: No such file or directory")
