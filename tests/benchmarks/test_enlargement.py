"""The FLOPs, the plan and the tables of the enlargement benchmark, and a run of it from end to end."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.enlargement import (
    ARMS,
    KEPT,
    RECIPE,
    RESULTS,
    SEEDS,
    Arm,
    Counter,
    Experiment,
    Kept,
    Row,
    Run,
    copies_apart,
    divide,
    execute,
    flops,
    kept_table,
    measure_kept,
    planned,
    table,
)
from benchmarks.rows import append_row, read_rows
from ner_service.bundle import Bundle
from ner_service.model.batch import pad
from ner_service.model.config import HeadConfig, Heads, ModelConfig, RoFormerConfig
from ner_service.model.text_model import TextModel
from ner_service.records import structure
from ner_service.types import Document
from tests.training.runs import setup_of
from training.config import load_run
from training.enlargement import Plan, enlarge
from training.enlargement.width import Grown
from training.sample import sample_documents

TINY = Experiment(
    share=1.0,
    budgets=(2,),
    large=(
        "device=cpu",
        "precision=fp32",
        "tokenizer.vocab_size=400",
        "model.encoder.hidden_size=32",
        "model.encoder.num_layers=1",
        "model.encoder.num_heads=2",
        "model.encoder.intermediate_size=64",
        "model.head.head_size=16",
    ),
    small=("model.encoder.hidden_size=16", "model.encoder.num_heads=1", "model.encoder.intermediate_size=32"),
)


def row(arm: Arm, seed: int = 0, f1: float = 0.5, budget: int = 8, cpu_s: float = 100.0) -> Row:
    return Row(
        arm=arm,
        budget=budget,
        seed=seed,
        small_epochs=3,
        large_epochs=4,
        flops=2 * 10**15,
        f1=f1,
        small_f1=None,
        apart=0.25 if arm == "enlarged" else None,
        cpu_s=cpu_s,
        peak_mib=1000.0,
        date="2026-01-01",
        hardware="none",
        torch="none",
    )


@pytest.mark.parametrize("embedding_size", [None, 8, 16])
def test_flops_are_those_of_the_matrix_products(embedding_size: int | None) -> None:
    """Held against torch's own counter, forward and backward, which counts every product as it is made."""
    encoder = RoFormerConfig(
        vocab_size=50,
        embedding_size=embedding_size,
        hidden_size=16,
        num_layers=3,
        num_heads=2,
        intermediate_size=24,
        attention_dropout=0.0,
    )
    config = ModelConfig(encoder=encoder, heads=Heads(spans=HeadConfig(head_size=6)))
    model = TextModel(config, 5)
    for num_rows, length in ((1, 7), (4, 9)):
        batch = pad([[1] * length] * num_rows, 0)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            grid = model(batch)
            grid[grid > -torch.inf].sum().backward()
        assert flops(config, 5, num_rows, length) == counter.get_total_flops()


def test_the_batches_of_a_run_are_counted() -> None:
    documents = sample_documents(20)
    setup = setup_of(documents, ["PER", "ORG", "LOC"], batch_tokens=64)
    counter = Counter(setup)
    one, two = counter.flops(setup.config, 1), counter.flops(setup.config, 2)
    expected = 0
    for step in counter.objective.steps(0):
        for batch in step:
            width = max(len(example) for example in batch)
            assert len(batch) * width <= 64 or len(batch) == 1
            expected += flops(setup.config, 3, len(batch), width)
    assert one == expected
    assert one < two
    assert counter.flops(setup.config, 1) == one


@pytest.mark.parametrize("arm", ARMS)
def test_a_budget_is_used_up_to_an_epoch_of_the_small_model(arm: Arm) -> None:
    setup = setup_of(sample_documents(20), ["PER", "ORG", "LOC"])
    assert isinstance(setup.config.encoder, RoFormerConfig)
    large = replace(setup.config, encoder=Grown(setup.config.encoder, 2, "more_heads").encoder)
    counter = Counter(setup)
    most, least = counter.flops(large, 8), counter.flops(large, 8) - counter.flops(setup.config, 1) * 1.1
    found = divide(arm, 8, counter, setup.config, large)
    assert least < found.flops <= most
    assert (found.large, found.small > 0) == {
        "large": (8, False),
        "enlarged": (4, True),
        "equal": (4, True),
        "small": (0, True),
    }[arm]
    assert (found.flops == most) == (arm == "large")


