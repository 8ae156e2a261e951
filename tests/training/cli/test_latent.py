"""ner-train latent as a user meets it: what it prints, and what it says when it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ner_service.bundle import Bundle
from ner_service.model.config import Heads, LanguageModelConfig, LatentConfig
from ner_service.model.text_model import TextModel
from ner_service.recognizer import Recognizer
from tests.training.commands import invoke, refusal
from training.latent import Autoencoder, Written

TEXTS = ["Ada wrote to Charles.", "王医生去了广州。"]
SHORT = ("--max-tokens", 12, "--device", "cpu")


def lines(*arguments: object) -> list[str]:
    result = invoke("latent", *arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_bundle` with codes in its second layer, and random weights wide enough that codes matter."""
    heads = Heads(language_model=LanguageModelConfig(), latent=LatentConfig(num_latents=1, size=4))
    config = replace(tiny_bundle.manifest.model, heads=heads)
    manifest = replace(tiny_bundle.manifest, labels=(), thresholds={}, model=config)
    torch.manual_seed(0)
    weights = TextModel(config, 0).state_dict()
    for name, tensor in weights.items():
        if tensor.dim() == 2:
            tensor.normal_(std=5.0 if name.startswith("latent.") else 0.5)
    folder = tmp_path_factory.mktemp("bundles") / "codes"
    replace(tiny_bundle, manifest=manifest, weights=weights).save(folder)
    return folder


@pytest.fixture
def model(bundle: Path) -> Autoencoder:
    return Autoencoder(Recognizer.load(bundle, "cpu"), max_tokens=12)


def test_reconstruct_writes_texts_or_the_lines_of_a_file(bundle: Path, model: Autoencoder, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text(f"{TEXTS[0]}\n\n{TEXTS[1]}\n", encoding="utf-8")
    again = [model.reconstruct([text])[0] for text in TEXTS]
    expected = [
        {"text": text, "reconstruction": written.text, "finished": written.finished}
        for text, written in zip(TEXTS, again, strict=True)
    ]
    for given in (TEXTS, ["--file", file]):
        [line] = lines("reconstruct", bundle, *given, "--json", *SHORT)
        assert json.loads(line) == expected
    assert again[0] != again[1]


def shown(texts: list[Written]) -> list[str]:
    return [written.text + ("" if written.finished else " …") for written in texts]


def plain(texts: list[Written]) -> list[dict[str, object]]:
    return [{"text": written.text, "finished": written.finished} for written in texts]


@pytest.mark.parametrize("finished", [True, False])
def test_a_text_that_is_cut_is_marked(bundle: Path, finished: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Autoencoder, "write", lambda model, codes: [Written("Ada wr", finished)] * len(codes[0]))
    for arguments in (["reconstruct", bundle, "a"], ["sample", bundle], ["interpolate", bundle, "a", "b"]):
        assert ("Ada wr …" in "\n".join(lines(*arguments, *SHORT))) != finished
        [line] = lines(*arguments, "--json", *SHORT)
        assert {row["finished"] for row in json.loads(line)} == {finished}


def test_reconstruct_shows_a_table(bundle: Path) -> None:
    table = "\n".join(lines("reconstruct", bundle, *TEXTS, *SHORT))
    assert "written again" in table
    assert all(text in table for text in TEXTS)


@pytest.mark.parametrize("given", [[], [*TEXTS, "--file", "texts.txt"]])
def test_reconstruct_wants_texts_or_a_file(bundle: Path, given: list[str]) -> None:
    assert "expected either texts or --file" in refusal("latent", "reconstruct", bundle, *given)


def test_sample_prints_a_text_a_line(bundle: Path) -> None:
    expected = Autoencoder(Recognizer.load(bundle, "cpu"), max_tokens=12, seed=3).sample(4)
    assert len(set(expected)) > 1
    assert lines("sample", bundle, "--num", 4, "--seed", 3, *SHORT) == shown(expected)
    [line] = lines("sample", bundle, "--num", 4, "--seed", 3, "--json", *SHORT)
    assert json.loads(line) == plain(expected)
    assert len(lines("sample", bundle, *SHORT)) == 10
    assert lines("sample", bundle, "--num", 4, "--seed", 4, *SHORT) != shown(expected)


def test_sample_like_a_text_draws_the_given_layers(bundle: Path, model: Autoencoder) -> None:
    expected = model.resample(TEXTS[0], [2], 3)
    assert lines("sample", bundle, "--num", 3, "--like", TEXTS[0], "--layer", 2, *SHORT) == shown(expected)


def test_interpolate_prints_a_text_a_line(bundle: Path, model: Autoencoder) -> None:
    expected = model.interpolate(*TEXTS, 5)
    assert expected[0] != expected[-1]
    assert lines("interpolate", bundle, *TEXTS, *SHORT) == shown(expected)
    assert lines("interpolate", bundle, *TEXTS, "--layer", 2, *SHORT) == shown(expected)
    [line] = lines("interpolate", bundle, *TEXTS, "--num", 3, "--json", *SHORT)
    assert json.loads(line) == plain([expected[0], expected[2], expected[4]])


@pytest.mark.parametrize("options", [["--like", "a text"], ["--layer", "2"]])
def test_sample_wants_a_text_and_its_layers_together(bundle: Path, options: list[str]) -> None:
    assert "expected both or neither" in refusal("latent", "sample", bundle, *options)


def test_a_layer_without_a_code_is_named(bundle: Path) -> None:
    expected = "layer: found 1, expected a latent layer: 2"
    assert refusal("latent", "interpolate", bundle, *TEXTS, "--layer", 1, *SHORT) == expected
    assert refusal("latent", "sample", bundle, "--like", TEXTS[0], "--layer", 1, *SHORT) == expected


@pytest.mark.parametrize("arguments", [["reconstruct", "{}", "a"], ["sample", "{}"], ["interpolate", "{}", "a", "b"]])
def test_a_bundle_without_codes_is_refused(tiny_bundle_folder: Path, arguments: list[str]) -> None:
    found = refusal("latent", *(argument.format(tiny_bundle_folder) for argument in arguments), *SHORT)
    assert found == "the model has no 'latent' head; it has: spans"
