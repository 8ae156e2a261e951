"""`ner-train similar` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.training.commands import invoke
from tests.training.paraphraser import PAIRS, bundle_of_pairs, paraphraser
from training.generation import similar_sentences

TEXTS = (PAIRS[0][0], PAIRS[1][0])
FEW = ("--samples", 8, "--device", "cpu")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("similar") / "bundle"
    bundle_of_pairs().save(folder)
    return folder


def written(bundle: Path, *arguments: object) -> list[tuple[str, list[tuple[str, float]]]]:
    result = invoke("similar", bundle, *arguments, "--json", *FEW)
    assert result.exit_code == 0, result.stderr
    return [
        (row["text"], [(each["text"], each["cosine"]) for each in row["similar"]]) for row in json.loads(result.stdout)
    ]


def test_what_is_written_is_that_of_the_library(bundle: Path) -> None:
    """For each text the same, whatever stands beside it."""
    for text, found in written(bundle, *TEXTS, TEXTS[0], "--seed", 3):
        generator = torch.Generator().manual_seed(3)
        expected = similar_sentences(paraphraser(), text, num_samples=8, generator=generator)
        assert found == [(similar.text, similar.cosine) for similar in expected]
    assert [text for text, _ in written(bundle, *TEXTS, TEXTS[0])] == [*TEXTS, TEXTS[0]]


def test_the_learnt_sentence_is_among_them(bundle: Path) -> None:
    [(_, found)] = written(bundle, TEXTS[0])
    assert PAIRS[0][1] in dict(found)
    assert TEXTS[0] not in dict(found)


def test_options_say_how_many_and_how_they_are_drawn(bundle: Path) -> None:
    [(_, found)] = written(bundle, "Ada works for Oslo.", "--top-p", 1)
    assert len(found) > 1
    assert written(bundle, "Ada works for Oslo.", "--top-p", 1, "--num", 1) == [("Ada works for Oslo.", found[:1])]
    assert written(bundle, "Ada works for Oslo.", "--top-p", 1, "--seed", 1)[0][1] != found
    [(_, likeliest)] = written(bundle, "Ada works for Oslo.", "--top-p", 0)
    assert len(likeliest) <= 1


def test_a_table_shows_cosines_and_sentences(bundle: Path) -> None:
    result = invoke("similar", bundle, *TEXTS, *FEW)
    assert result.exit_code == 0
    for text, found in written(bundle, *TEXTS):
        assert text in result.stdout
        assert all(similar in result.stdout and f"{cosine:.3f}" in result.stdout for similar, cosine in found)


def test_a_bundle_that_cannot_write_is_refused(tiny_bundle_folder: Path) -> None:
    result = invoke("similar", tiny_bundle_folder, "a")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: the model has no 'language_model' head; it has: spans\n"
