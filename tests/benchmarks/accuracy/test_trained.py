"""Heads trained as the comparison trains them, each in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy.tags import RULES
from benchmarks.accuracy.trained import Head, train
from ner_service.formats import write_documents
from tests.training.runs import encoder_bundle, setup_of
from training.sample import sample_documents


@pytest.mark.parametrize("head", ["global_pointer", "token_classification"])
def test_a_head_is_trained_and_measured(head: Head, tmp_path: Path) -> None:
    documents = sample_documents(24)
    labels = sorted({entity.label for document in documents for entity in document.entities})
    encoder_bundle(setup_of(documents, labels)).save(tmp_path / "start")
    write_documents(documents, tmp_path / "texts.jsonl")
    settings = [
        "device=cpu",
        "epochs=30",
        "optimizer.lr=2e-2",
        "optimizer.head_lr=2e-2",
        "batch.tokens=128",
        f'model.start_from="{tmp_path}/start"',
        f'data.train=[{{ path = "{tmp_path}/texts.jsonl" }}]',
        f'data.dev=[{{ path = "{tmp_path}/texts.jsonl" }}]',
    ]
    options = [part for setting in settings for part in ("--set", setting)]
    trained = train(head, options, documents, tmp_path / "run")
    assert 1 < trained.selected_epoch <= 30
    assert (trained.rule in RULES) == (head == "token_classification")
    assert trained.selection_f1 > 0.3
    # What chose the epoch is here what the head is measured on, so both are the same F1.
    assert trained.report.micro.f1 == pytest.approx(trained.selection_f1, abs=1e-12)
    assert trained.report.micro.num_gold == sum(len(document.entities) for document in documents)
    assert (trained.cost.clock, trained.cost.peak_mib > 100.0) == ("cpu", True)
