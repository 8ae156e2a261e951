"""Taggers are trained on what a pointer head is trained on, batch by batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import typer
from accelerate import Accelerator
from typer.testing import CliRunner

from benchmarks.accuracy.tagging import entities, main, new_tagger, predict, tagged_windows, train
from benchmarks.accuracy.tags import NO_TAG, RULES, outermost
from ner_service.errors import ConfigError
from ner_service.types import Document, Entity, WindowLimits
from tests.training.runs import setup_of
from training.config import OptimizerConfig, RegularisationConfig
from training.data.augmentation import join
from training.data.loader import batches_of_epoch
from training.objectives.spans import SpansObjective
from training.preparation import Setup
from training.sample import sample_documents


def started(documents: list[Document], window: WindowLimits | None = None, seed: int = 0) -> Setup:
    """A setup that starts from an encoder with random weights."""
    labels = sorted({entity.label for document in documents for entity in document.entities})
    setup = setup_of(documents, labels, window=window)
    encoder = setup.build_model().state_dict()
    weights = {name: tensor for name, tensor in encoder.items() if name.startswith("encoder.")}
    return replace(setup, weights=weights, run=replace(setup.run, seed=seed, precision="fp32", device="cpu"))


def test_the_batches_of_an_epoch_are_those_of_a_pointer_head() -> None:
    setup = started(sample_documents(24), window=WindowLimits(max_tokens=12, overlap_tokens=4))
    model = setup.build_model()
    windows = list(tagged_windows(setup.corpus.train, setup))
    for epoch in range(2):
        theirs = [batch for step in SpansObjective(setup, model, Accelerator(cpu=True)).steps(epoch) for batch in step]
        ours = list(batches_of_epoch(windows, setup.run.batch.tokens, seed=setup.run.seed, epoch=epoch))
        assert len(ours) > 2
        assert [[window.encoding for window in batch] for batch in ours] == [
            [example.encoding for example in batch] for batch in theirs
        ]


def test_tags_of_nested_documents_are_those_of_the_outermost_mentions() -> None:
    nested = Document(text="Bank of Rome", entities=(Entity(0, 12, "ORG"), Entity(8, 12, "LOC")))
    setup = started([nested])
    (window,) = tagged_windows([nested], setup)
    (alone,) = tagged_windows([replace(nested, entities=nested.entities[:1])], setup)
    assert window.tags == alone.tags
    assert set(window.tags) <= {NO_TAG, 0, 3, 4}  # LOC has 1 and 2, ORG 3 and 4


def test_a_tagger_learns_the_sample_and_finds_it_beyond_the_first_window() -> None:
    documents = [replace(each, entities=tuple(outermost(each.entities))) for each in sample_documents(16)]
    setup = started(documents, window=WindowLimits(max_tokens=40, overlap_tokens=12))
    setup = replace(
        setup,
        corpus=replace(setup.corpus, dev=tuple(documents)),
        run=replace(setup.run, epochs=25, optimizer=OptimizerConfig(lr=1e-2, head_lr=1e-2)),
    )
    tagger = new_tagger("token_classification", setup)
    history = list(train(tagger, setup, Accelerator(cpu=True)))
    assert [measured.epoch for measured in history] == list(range(1, 26))
    assert history[0].f1 < 0.5
    assert history[-1].f1 > 0.85
    assert history[-1].rule in RULES
    together = join(documents[:6])
    (answer,) = predict(tagger, setup, [together.text])
    assert len(answer) > 2
    found = set(entities(answer, setup.corpus.labels, "repaired"))
    assert {entity for entity in found & set(together.entities) if entity.start > answer[0][0].end}


def test_the_same_seed_trains_the_same_tagger() -> None:
    setup = started(sample_documents(8))

    def weights(of: Setup) -> torch.Tensor:
        tagger = new_tagger("token_classification", replace(of, run=replace(of.run, epochs=1)))
        list(train(tagger, replace(of, run=replace(of.run, epochs=1)), Accelerator(cpu=True)))
        return torch.cat([parameter.flatten() for parameter in tagger.parameters()])

    assert torch.equal(weights(setup), weights(setup))
    other = replace(setup, run=replace(setup.run, seed=1))
    assert not torch.equal(weights(setup), weights(other))


def test_a_start_from_random_weights_is_refused() -> None:
    setup = started(sample_documents(8))
    with pytest.raises(ConfigError, match="expected a bundle with a RoFormer"):
        new_tagger("token_classification", replace(setup, weights={}))


def test_what_would_not_be_compared_is_refused() -> None:
    setup = started(sample_documents(8))
    run = replace(setup.run, regularisation=RegularisationConfig(r_drop=1.0))
    with pytest.raises(ConfigError, match="expected none where heads are compared"):
        new_tagger("token_classification", replace(setup, run=run))


def test_an_unknown_head_is_refused() -> None:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(main)
    result = CliRunner().invoke(app, ["run.toml", "--head", "foo", "-o", "nowhere"])
    assert result.exit_code == 2
    assert "'foo' is not one of 'token_classification', 'crf'" in result.output