def test_a_finished_run_is_not_planned_again() -> None:
    experiment = Experiment()
    everything = planned([], experiment)
    assert len(everything) == len(set(everything)) == len(experiment.budgets) * len(SEEDS) * len(ARMS)
    assert {run.budget for run in everything[: len(SEEDS) * len(ARMS)]} == {min(experiment.budgets)}
    assert set(everything) - set(planned([row("equal", 1)], experiment)) == {Run(arm="equal", budget=8, seed=1)}


def test_the_small_model_of_the_recipe_grows_into_the_large_one() -> None:
    small, large = (
        structure(RoFormerConfig, {**(run.model.encoder or {}), "vocab_size": 100})
        for run in (load_run(RECIPE, Experiment().small), load_run(RECIPE))
    )
    assert Grown(small, 2, "more_heads").encoder == replace(large, layer_norm_eps=5e-13)


def test_what_is_kept_has_a_row_each(tiny_bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_documents_gz(tmp_path / "cluener/dev.jsonl.gz", sample_documents(30))
    monkeypatch.setattr("benchmarks.enlargement.KEPT", tmp_path / "kept.jsonl")
    measure_kept(tiny_bundle_folder, tmp_path)
    rows = read_rows(Kept, tmp_path / "kept.jsonl")
    assert [kept.way for kept in rows] == [
        (2, 2, "more_heads"),
        (4, 2, "more_heads"),
        (2, 2, "wider_heads"),
        (1, 4, "more_heads"),
        (2, 4, "more_heads"),
    ]
    assert all(kept.num_texts == 30 and kept.num_entities > 30 and kept.num_differing == 0 for kept in rows)
    assert all(0.0 < kept.largest < 5e-5 for kept in rows)
    assert len({kept.parameters for kept in rows}) == 4  # however the heads grow, there are as many weights
    measure_kept(tiny_bundle_folder, tmp_path)
    assert read_rows(Kept, tmp_path / "kept.jsonl") == rows
    lines = list(kept_table(rows))
    assert len(lines) == 2 + len(rows)
    assert lines[2].startswith("| tiny | x 2 | 2 | more_heads | ")


def test_how_far_copies_are_apart(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """None before training, as much as nothing in common for half of the channels of other weights."""
    large = enlarge(tiny_bundle, Plan(width_factor=2))
    large.save(tmp_path / "large")
    assert copies_apart(tmp_path / "large", ["Ada in London", "李雷"]) < 1e-6
    norms = {name: weight.clone() for name, weight in large.weights.items() if "feed_norm" in name}
    for weight in norms.values():
        weight[len(weight) // 2 :] *= -1.0
    replace(large, weights={**large.weights, **norms}).save(tmp_path / "other")
    assert copies_apart(tmp_path / "other", ["Ada in London", "李雷"]) > 0.5


def test_tables() -> None:
    rows = [row("large", seed, 0.5 + seed / 100) for seed in SEEDS]
    rows += [row("enlarged", seed, 0.53 + seed / 100, cpu_s=80.0) for seed in SEEDS]
    lines = list(table([*rows, row("equal", budget=24)]))
    assert lines[2:] == [
        "| 8 | large | 3 + 4 | 2.000 | 0.5100 (0.0100) of 3 | +0.0000 |  | 1.00 |",
        "| 8 | enlarged | 3 + 4 | 2.000 | 0.5400 (0.0100) of 3 | +0.0300 | 0.25 | 0.80 |",
    ]


def write_documents_gz(path: Path, documents: list[Document]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for document in documents:
            entities = [{"start": e.start, "end": e.end, "label": e.label} for e in document.entities]
            file.write(json.dumps({"text": document.text, "entities": entities}, ensure_ascii=False) + "\n")


def test_from_end_to_end(tmp_path: Path) -> None:
    """A small model trained, enlarged, trained on; a row of it that is read again."""
    documents = sample_documents(60)
    write_documents_gz(tmp_path / "cluener/train.jsonl.gz", documents[:48])
    write_documents_gz(tmp_path / "cluener/dev.jsonl.gz", documents[48:])
    found = execute(Run(arm="enlarged", budget=2, seed=1), TINY, tmp_path, tmp_path)
    assert (found.large_epochs, found.small_epochs > 1) == (1, True)
    assert 0.0 <= found.f1 <= 1.0
    assert found.small_f1 is not None
    assert found.apart is not None
    assert found.apart > 0.01
    assert found.cpu_s > 0
    append_row(tmp_path / "rows.jsonl", found)
    assert read_rows(Row, tmp_path / "rows.jsonl") == [found]


def test_the_committed_rows_are_read_and_each_run_stands_once() -> None:
    rows = read_rows(Row, RESULTS)
    assert len({row.run for row in rows}) == len(rows)
    kept = read_rows(Kept, KEPT)
    assert len({(row.weights_sha256, row.way) for row in kept}) == len(kept)
