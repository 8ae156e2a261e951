"""The comparison of encoders: as many weights in each, its plan, tiny runs, its rows and its tables."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import encoders
from benchmarks.accuracy.rates import DATA
from benchmarks.encoders import (
    ENCODERS,
    EPOCHS,
    NUM_TEXTS,
    RATES,
    RESULTS,
    ROFORMER,
    SEEDS,
    SPEEDS,
    HeldOut,
    Row,
    Run,
    SpeedRow,
    execute,
    f1_table,
    inline,
    lengths_table,
    num_parameters,
    planned,
    rate_of,
    rates_table,
    speeds,
    tables,
)
from benchmarks.processes import Finished, run_module
from benchmarks.rows import append_row, read_rows
from ner_service.formats import write_documents
from training.config import load_run
from training.sample import sample_documents

ROOT = Path(__file__).parents[2]


def row(data: str, encoder: str, seed: int, f1: float, cpu_s: float = 100.0) -> Row:
    return Row(
        data=data,
        encoder=encoder,
        lr=5e-4,
        seed=seed,
        held_out="dev",
        num_texts=10,
        epochs=EPOCHS[data],
        settings=ENCODERS[encoder],
        f1=f1,
        cpu_s=cpu_s,
        date="2026-01-01",
        hardware="none",
        torch="none",
    )


def tried(encoder: str, f1: tuple[float, ...]) -> list[Row]:
    """The rows of an encoder's learning rates, as far as there are scores."""
    rates = zip(RATES, f1, strict=False)
    return [replace(row(DATA, encoder, 0, score), lr=rate, held_out="choose") for rate, score in rates]


def speed_row(encoder: str, length: int, tokens_per_s: float, pass_mib: float = 50.4) -> SpeedRow:
    return SpeedRow(
        encoder=encoder,
        num_parameters=1234567,
        length=length,
        tokens_per_s=tokens_per_s,
        pass_mib=pass_mib,
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


@pytest.mark.parametrize("data", EPOCHS)
def test_rates_are_the_recipes_own_and_above(data: str) -> None:
    own = load_run(ROOT / f"training/recipes/{data}.toml").optimizer.lr
    assert [rate / own for rate in RATES] == pytest.approx([1.0, 2.0, 4.0])


def test_learning_rates_are_tried_first_of_every_encoder() -> None:
    runs = planned([])
    assert len(set(runs)) == len(runs) == len(ENCODERS) * len(RATES)
    assert {(run.data, run.seed, run.held_out) for run in runs} == {(DATA, 0, "choose")}
    assert {(run.encoder, run.lr) for run in runs} == {(name, rate) for name in ENCODERS for rate in RATES}


def test_an_encoders_runs_have_the_rate_that_was_best_for_it() -> None:
    rows = [*tried("fnet", (0.1, 0.2, 0.3)), *tried("gmlp", (0.3, 0.2, 0.1)), *tried("amlp", (0.5, 0.4))]
    runs = [run for run in planned(rows) if run.held_out == "dev"]
    assert {(run.encoder, run.lr) for run in runs} == {("fnet", 2e-3), ("gmlp", 5e-4)}
    assert len(set(runs)) == len(runs) == 2 * len(SEEDS) * len(EPOCHS)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert len(planned(rows)) - len(runs) == len(ENCODERS) * len(RATES) - len(rows)


def test_a_score_on_dev_chooses_no_rate() -> None:
    rows = tried("fnet", (0.2, 0.3, 0.3))
    assert rate_of(rows, "fnet") == 1e-3  # the lower of equals
    on_dev = replace(rows[0], f1=0.9, held_out="dev")
    assert rate_of([*rows, on_dev], "fnet") == 1e-3
    assert rate_of([on_dev, *rows[1:]], "fnet") is None


def test_a_finished_run_is_not_planned_again() -> None:
    rates = [found for name in ENCODERS for found in tried(name, (0.3, 0.1, 0.2))]
    assert len(planned(rates)) == len(ENCODERS) * len(SEEDS) * len(EPOCHS)
    done = row("cmeee", "fnet", 1, 0.5)
    assert set(planned(rates)) - set(planned([*rates, done])) == {done.run}


@pytest.mark.parametrize(
    ("held_out", "num_train", "num_dev"), [("choose", (14, 20), (1, 7)), ("dev", (21, 21), (4, 4))]
)
def test_a_tiny_run_becomes_a_row(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    held_out: HeldOut,
    num_train: tuple[int, int],
    num_dev: tuple[int, int],
) -> None:
    """One that tries a rate reads a part of the texts and is scored on the others; dev is not touched."""
    monkeypatch.setattr(encoders, "NUM_TEXTS", 21)
    monkeypatch.setitem(EPOCHS, "cluener", 1)
    write_data(tmp_path, num_train=30, num_dev=4)
    if held_out == "choose":
        (tmp_path / "cluener/dev.jsonl.gz").unlink()
    run = Run(data="cluener", encoder="gmlp", lr=2e-3, seed=3, held_out=held_out)
    found = execute(run, tmp_path, tmp_path)
    assert found.run == run
    assert 0.0 <= found.f1 <= 1.0
    assert found.cpu_s > 0
    manifest = json.loads((tmp_path / run.name / "bundle/manifest.json").read_text(encoding="utf-8"))
    assert manifest["model"]["encoder"].items() >= ENCODERS["gmlp"].items()
    assert manifest["run"]["optimizer"]["lr"] == 2e-3
    counts = {part: sum(map(num_lines, manifest["run"]["data"][part])) for part in ("train", "dev")}
    assert num_train[0] <= counts["train"] <= num_train[1]
    assert num_dev[0] <= counts["dev"] <= num_dev[1]
    assert held_out == "dev" or counts["train"] + counts["dev"] == 21
    append_row(tmp_path / "rows.jsonl", found)
    assert read_rows(Row, tmp_path / "rows.jsonl") == [found]


def num_lines(source: dict[str, str]) -> int:
    content = Path(source["path"]).read_bytes()
    return len((gzip.decompress(content) if source["path"].endswith(".gz") else content).splitlines())


def test_speed_and_memory_are_measured_of_every_encoder_at_every_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "BATCH_TOKENS", 16)
    monkeypatch.setattr(encoders, "run_module", lambda _, arguments: Finished(output="7.5\n", cpu_s=0.0, peak_mib=0.0))
    rows = list(speeds((8, 32), rounds=1))
    assert [(found.length, found.encoder) for found in rows] == [
        (length, name) for length in (8, 32) for name in ENCODERS
    ]
    assert all(found.tokens_per_s > 0 and found.num_parameters == num_parameters(found.encoder) for found in rows)
    assert {found.pass_mib for found in rows} == {7.5}


