"""The plan of the runs on pages, the split of their data, one run on a tiny set, and the table."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from benchmarks import pages
from benchmarks.pages import (
    AXES,
    NUM_DEV,
    ORDERS,
    RANDOM,
    RESULTS,
    SEEDS,
    Axes,
    Row,
    Run,
    execute,
    planned,
    split,
    table,
)
from benchmarks.rows import read_rows
from ner_service.formats import read_documents
from ner_service.types import PageOrder
from training.config import load_run

ROOT = Path(__file__).parents[2]


def row(num_axes: Axes, seed: int, f1: float, order: PageOrder = "reading", cpu_s: float = 100.0) -> Row:
    return Row(
        data="funsd",
        order=order,
        num_axes=num_axes,
        start=RANDOM,
        seed=seed,
        f1=f1,
        num_lost=7,
        cpu_s=cpu_s,
        peak_mib=1000.0,
        date="2026-01-01",
        hardware="none",
        torch="none",
    )


def form(number: int) -> dict[str, object]:
    """A label and its value, side by side; written down one after the other."""
    words = ["Name:", "Ada", "Lovelace", "Town:", f"Oslo{number}"]
    boxes = [[10, 10, 60, 20], [70, 10, 100, 20], [110, 10, 190, 20], [10, 24, 60, 34], [70, 24, 120, 34]]
    spans = [(0, 1, "question"), (1, 3, "answer"), (3, 4, "question"), (4, 5, "answer")]
    entities = [{"start": start, "end": end, "label": label} for start, end, label in spans]
    return {"id": f"form-{number:03}", "words": words, "boxes": boxes, "page": [200, 100], "entities": entities}


def write(folder: Path, count: int) -> Path:
    (folder / "funsd").mkdir(parents=True)
    lines = "".join(json.dumps(form(number)) + "\n" for number in reversed(range(count)))
    (folder / "funsd/train.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


def test_every_run_is_planned_once() -> None:
    runs = planned([], RANDOM)
    assert len(runs) == len(set(runs)) == len(SEEDS) * len(NUM_DEV) * len(ORDERS) * len(AXES)
    assert {run.seed for run in runs[:8]} == {0}, "a whole table of one seed first"
    done = row(2, 1, 0.5)
    assert set(runs) - set(planned([done], RANDOM)) == {done.run}
    assert planned([done], "another") == [Run(**{**run_fields(run), "start": "another"}) for run in runs]  # type: ignore[arg-type]


def run_fields(run: Run) -> dict[str, object]:
    return {name: getattr(run, name) for name in ("data", "order", "num_axes", "start", "seed")}


def test_the_last_pages_by_name_are_for_dev(tmp_path: Path) -> None:
    split(write(tmp_path / "data", 40), tmp_path, "funsd")
    parts = [[page.id for page in read_documents(tmp_path / f"funsd/{part}.jsonl")] for part in ("train", "dev")]
    assert parts[0] == [f"form-{number:03}" for number in range(10)]
    assert parts[1] == [f"form-{number:03}" for number in range(10, 40)]


def test_recipes_name_the_parts() -> None:
    for name in NUM_DEV:
        run = load_run(ROOT / f"training/recipes/{name}.toml")
        assert [source.path for source in (*run.data.train, *run.data.dev)] == [
            f"{name}/train.jsonl",
            f"{name}/dev.jsonl",
        ]
        assert run.model.num_axes == 2


def test_a_run_gives_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = (ROOT / "training/recipes/funsd.toml").read_text(encoding="utf-8")
    for large, small in (
        ("epochs = 20", "epochs = 1"),
        ("hidden_size = 256", "hidden_size = 16"),
        ("num_layers = 4", "num_layers = 1"),
        ("intermediate_size = 1024", "intermediate_size = 16"),
        ("vocab_size = 4000", "vocab_size = 300"),
    ):
        assert large in recipe
        recipe = recipe.replace(large, small)
    (tmp_path / "funsd.toml").write_text(recipe, encoding="utf-8")
    split(write(tmp_path / "data", 34), tmp_path, "funsd")
    monkeypatch.setattr(pages, "RECIPES", tmp_path)
    run = Run(data="funsd", order="reading", num_axes=2, start=RANDOM, seed=1)
    found = execute(run, tmp_path, None)
    assert found.run == run
    assert 0.0 <= found.f1 <= 1.0
    assert found.num_lost == 0
    manifest = json.loads((tmp_path / run.name / "bundle/manifest.json").read_text(encoding="utf-8"))
    assert manifest["model"]["encoder"]["num_axes"] == 2
    assert {source["order"] for part in ("train", "dev") for source in manifest["run"]["data"][part]} == {"reading"}


def test_the_table_says_what_the_second_axis_brought() -> None:
    rows = [row(1, seed, 0.5 + seed / 100) for seed in SEEDS]
    rows += [row(2, seed, 0.6 + seed / 100, cpu_s=110.0) for seed in SEEDS]
    lines = list(table([*rows, row(1, 0, 0.9, order="given")]))
    assert len(lines) == 3, "no line without both"
    assert lines[2] == (
        "| funsd | reading | random | 0.5100 (0.0100) of 3 | 0.6100 (0.0100) of 3 | +0.1000 | 1.10 | 7 |"
    )


def test_committed_rows_are_of_planned_runs() -> None:
    rows = read_rows(Row, RESULTS)
    assert len({row.run for row in rows}) == len(rows)
    for found in rows:
        assert found.data in NUM_DEV
        assert found.seed in SEEDS
