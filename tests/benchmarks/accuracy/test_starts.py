"""What an adapted encoder is compared with, the plan, a run, and the table."""

from __future__ import annotations

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


def row(arm: Arm, seed: int, f1: float, shape: str = SHAPE) -> Row:
    return Row(
        data="cluener",
        arm=arm,
        shape=shape,
        encoder=shape if arm == "random" else ADAPTED,
        seed=seed,
        epochs=5,
        settings=RATES[arm],
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


def test_random_rows_serve_every_encoder_of_the_shape() -> None:
    everything = planned([], SHAPE, ADAPTED)
    assert len(everything) == len(RATES) * len(SEEDS) * len(EPOCHS)
    done = [row("random", 0, 0.5), row("adapted", 0, 0.6)]
    assert set(everything) - set(planned(done, SHAPE, ADAPTED)) == {each.run for each in done}
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
    run = Run(data="cluener", arm="random", shape=shape, encoder=shape, seed=1)
    found = execute(run, adapted, tmp_path, tmp_path)
    assert (found.run, found.epochs, found.selected_epoch) == (run, 1, 1)
    assert found.settings == RATES["random"]
    started = Bundle.load(tmp_path / f"{run.name}-start")
    assert torch.equal(
        started.weights["encoder.token_embedding.weight"],
        random_twin(Bundle.load(adapted), 1).weights["encoder.token_embedding.weight"],
    )
    append_row(tmp_path / "rows.jsonl", found)
    assert read_rows(Row, tmp_path / "rows.jsonl") == [found]


def test_the_table_says_what_was_gained() -> None:
    rows = [row("random", seed, 0.7 + seed / 100) for seed in SEEDS]
    rows += [row("adapted", seed, 0.75 + seed / 100) for seed in SEEDS]
    rows += [row("random", 0, 0.3, shape="c" * 64)]  # of another shape: compared with nothing here
    assert list(table(rows))[2:] == [
        "| cluener | random aaaaaaaa | 0.7100 (0.0100) of 3 | +0.0000 | 5 | 10 min |",
        "| cluener | adapted bbbbbbbb | 0.7600 (0.0100) of 3 | +0.0500 | 5 | 10 min |",
        "| cluener | random cccccccc | 0.3000 (one seed) | +0.0000 | 5 | 10 min |",
    ]


def test_each_committed_run_stands_once() -> None:
    rows = read_rows(Row, RESULTS)
    assert len({each.run for each in rows}) == len(rows)
