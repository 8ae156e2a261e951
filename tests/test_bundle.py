"""A bundle on disk: the same after a round trip, refused when damaged, whole whenever a save is killed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ner_service.bundle import Bundle, Manifest, read_manifest
from ner_service.bundle.card import model_card
from ner_service.bundle.manifest import manifest_digest
from ner_service.decoding import Calibration
from ner_service.errors import BundleError
from ner_service.types import WindowLimits
from tests.commands import files_end_at

FILES = ("model.safetensors", "tokenizer.json", "README.md")


@pytest.fixture
def folder(tiny_bundle_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(tiny_bundle_folder, tmp_path / "tiny")


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """As someone who knows the format would, with its digest."""
    path = folder / "manifest.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    del value["sha256"]
    change(value)
    path.write_text(json.dumps({**value, "sha256": manifest_digest(value)}), encoding="utf-8")


def test_a_round_trip_changes_nothing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    full = dataclasses.replace(
        tiny_bundle.manifest,
        version="7",
        description="Finds people, 组织 and places.",
        licence="Apache-2.0",
        thresholds={"PER": 0.25, "ORG": 0.5, "LOC": 0.75},
        calibration=Calibration(slopes=(1.5, 2.0, 2.5), intercepts=(0.1, 0.0, -0.1)),
        metrics={"micro": {"f1": 0.5}, "num_documents": 3},
        data_sha256="ab" * 32,
        run={"seed": 3, "optimizer": {"lr": 2e-5}},
    )
    saved = dataclasses.replace(tiny_bundle, manifest=full).save(tmp_path / "full")
    assert set(saved.files) == set(FILES)
    loaded = Bundle.load(tmp_path / "full")
    assert loaded.manifest == saved == read_manifest(tmp_path / "full")
    assert dataclasses.replace(loaded.manifest, files={}) == full
    assert loaded.tokenizer.to_json() == tiny_bundle.tokenizer.to_json()
    assert loaded.weights.keys() == tiny_bundle.weights.keys()
    for name, tensor in tiny_bundle.weights.items():
        assert torch.equal(loaded.weights[name], tensor)
        assert loaded.weights[name].dtype == tensor.dtype


def test_weights_keep_their_precision(tiny_bundle: Bundle, tmp_path: Path) -> None:
    half = {name: tensor.to(torch.bfloat16) for name, tensor in tiny_bundle.weights.items()}
    dataclasses.replace(tiny_bundle, weights=half).save(tmp_path / "half")
    assert {tensor.dtype for tensor in Bundle.load(tmp_path / "half").weights.values()} == {torch.bfloat16}


def test_the_same_bundle_gives_the_same_bytes(tiny_bundle: Bundle, tiny_bundle_folder: Path, tmp_path: Path) -> None:
    tiny_bundle.save(tmp_path / "again")
    for path in tiny_bundle_folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_a_folder_holds_the_four_files_and_no_pickle(tiny_bundle_folder: Path) -> None:
    assert {path.name for path in tiny_bundle_folder.iterdir()} == {"manifest.json", *FILES}
    for path in tiny_bundle_folder.iterdir():
        content = path.read_bytes()
        # A pickle of protocol 2 or later begins with 0x80; torch.save makes a zip of them.
        assert not content.startswith((b"\x80", b"PK"))


def test_other_users_may_read_it(tiny_bundle_folder: Path) -> None:
    assert tiny_bundle_folder.stat().st_mode & 0o055 == 0o055


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("position", [0, 100, -1])
def test_an_altered_byte_is_found(folder: Path, name: str, position: int) -> None:
    content = bytearray((folder / name).read_bytes())
    content[position] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name}: altered: found SHA-256 [0-9a-f]{{64}}, expected"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_found(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(BundleError, match=f"{name}: found {len(content) - 1} bytes, expected {len(content)}"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: cannot be read: No such file"):
        Bundle.load(folder)


def test_a_folder_in_place_of_a_file_is_named(folder: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "README.md").mkdir()
    with pytest.raises(BundleError, match=r"README\.md: cannot be read"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as JSON"),
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[]", "found format_version None, expected 2"),
        (b"{}", "found format_version None, expected 2"),
        (b'{"format_version": 1}', "found format_version 1, expected 2"),
        (b'{"format_version": 2}', "altered: found sha256 None, expected"),
    ],
)
def test_a_manifest_that_is_none_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=rf"manifest\.json: .*{message}"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["thresholds"].update(PER=0.999),
        lambda value: value.update(labels=value["labels"][::-1]),
        lambda value: value["metrics"].update(macro_f1=0.99),
        lambda value: value.update(sha256=None),
    ],
)
def test_an_altered_manifest_is_found(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(BundleError, match=r"manifest\.json: altered: found sha256 .*, expected '[0-9a-f]{64}'"):
        Bundle.load(folder)


def test_a_manifest_may_be_laid_out_anew(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = read_manifest(folder)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), sort_keys=True), encoding="utf-8")
    assert read_manifest(folder) == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.pop("name"), "name: missing"),
        (lambda value: value.update(lables=[]), "lables: unknown key; did you mean 'labels'"),
        (lambda value: value.pop("model"), "model: missing"),
        (lambda value: value.update(max_candidates="many"), "max_candidates: found 'many', expected a whole number"),
        (lambda value: value["model"]["encoder"].update(num_heads=5), "expected heads of one even width"),
        (lambda value: value["model"]["encoder"].update(kind="lstm"), "kind: found 'lstm'"),
        (lambda value: value["window"].update(overlap_tokens=99), "overlap_tokens is 99, expected 0 to 31"),
        (lambda value: value["thresholds"].pop("PER"), "expected one for each of"),
        (lambda value: value["thresholds"].update(PER=1.5), "expected probabilities"),
        (lambda value: value["thresholds"].update(PER=float("nan")), "expected probabilities"),
        (lambda value: value.update(labels=["PER", "PER", "ORG", "LOC"]), "each once"),
        (lambda value: value.update(labels=[], thresholds={}), "expected some where"),
        (lambda value: value.update(calibration={"slopes": [1], "intercepts": [0]}), "calibration of 1 labels"),
        (lambda value: value["files"].pop("tokenizer.json"), "files: found .* expected .*tokenizer.json"),
        (lambda value: value["files"].update({"more.bin": value["files"]["README.md"]}), "found .*more.bin"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    rewrite_manifest(folder, change)
    with pytest.raises(BundleError, match=rf"manifest\.json: .*{message}"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "..", ".", "", "inner/file"])
def test_no_file_outside_the_folder_is_read(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_bytes(b"hidden")
    rewrite_manifest(folder, lambda value: value["files"].update({name: value["files"].pop("README.md")}))
    with pytest.raises(BundleError, match=r"manifest\.json: files: found"):
        Bundle.load(folder)


def with_content(bundle_folder: Path, name: str, content: bytes) -> None:
    """Replace a file and its record, as someone who knows the format would."""
    import hashlib

    (bundle_folder / name).write_bytes(content)
    record = {"sha256": hashlib.sha256(content).hexdigest(), "num_bytes": len(content)}
    rewrite_manifest(bundle_folder, lambda value: value["files"].update({name: record}))


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.safetensors", b"\x80\x04N."), ("tokenizer.json", b"{}"), ("tokenizer.json", b"\xff")],
)
def test_a_file_of_another_kind_is_refused_even_with_its_digest(folder: Path, name: str, content: bytes) -> None:
    with_content(folder, name, content)
    with pytest.raises(BundleError, match=f"{name}: "):
        Bundle.load(folder)


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_a_path_without_a_bundle_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(BundleError, match=rf"{place}/manifest\.json: "):
        Bundle.load(tmp_path / place)


def test_saving_replaces_a_bundle_and_nothing_else(tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    newer = dataclasses.replace(tiny_bundle, manifest=dataclasses.replace(tiny_bundle.manifest, version="2"))
    newer.save(folder)
    assert read_manifest(folder).version == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    for taken in (tmp_path / "notes.txt", tmp_path / "notes"):
        if taken.suffix:
            taken.write_text("mine")
        else:
            taken.mkdir()
        with pytest.raises(BundleError, match="exists and is not a bundle"):
            newer.save(taken)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_saving_takes_no_other_file_along(tiny_bundle: Bundle, folder: Path) -> None:
    (folder / "NOTICE").write_text("mine")
    (folder / "figures").mkdir()
    with pytest.raises(BundleError, match="found NOTICE, figures in it, expected a new path or an older bundle alone"):
        tiny_bundle.save(folder)
    assert (folder / "NOTICE").read_text() == "mine"
    assert read_manifest(folder).version == "1"


def test_saving_follows_a_link(tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    newer = dataclasses.replace(tiny_bundle, manifest=dataclasses.replace(tiny_bundle.manifest, version="2"))
    newer.save(tmp_path / "current")
    assert (tmp_path / "current").is_symlink()
    assert read_manifest(folder).version == "2"


def test_a_save_that_fails_leaves_the_old_bundle_and_no_litter(tiny_bundle: Bundle, folder: Path) -> None:
    meta = {name: tensor.to("meta") for name, tensor in tiny_bundle.weights.items()}
    with pytest.raises(Exception, match=r"meta|storage|data"):
        dataclasses.replace(tiny_bundle, weights=meta).save(folder)
    assert Bundle.load(folder).manifest.version == "1"
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_a_full_disk_is_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with files_end_at(1000), pytest.raises(OSError, match="File too large") as caught:
        tiny_bundle.save(tmp_path / "bundle")
    assert caught.value.filename == str(tmp_path / "bundle/model.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", ["ours", "remove, then rename"])
def test_a_save_killed_at_any_step_leaves_the_old_bundle_or_the_new(folder: Path, way: str) -> None:
    """Killed before each of its steps on the file system in turn; the twin removes the old bundle first."""
    command = [sys.executable, "-m", "tests.killed_saves", str(folder), way]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert len(outcomes) > 15
    if way == "ours":
        assert set(outcomes) == {"old", "new"}
    else:
        assert "broken" in outcomes


def test_the_card_tells_labels_thresholds_and_measures(tiny_bundle: Bundle) -> None:
    manifest: Manifest = dataclasses.replace(
        tiny_bundle.manifest,
        description="For tests.",
        thresholds={"PER": 0.25, "ORG": 0.5, "LOC": 0.75},
        window=WindowLimits(max_tokens=48, overlap_tokens=12),
        metrics={"num_documents": 3, "micro": {"f1": 0.51239}, "labels": {"PER": {"f1": 0.25, "support": 8}}},
    )
    card = model_card(manifest)
    assert card.startswith("# tiny (version 1)\n\nFor tests.\n")
    for line in (
        "| PER | 0.25 |",
        "- num_documents: 3",
        "| f1 | 0.5124 |",
        "| PER | 0.2500 | 8 |",
        "sigma(2s), not calibrated",
        "reads 48 tokens",
        "up to 12 tokens",
        "Encoder `roformer`; heads: `spans`.",
    ):
        assert line in card
    assert "Nothing yet." in model_card(tiny_bundle.manifest)


def test_a_label_with_a_bar_stands_in_one_cell_of_the_card(tiny_bundle: Bundle) -> None:
    manifest = dataclasses.replace(
        tiny_bundle.manifest, labels=("A|B", "ORG", "LOC"), thresholds={"A|B": 0.5, "ORG": 0.5, "LOC": 0.5}
    )
    assert "| A\\|B | 0.50 |" in model_card(manifest)


def test_the_card_says_how_a_run_starts_from_a_bundle_without_labels(tiny_embedding_bundle: Bundle) -> None:
    card = model_card(tiny_embedding_bundle.manifest)
    assert "ner-train train RUN --set model.start_from=FOLDER\n```" in card
    assert card.endswith("`model.start_from` counts from the folder of RUN, so give FOLDER in full.\n")


def test_the_cards_history_has_what_only_some_epochs_measured(tiny_bundle: Bundle) -> None:
    history = {"1": {"loss": 0.5}, "2": {"loss": 0.25, "f1": 0.75}}
    card = model_card(dataclasses.replace(tiny_bundle.manifest, metrics={"history": history}))
    assert "|  | loss | f1 |\n| --- | --- | --- |\n| 1 | 0.5000 |  |\n| 2 | 0.2500 | 0.7500 |" in card


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_manifest_is_json_to_every_reader(tiny_bundle: Bundle, tmp_path: Path, value: float) -> None:
    """NaN and Infinity are Python's, not JSON's."""
    bundle = dataclasses.replace(
        tiny_bundle, manifest=dataclasses.replace(tiny_bundle.manifest, metrics={"loss": value})
    )
    with pytest.raises(BundleError, match=r"manifest\.json: found a number that is not finite"):
        bundle.save(tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
