"""The comparison of encoders: as many weights in each, its plan, one tiny run, its rows and its table."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from benchmarks import encoders
from benchmarks.encoders import (
    ENCODERS,
    EPOCHS,
    RESULTS,
    ROFORMER,
    SEEDS,
    SPEEDS,
    Row,
    Run,
    SpeedRow,
    execute,
    inline,
    num_parameters,
    planned,
    speeds,
    subset,
    table,
)
from benchmarks.rows import append_row, read_rows
from ner_service.formats import read_documents, write_documents
from training.config import load_run
from training.sample import sample_documents

ROOT = Path(__file__).parents[2]


def row(data: str, encoder: str, seed: int, f1: float, cpu_s: float = 100.0) -> Row:
    return Row(
        data=data,
        encoder=encoder,
        seed=seed,
        num_texts=10,
        epochs=EPOCHS[data],
        settings=ENCODERS[encoder],
        f1=f1,
        cpu_s=cpu_s,
        peak_mib=1000.0,
        date="2026-01-01",
        hardware="none",
        torch="none",
    )


def speed_row(encoder: str, length: int, tokens_per_s: float) -> SpeedRow:
    return SpeedRow(
        encoder=encoder,
        num_parameters=1234567,
        length=length,
        tokens_per_s=tokens_per_s,
        rounds=1,
        date="2026-01-01",
        hardware="none",
        torch="none",
    )


def write_data(folder: Path, num_train: int, num_dev: int) -> None:
    """Documents of the sample in the place of CLUENER's."""
    documents = sample_documents(num_train + num_dev)
    (folder / "cluener").mkdir(parents=True)
    for name, part in (("train", documents[:num_train]), ("dev", documents[num_train:])):
        plain = folder / f"{name}.jsonl"
        write_documents(part, plain)
        (folder / f"cluener/{name}.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_all_have_as_many_weights_as_the_roformer(encoder: str) -> None:
    """Within 1 %, token embeddings apart: with them they are nearer still."""
    assert num_parameters(encoder) == pytest.approx(num_parameters(ROFORMER), rel=0.01)


def test_another_inner_size_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "fnet", {**ENCODERS["fnet"], "intermediate_size": 1024})
    assert num_parameters("fnet") < 0.8 * num_parameters(ROFORMER)


@pytest.mark.parametrize("data", EPOCHS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_fits_its_recipe_and_the_first_is_its_own(data: str, encoder: str) -> None:
    path = ROOT / f"training/recipes/{data}.toml"
    run = load_run(path, ["objectives={}", f"model.encoder={inline(ENCODERS[encoder])}"])
    assert run.model.encoder == ENCODERS[encoder]
    assert (run == load_run(path, ["objectives={}"])) == (encoder == ROFORMER)


def test_every_encoder_is_planned_for_each_seed_and_data_set() -> None:
    runs = planned([])
    assert len(set(runs)) == len(runs) == len(SEEDS) * len(EPOCHS) * len(ENCODERS)
    assert {run.seed for run in runs[: len(EPOCHS) * len(ENCODERS)]} == {0}


def test_a_finished_run_is_not_planned_again() -> None:
    done = row("cmeee", "fnet", 1, 0.5)
    assert set(planned([])) - set(planned([done])) == {done.run}


def test_texts_are_chosen_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ones whatever their order in the file."""
    monkeypatch.setattr(encoders, "NUM_TEXTS", 20)
    chosen = []
    for name in ("one", "other"):
        write_data(tmp_path / name, num_train=60, num_dev=1)
        packed = tmp_path / name / "cluener/train.jsonl.gz"
        if name == "other":
            packed.write_bytes(gzip.compress(b"".join(gzip.decompress(packed.read_bytes()).splitlines(True)[::-1])))
        path = subset(Run(data="cluener", encoder="fnet", seed=0), tmp_path / name, tmp_path / name)
        chosen.append([document.text for document in read_documents(path)])
    assert len(chosen[0]) == 20
    assert chosen[0] == chosen[1][::-1]


def test_a_tiny_run_becomes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "NUM_TEXTS", 16)
    monkeypatch.setitem(EPOCHS, "cluener", 1)
    write_data(tmp_path, num_train=20, num_dev=4)
    run = Run(data="cluener", encoder="gmlp", seed=3)
    found = execute(run, tmp_path, tmp_path)
    assert found.run == run
    assert 0.0 <= found.f1 <= 1.0
    assert found.cpu_s > 0
    assert found.peak_mib > 100
    manifest = json.loads((tmp_path / run.name / "bundle/manifest.json").read_text(encoding="utf-8"))
    assert manifest["model"]["encoder"].items() >= ENCODERS["gmlp"].items()
    append_row(tmp_path / "rows.jsonl", found)
    assert read_rows(Row, tmp_path / "rows.jsonl") == [found]


def test_speed_is_measured_of_every_encoder_at_every_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "BATCH_TOKENS", 16)
    rows = list(speeds((8, 32), rounds=1))
    assert [(found.length, found.encoder) for found in rows] == [
        (length, name) for length in (8, 32) for name in ENCODERS
    ]
    assert all(found.tokens_per_s > 0 and found.num_parameters == num_parameters(found.encoder) for found in rows)


def test_the_table_says_mean_spread_gain_cost_and_speed() -> None:
    rows = [row("cmeee", ROFORMER, seed, 0.5 + seed / 100) for seed in SEEDS]
    rows += [row("cmeee", "gmlp", seed, 0.48 + seed / 100, cpu_s=150.0) for seed in SEEDS]
    rows.append(row("cluener", "gmlp", 0, 0.4))  # nothing to compare with
    speed_rows = [speed_row("gmlp", 2048, 7000.0), speed_row("gmlp", 32, 8000.4), speed_row("fnet", 32, 9000.0)]
    lines = list(table(rows, speed_rows))
    assert "| cmeee | roformer | 0.5100 (0.0100) of 3 | +0.0000 | 1.00 | 1.00 |" in lines
    assert "| cmeee | gmlp | 0.4900 (0.0100) of 3 | -0.0200 | 1.50 | 1.00 |" in lines
    assert not [line for line in lines if line.startswith("| cluener")]
    assert "| encoder | parameters | tokens/s at 32 | tokens/s at 2048 |" in lines
    assert lines[-2:] == ["| gmlp | 1,234,567 | 8,000 | 7,000 |", "| fnet | 1,234,567 | 9,000 |  |"]


def test_committed_rows_are_read_and_each_run_stands_once() -> None:
    rows, speed_rows = read_rows(Row, RESULTS), read_rows(SpeedRow, SPEEDS)
    assert len({found.run for found in rows}) == len(rows)
    assert len({(found.encoder, found.length) for found in speed_rows}) == len(speed_rows)
