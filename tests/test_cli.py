"""ner-service on the command line: inspect, serve, and what every verb says when it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.commands import invoke, refusal


def test_inspect_shows_the_card(tiny_bundle_folder: Path) -> None:
    result = invoke("inspect", tiny_bundle_folder)
    assert result.exit_code == 0, result.stderr
    assert "tiny (version 1)" in result.stdout
    assert all(label in result.stdout for label in ("PER", "ORG", "LOC", "0.50"))
    assert "\x1b" not in result.stdout


def test_inspect_prints_the_manifest(tiny_bundle_folder: Path) -> None:
    result = invoke("inspect", tiny_bundle_folder, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads((tiny_bundle_folder / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "README.md"])
@pytest.mark.parametrize("verb", [("inspect",), ("recognize", "-m")])
def test_an_altered_bundle_is_refused_naming_the_file(
    tiny_bundle_folder: Path, tmp_path: Path, name: str, verb: tuple[str, ...]
) -> None:
    folder = tmp_path / "altered"
    shutil.copytree(tiny_bundle_folder, folder)
    assert invoke("inspect", folder).exit_code == 0
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert refusal(*verb, folder, stdin="x").startswith(f"{folder}/{name}: altered: found SHA-256 ")
    (folder / name).write_bytes(content[:-1])
    expected = f"{folder}/{name}: found {len(content) - 1} bytes, expected {len(content)}"
    assert refusal(*verb, folder, stdin="x") == expected


def test_serve_refuses_what_it_cannot_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NER_MODEL", "NER_PORT", "NER_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    assert refusal("serve") == "--model or NER_MODEL: Field required"
    expected = f"{tmp_path}/manifest.json: not found; expected a bundle folder with a manifest"
    assert refusal("serve", "-m", tmp_path) == expected
    said = refusal("serve", "-m", tmp_path, "--port", "99999")
    assert said == "--port or NER_PORT: Input should be less than or equal to 65535"
    monkeypatch.setenv("NER_DEVICE", "abacus")
    assert refusal("serve", "-m", tmp_path).startswith("NER_DEVICE: String should match pattern")


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["recognize"],
        ["recognize", "-m", "x", "--threshold", "2"],
        ["recognize", "-m", "x", "--overlap", "some"],
        ["recognize", "-m", "x", "--offset-unit", "byte"],
        ["inspect"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert "Traceback" not in result.stderr
