"""The benchmark of sentence vectors: its measures against values worked out by hand, its rows on a tiny bundle."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner, Result

from benchmarks.similarity import auc, average_ranks, before, cosines, labels_of, main, spearman
from ner_service.bundle import Bundle
from ner_service.errors import ConfigError, DataError
from ner_service.model.config import RoFormerConfig
from ner_service.recognizer import Recognizer
from training.data.pairs import Pair

LIGHT = (
    ("Please turn off the light.", "Please turn off the light.", 1),
    ("Please turn off the light.", "Could you switch off the lamp?", 1),
    ("The harbour froze.", "请关灯。", 0),
    ("It rained.", "She baked bread.", 0),
)
SCORES = (5, 3.5, 1, 0)


def array(*values: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(values, dtype=np.float64)


def write_pairs(path: Path, pairs: Sequence[tuple[str, str, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"a": a, "b": b, "label": label}) + "\n" for a, b, label in pairs).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


# ---- measures


def test_equal_values_share_their_mean_rank() -> None:
    assert average_ranks(array(3, 1, 3, 2, 3)).tolist() == [4, 1, 4, 2, 4]
    assert average_ranks(array(0.5, 0.5)).tolist() == [1.5, 1.5]


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ((0.1, 0.2, 0.8, 0.9), (0, 0, 1, 1), 1.0),
        ((0.9, 0.8, 0.2, 0.1), (0, 0, 1, 1), 0.0),
        ((0.1, 0.4, 0.35, 0.8), (0, 0, 1, 1), 3 / 4),  # of 4 couples 0.35 < 0.4 alone is wrong
        ((0.5, 0.5, 0.5, 0.9), (0, 1, 0, 1), (1 / 2 + 1 / 2 + 1 + 1) / 4),  # two ties
        ((0.3, 0.3), (0, 1), 1 / 2),
    ],
)
def test_auc_is_the_share_of_couples_in_order(
    scores: tuple[float, ...], positive: tuple[int, ...], expected: float
) -> None:
    assert auc(array(*scores), np.array(positive, dtype=bool)) == expected


def test_auc_counts_couples_as_written_out() -> None:
    generator = np.random.default_rng(0)
    scores, positive = generator.integers(0, 6, 40).astype(np.float64), generator.random(40) < 0.4
    couples = [(p > n) + (p == n) / 2 for p in scores[positive] for n in scores[~positive]]
    assert auc(scores, positive) == pytest.approx(sum(couples) / len(couples), rel=1e-12)


def test_auc_of_one_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="found 2 positives and 0 negatives"):
        auc(array(0.1, 0.2), np.array([True, True]))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((1, 2, 3, 4), (10, 200, 3000, 40000), 1.0),
        ((1, 2, 3, 4), (4, 3, 2, 1), -1.0),
        # no ties: 1 - 6 (1 + 1 + 4 + 1 + 1) / (5 * 24)
        ((1, 2, 3, 4, 5), (2, 1, 5, 3, 4), 1 - 6 * 8 / 120),
        # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5, squares 4.5 and 5
        ((1, 2, 2, 3), (1, 2, 3, 4), 4.5 / (4.5 * 5) ** 0.5),
    ],
)
def test_spearman(first: tuple[float, ...], second: tuple[float, ...], expected: float) -> None:
    assert spearman(array(*first), array(*second)) == pytest.approx(expected, rel=1e-12)


def test_spearman_of_equal_values_is_refused() -> None:
    with pytest.raises(ValueError, match="all equal"):
        spearman(array(1, 1, 1), array(1, 2, 3))


# ---- models


def test_equal_sentences_have_the_same_cosine_whatever_they_are_read_with(tiny_embedding_bundle: Bundle) -> None:
    pairs = [Pair(a, b) for a, b, _ in LIGHT]
    same = [Pair(sentence, sentence) for sentence in (*(pair.first for pair in pairs), "In " + "London " * 60)]
    score_P = cosines(Recognizer(tiny_embedding_bundle, torch.device("cpu")), [*pairs, *same])
    assert score_P[len(pairs) :].tolist() == [1.0] * len(same)
    assert (score_P[1 : len(pairs)] < 0.999).all()


def test_without_a_label_on_every_pair_nothing_is_measured() -> None:
    with pytest.raises(DataError, match="found a number as label of 1 of 2 pairs"):
        labels_of(Path("dev.jsonl"), [Pair("a", "b", 1.0), Pair("c", "d", "neutral")])


def test_before_training_is_random_or_the_encoder_that_it_started_from(
    tiny_embedding_bundle: Bundle, tiny_bundle: Bundle, tiny_two_headed_bundle: Bundle
) -> None:
    random = before(tiny_embedding_bundle, None)
    assert random.weights.keys() == tiny_embedding_bundle.weights.keys()
    assert not torch.equal(random.weights["embedding.weight"], tiny_embedding_bundle.weights["embedding.weight"])
    started = before(tiny_embedding_bundle, tiny_bundle)
    for name, tensor in started.weights.items():
        encoder = name.startswith("encoder.")
        assert torch.equal(tensor, tiny_bundle.weights[name] if encoder else random.weights[name]), name
    assert before(tiny_embedding_bundle, tiny_two_headed_bundle) is tiny_two_headed_bundle


def test_another_encoder_is_no_start(tiny_embedding_bundle: Bundle, tiny_bundle: Bundle) -> None:
    model = tiny_bundle.manifest.model
    assert isinstance(model.encoder, RoFormerConfig)
    other = replace(model, encoder=replace(model.encoder, num_layers=3))
    start = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, model=other))
    with pytest.raises(ConfigError, match=r"--before: found .*num_layers=3"):
        before(tiny_embedding_bundle, start)


# ---- the command


@pytest.fixture
def folder(tmp_path: Path, tiny_embedding_bundle: Bundle) -> Path:
    tiny_embedding_bundle.save(tmp_path / "bundle")
    write_pairs(tmp_path / "pairs" / "zero_one" / "dev.jsonl", LIGHT)
    scored = [(a, b, score) for (a, b, _), score in zip(LIGHT, SCORES, strict=True)]
    write_pairs(tmp_path / "pairs" / "scored" / "dev.jsonl.gz", scored)
    write_pairs(tmp_path / "pairs" / "scored" / "train.jsonl", LIGHT)
    return tmp_path


def invoke(*arguments: str) -> Result:
    app = Typer()
    app.command()(main)
    return CliRunner().invoke(app, [*arguments, "--device", "cpu"], catch_exceptions=False)


def run(*arguments: str) -> dict[str, Any]:
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_every_dev_file_has_a_row(folder: Path, tiny_embedding_bundle: Bundle) -> None:
    printed = run(str(folder / "bundle"), "--data", str(folder / "pairs"))
    assert (printed["model"], printed["before"]) == ("vectors", "random weights")
    assert [(row["file"], row["pairs"], row["measure"]) for row in printed["rows"]] == [
        ("scored/dev.jsonl.gz", 4, "spearman"),
        ("zero_one/dev.jsonl", 4, "auc"),
    ]
    score_P = cosines(Recognizer(tiny_embedding_bundle, torch.device("cpu")), [Pair(a, b) for a, b, _ in LIGHT])
    assert printed["rows"][0]["value"] == round(spearman(score_P, array(*SCORES)), 4)
    assert printed["rows"][1]["value"] == round(auc(score_P, np.array([True, True, False, False])), 4)
    random = Recognizer(before(tiny_embedding_bundle, None), torch.device("cpu"))
    score_P = cosines(random, [Pair(a, b) for a, b, _ in LIGHT])
    assert printed["rows"][0]["before"] == round(spearman(score_P, array(*SCORES)), 4)


def test_a_bundle_before_itself_is_as_good(folder: Path) -> None:
    bundle = str(folder / "bundle")
    printed = run(bundle, "--data", str(folder / "pairs"), "--before", bundle)
    assert printed["before"] == bundle
    assert all(row["before"] == row["value"] for row in printed["rows"])


def test_linked_folders_are_read(folder: Path) -> None:
    (folder / "linked").mkdir()
    (folder / "linked" / "pairs").symlink_to(folder / "pairs", target_is_directory=True)
    printed = run(str(folder / "bundle"), "--data", str(folder / "linked"))
    assert [row["file"] for row in printed["rows"]] == ["pairs/scored/dev.jsonl.gz", "pairs/zero_one/dev.jsonl"]


# ---- refusals: a message and exit code 1


def refused(*arguments: str) -> str:
    done = invoke(*arguments)
    assert done.exit_code == 1
    assert done.stdout == ""
    return done.stderr


def test_a_bundle_without_vectors_is_refused(folder: Path, tiny_bundle_folder: Path) -> None:
    assert "no 'embedding' head" in refused(str(tiny_bundle_folder), "--data", str(folder / "pairs"))


def test_a_folder_without_pairs_is_refused(folder: Path) -> None:
    bundle = str(folder / "bundle")
    assert "found no dev.jsonl or dev.jsonl.gz below it" in refused(bundle, "--data", bundle)


def test_a_file_of_one_label_is_refused(folder: Path) -> None:
    write_pairs(folder / "pairs" / "same" / "dev.jsonl", LIGHT[:2])
    message = refused(str(folder / "bundle"), "--data", str(folder / "pairs"))
    assert "same/dev.jsonl: found 1 as the label of every pair, expected labels that differ" in message
