"""What an adapted encoder is compared with, the plan, a run, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.accuracy.starts import (
    EPOCHS,
    RATES,
    RESULTS,
    SEEDS,
    Arm,
    Row,
    Run,
    execute,
    planned,
    random_twin,
    shape_of,
    table,
)
from benchmarks.rows import append_row, read_rows
from ner_service.bundle import Bundle
from ner_service.formats import write_documents
from tests.training.runs import encoder_bundle, setup_of
from training.sample import sample_documents

SHAPE, ADAPTED = "a" * 64, "b" * 64


def row(arm: Arm, seed: int, f1: float, shape: str = SHAPE, lr: float | None = None) -> Row:
    return Row(
        data="cluener",
        arm=arm,
        shape=shape,
        encoder=shape if arm == "random" else ADAPTED,
        lr=lr or RATES[arm][0],
        seed=seed,
        epochs=5,
        selected_epoch=4,
        selection_f1=f1,
        f1=f1,
        seconds=600.0,
        peak_mib=1000.0,
        clock="cpu",
        date="2026-01-01",
        hardware="none",
        torch="none",
    )


@pytest.fixture
def adapted(tmp_path: Path) -> Path:
    documents = sample_documents(24)
    setup = setup_of(documents, sorted({entity.label for document in documents for entity in document.entities}))
    encoder_bundle(setup).save(tmp_path / "adapted")
    return tmp_path / "adapted"


def tried(arm: Arm, scores: Sequence[float], shape: str = SHAPE) -> list[Row]:
    """A row for each rate of an arm."""
    return [row(arm, 0, f1, shape, lr) for lr, f1 in zip(RATES[arm], scores, strict=True)]


def test_the_rate_is_chosen_on_the_tenth_before_all_else_of_a_start() -> None:
    assert [(run.arm, run.data, run.lr, run.seed) for run in planned([], SHAPE, ADAPTED)] == [
        (arm, "cluener", lr, 0) for arm in ("random", "adapted") for lr in RATES[arm]
    ]
    rows = [replace(each, f1=1 - each.selection_f1) for each in tried("random", (0.5, 0.7, 0.6))]
    left = [run for run in planned(rows, SHAPE, ADAPTED) if run.arm == "random"]
    assert {(run.data, run.seed) for run in left} == {
        (data, seed) for data in EPOCHS for seed in SEEDS if (data, seed) != ("cluener", 0)
    }
    assert {run.lr for run in left} == {RATES["random"][1]}


def test_random_rows_serve_every_encoder_of_the_shape() -> None:
    done = tried("random", (0.5, 0.7, 0.6)) + tried("adapted", (0.5, 0.7, 0.6))
    assert len(planned(done, SHAPE, ADAPTED)) == len(RATES) * (len(SEEDS) * len(EPOCHS) - 1)
    of_another = set(planned([], SHAPE, "c" * 64)) - set(planned(done, SHAPE, "c" * 64))
    assert {run.arm for run in of_another} == {"random"}
    assert planned(done, "d" * 64, "c" * 64) == planned([], "d" * 64, "c" * 64)


def test_a_random_twin_has_the_shape_and_the_tokenizer_and_weights_of_its_seed(adapted: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(adapted)
    random_twin(bundle, 1).save(tmp_path / "twin")
    twin = Bundle.load(tmp_path / "twin")
    assert shape_of(twin) == shape_of(bundle)
    assert {name: tensor.shape for name, tensor in twin.weights.items()} == {
        name: tensor.shape for name, tensor in bundle.weights.items()
    }
    again, other = random_twin(bundle, 1), random_twin(bundle, 2)
    name = "encoder.token_embedding.weight"
    assert torch.equal(twin.weights[name], again.weights[name])
    for different in (other, bundle):
        assert not torch.allclose(twin.weights[name], different.weights[name])


def test_a_run_of_random_weights_gives_a_row(adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EPOCHS, "cluener", 1)
    (tmp_path / "cluener").mkdir()
    documents = sample_documents(48)
    write_documents(documents[:40], tmp_path / "cluener/train.jsonl.gz")
    write_documents(documents[40:], tmp_path / "cluener/dev.jsonl.gz")
    shape = shape_of(Bundle.load(adapted))
    run = Run(data="cluener", arm="random", shape=shape, encoder=shape, lr=3e-4, seed=1)
    found = execute(run, adapted, tmp_path, tmp_path)
    assert (found.run, found.epochs, found.selected_epoch) == (run, 1, 1)
    started = Bundle.load(tmp_path / f"{run.name}-start")
    assert torch.equal(
        started.weights["encoder.token_embedding.weight"],
        random_twin(Bundle.load(adapted), 1).weights["encoder.token_embedding.weight"],
    )
    append_row(tmp_path / "rows.jsonl", found)
    assert read_rows(Row, tmp_path / "rows.jsonl") == [found]


def test_the_table_says_what_was_gained_at_the_best_rate() -> None:
    rows = [*tried("random", (0.3, 0.7, 0.69)), *tried("adapted", (0.4, 0.75, 0.6))]
    rows += [row("random", seed, 0.7 + seed / 100, lr=RATES["random"][1]) for seed in SEEDS[1:]]
    rows += [row("adapted", seed, 0.75 + seed / 100, lr=RATES["adapted"][1]) for seed in SEEDS[1:]]
    rows += tried("random", (0.2, 0.1, 0.3), shape="c" * 64)  # of another shape: compared with nothing here
    rows += [row("random", 0, 0.9, shape="d" * 64)]  # the rate is not chosen
    assert list(table(rows))[2:] == [
        "| cluener | random aaaaaaaa | 0.0005 | 0.7100 (0.0100) of 3 | +0.0000 | 5 | 10 min |",
        "| cluener | adapted bbbbbbbb | 0.0002 | 0.7600 (0.0100) of 3 | +0.0500 | 5 | 10 min |",
        "| cluener | random cccccccc | 0.001 | 0.3000 (one seed) | +0.0000 | 5 | 10 min |",
    ]


def test_each_committed_run_stands_once() -> None:
    rows = read_rows(Row, RESULTS)
    assert len({each.run for each in rows}) == len(rows)
    assert all(each.epochs == EPOCHS[each.data] for each in rows)  # others would be averaged with new ones
