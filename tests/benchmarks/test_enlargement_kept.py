"""What an enlarged bundle keeps and what parts in it, with rows and tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import enlargement_kept
from benchmarks.enlargement_kept import (
    KEPT,
    PARTED,
    SYMMETRIES,
    Kept,
    Parted,
    copies_apart,
    kept_table,
    measure,
    parted_table,
)
from benchmarks.rows import read_rows
from ner_service.bundle import Bundle
from tests.benchmarks.test_encoders import write_data
from training.enlargement import Plan, Scheme, enlarge


def test_every_way_has_a_row_each(tiny_bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers stay; copies part in training without dropout, but those that begin equal do not (the must-fail twin)."""
    write_data(tmp_path, num_train=200, num_dev=30)
    kept_rows, parted_rows = tmp_path / "kept.jsonl", tmp_path / "parted.jsonl"
    monkeypatch.setattr(enlargement_kept, "KEPT", kept_rows)
    monkeypatch.setattr(enlargement_kept, "PARTED", parted_rows)
    measure(tiny_bundle_folder, tmp_path, tmp_path)
    kept, parted = read_rows(Kept, kept_rows), read_rows(Parted, parted_rows)
    assert [row.way for row in kept] == [
        (2, 2, "more_heads"),
        (4, 2, "more_heads"),
        (2, 2, "wider_heads"),
        (1, 4, "more_heads"),
        (2, 4, "more_heads"),
    ]
    assert all(row.num_texts == 30 and row.num_entities > 30 and row.num_differing == 0 for row in kept)
    assert all(0.0 < row.largest < 5e-5 for row in kept)
    assert len({row.parameters for row in kept}) == 4  # however the heads grow, there are as many weights
    shares, equal = parted
    assert (shares.symmetry, equal.symmetry) == SYMMETRIES == ("shares", "equal")
    assert max(shares.apart_before, equal.apart_before) < 1e-6
    assert shares.apart_after > 1e-3
    assert equal.apart_after < 1e-6
    measure(tiny_bundle_folder, tmp_path, tmp_path)
    assert (read_rows(Kept, kept_rows), read_rows(Parted, parted_rows)) == (kept, parted)
    lines = list(kept_table(kept))
    assert len(lines) == 2 + len(kept)
    assert lines[2].startswith("| tiny | x 2 | 2 | more_heads | ")
    assert list(parted_table([replace(shares, apart_before=0.0, apart_after=0.0126)]))[2:] == [
        "| tiny | shares | 0.0e+00 | 1.3e-02 |"
    ]


@pytest.mark.parametrize("scheme", ["more_heads", "wider_heads"])
def test_how_far_copies_are_apart(tiny_bundle: Bundle, tmp_path: Path, scheme: Scheme) -> None:
    """None before training, as much as nothing in common for half of the channels of other weights."""
    large = enlarge(tiny_bundle, Plan(width_factor=2, scheme=scheme))
    large.save(tmp_path / "large")
    assert copies_apart(tmp_path / "large", ["Ada in London", "李雷"]) < 1e-6
    norms = {name: weight.clone() for name, weight in large.weights.items() if "feed_norm" in name}
    for weight in norms.values():
        weight[len(weight) // 2 :] *= -1.0
    replace(large, weights={**large.weights, **norms}).save(tmp_path / "other")
    assert copies_apart(tmp_path / "other", ["Ada in London", "李雷"]) > 0.5


def test_the_committed_rows_are_read_and_each_stands_once() -> None:
    kept, parted = read_rows(Kept, KEPT), read_rows(Parted, PARTED)
    assert len({(row.weights_sha256, row.way) for row in kept}) == len(kept)
    assert len({(row.weights_sha256, row.symmetry) for row in parted}) == len(parted)
