"""The FLOPs, the plan and the table of the enlargement benchmark, and runs of it from end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import benchmarks.runs
from benchmarks import enlargement
from benchmarks.enlargement import (
    ARMS,
    RESULTS,
    SEEDS,
    Arm,
    Counter,
    Experiment,
    Ground,
    Row,
    Run,
    Small,
    Worker,
    divide,
    flops,
    planned,
    table,
)
from benchmarks.enlargement_kept import RECIPE
from benchmarks.processes import Finished
from benchmarks.rows import append_row, read_rows
from ner_service.model.batch import pad
from ner_service.model.config import HeadConfig, Heads, ModelConfig, RoFormerConfig
from ner_service.model.text_model import TextModel
from ner_service.records import structure
from tests.benchmarks.test_encoders import write_data
from tests.training.runs import setup_of
from training.config import load_run
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
    found = divide(arm, 8, Ground(settings=(), small=setup.config, large=large, counter=counter))
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
    assert len(everything) == len(set(everything)) == len(SEEDS) * (len(ARMS) + len(ARMS) - 1)
    first = everything[: len(SEEDS) * len(ARMS)]
    assert (
        {run.budget for run in first}
        == {min(experiment.budgets)}
        == {run.budget for run in everything if run.arm == "equal"}
    )
    assert set(everything) - set(planned([row("equal", 1)], experiment)) == {Run(arm="equal", budget=8, seed=1)}


def test_the_small_model_of_the_recipe_grows_into_the_large_one() -> None:
    small, large = (
        structure(RoFormerConfig, {**(run.model.encoder or {}), "vocab_size": 100})
        for run in (load_run(RECIPE, Experiment().small), load_run(RECIPE))
    )
    assert Grown(small, 2, "more_heads").encoder == replace(large, layer_norm_eps=5e-13)


def test_the_table() -> None:
    rows = [row("large", seed, 0.5 + seed / 100) for seed in SEEDS]
    rows += [row("enlarged", seed, 0.53 + seed / 100, cpu_s=80.0) for seed in SEEDS]
    lines = list(table([*rows, row("equal", budget=24)]))
    assert lines[2:] == [
        "| 8 | large | 3 + 4 | 2.000 | 0.5100 (0.0100) of 3 | +0.0000 |  | 1.00 |",
        "| 8 | enlarged | 3 + 4 | 2.000 | 0.5400 (0.0100) of 3 | +0.0300 | 0.25 | 0.80 |",
    ]


def test_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small model trained once, enlarged in two ways and trained on; rows of it that are read again.

    The second run is made by another worker, as after a killed command.
    """
    write_data(tmp_path, num_train=48, num_dev=12)
    trainings = []

    def train(recipe: Path, settings: Sequence[str], output: Path) -> Finished:
        trainings.append(output.relative_to(tmp_path).as_posix())
        return benchmarks.runs.train(recipe, settings, output)

    monkeypatch.setattr(enlargement, "train", train)
    found = [Worker(TINY, tmp_path, tmp_path).execute(Run(arm=arm, budget=2, seed=1)) for arm in ("enlarged", "equal")]
    epochs = found[0].small_epochs
    assert epochs > 1
    assert trainings == [f"small-{epochs}-epochs-1", "enlarged-2-1/large", "equal-2-1/large"]
    [small] = read_rows(Small, tmp_path / "small.jsonl")
    for row in found:
        assert (row.large_epochs, row.small_epochs, row.small_f1) == (1, epochs, small.f1)
        assert 0.0 <= row.f1 <= 1.0
        assert row.cpu_s > small.cpu_s > 0
        append_row(tmp_path / "rows.jsonl", row)
    assert read_rows(Row, tmp_path / "rows.jsonl") == found
    shares, equal = (row.apart or 0.0 for row in found)
    assert shares > 0.01
    assert shares > equal > 0.0  # dropout alone


def test_the_small_arm_shares_too(tmp_path: Path) -> None:
    """At a budget it has the epochs of the small phase at twice the budget, but for what whole epochs leave over."""
    write_data(tmp_path, num_train=40, num_dev=4)
    ground = Worker(TINY, tmp_path, tmp_path).ground(0)
    alone, phase = divide("small", 2, ground), divide("enlarged", 4, ground)
    assert alone.small == pytest.approx(phase.small, abs=1)


def test_the_committed_rows_are_read_and_each_run_stands_once() -> None:
    rows = read_rows(Row, RESULTS)
    assert len({row.run for row in rows}) == len(rows)