def test_memory_of_a_pass_is_that_of_its_largest_tensors() -> None:
    """Inner channels of all tokens before and after the activation, and not the weights nor the process that asks."""
    inner_mib = encoders.BATCH_TOKENS * 1024 * 4 / 2**20
    found = float(run_module("benchmarks.encoders", ["--pass", ROFORMER, "128"]).output)
    assert 2 * inner_mib < found < 4 * inner_mib


def test_the_table_of_rates_says_what_was_tried() -> None:
    rows = [*tried("fnet", (0.25, 0.5)), row(DATA, "gmlp", 0, 0.5)]
    early = replace(rows[0], encoder="gmlp", lr=2.5e-4, f1=0.125)
    lines = list(rates_table([*rows, early]))
    head = " | ".join(f"F1 on the tenth at {rate}" for rate in ("0.00025", "0.0005", "0.001"))
    assert lines[0] == f"| encoder | {head} |"
    assert lines[2:] == ["| gmlp | 0.1250 |  |  |", "| fnet |  | 0.2500 | 0.5000 |"]


def test_the_table_of_f1_says_rate_mean_spread_gain_and_time() -> None:
    rows = [row("cmeee", ROFORMER, seed, 0.5 + seed / 100) for seed in SEEDS]
    rows += [row("cmeee", "gmlp", seed, 0.48 + seed / 100, cpu_s=150.0) for seed in SEEDS]
    rows.append(row("cluener", "gmlp", 0, 0.4))  # nothing to compare with
    rows += [*tried(ROFORMER, (0.9, 0.9, 0.9)), *tried("gmlp", (0.9, 0.8, 0.7))]  # not on dev
    rows.append(replace(rows[3], lr=1e-3, f1=0.9))  # not at its rate
    assert list(f1_table(rows))[2:] == [
        "| cmeee | roformer | 0.0005 | 0.5100 (0.0100) of 3 | +0.0000 | 1.00 |",
        "| cmeee | gmlp | 0.0005 | 0.4900 (0.0100) of 3 | -0.0200 | 1.50 |",
    ]


def test_the_tables_of_lengths_have_a_column_each() -> None:
    rows = [speed_row("gmlp", 2048, 7000.0), speed_row("gmlp", 32, 8000.4), speed_row("fnet", 32, 9000.0)]
    lines = list(lengths_table(rows, "tokens/s", lambda row: f"{row.tokens_per_s:,.0f}"))
    assert lines[0] == "| encoder | parameters | tokens/s at 32 | tokens/s at 2048 |"
    assert lines[2:] == ["| gmlp | 1,234,567 | 8,000 | 7,000 |", "| fnet | 1,234,567 | 9,000 |  |"]
    assert list(tables([], rows))[-2:] == ["| gmlp | 1,234,567 | 50 | 50 |", "| fnet | 1,234,567 | 50 |  |"]


def test_committed_rows_are_read_and_each_run_stands_once() -> None:
    rows, speed_rows = read_rows(Row, RESULTS), read_rows(SpeedRow, SPEEDS)
    assert len({found.run for found in rows}) == len(rows)
    for found in rows:  # those of another design would be averaged with new ones
        assert (found.settings, found.num_texts) == (ENCODERS[found.encoder], NUM_TEXTS)
        assert found.epochs == EPOCHS[found.data]
    assert len({(found.encoder, found.length) for found in speed_rows}) == len(speed_rows)
