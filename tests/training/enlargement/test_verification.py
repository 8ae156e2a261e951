"""The verification finds what differs, wherever it is, and nothing where nothing does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ner_service.bundle import Bundle
from ner_service.errors import ConfigError
from ner_service.model.config import Heads, LatentConfig
from ner_service.recognizer import Recognizer
from tests.training.enlargement.models import ENCODERS, EVERY_HEAD, ROFORMER, SPANS, TEXTS, bundle_of, in_precision
from training.enlargement import Plan, enlarge
from training.enlargement.verification import (
    SENTENCES,
    TOLERANCE,
    Agreement,
    compare,
    compare_answers,
    compare_outputs,
    verify,
)

CPU = torch.device("cpu")
HEADS = replace(EVERY_HEAD, latent=LatentConfig(num_latents=1, size=4, posterior="none"))


def loaded(bundle: Bundle) -> Recognizer:
    return Recognizer(in_precision(bundle, torch.float32), CPU)


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_an_enlarged_bundle_passes(encoder: object) -> None:
    heads = HEADS if encoder.num_token_types > 1 else SPANS  # type: ignore[attr-defined]
    small = in_precision(bundle_of(encoder, heads), torch.float32)  # type: ignore[arg-type]
    found = verify(small, enlarge(small, Plan(width_factor=2, num_layers=3)), TEXTS)
    assert 0.0 < found.largest < TOLERANCE
    assert found.agreement is not None
    assert found.agreement.num_texts == len(TEXTS) + len(SENTENCES)
    assert found.agreement.num_entities > 20
    assert found.agreement.num_differing == 0
    names = {"hidden", "spans"}
    names |= {"embedding", "language_model", "latent", "written", "vectors of texts"} if heads is HEADS else set()
    assert found.outputs.keys() == names


def test_an_encoder_without_heads_passes() -> None:
    small = in_precision(bundle_of(ROFORMER, Heads()), torch.float32)
    found = verify(small, enlarge(small, Plan(width_factor=3)))
    assert found.outputs.keys() == {"hidden"}
    assert found.agreement is None


WIDE = enlarge(bundle_of(ROFORMER, EVERY_HEAD), Plan(width_factor=2, num_layers=3))
# Nothing reads what a new layer makes before its output maps, which are 0, nor batches that were counted.
UNREAD = ("layers.1.attention.query_key_value", "layers.1.feed_in", "num_batches_tracked")


@pytest.mark.parametrize("name", sorted(name for name in WIDE.weights if not any(part in name for part in UNREAD)))
def test_no_weight_escapes(name: str) -> None:
    """The must-fail twin of every verification: one number of one weight a little off, and it is seen."""
    weight = WIDE.weights[name].clone()
    weight.view(-1)[-1] += 0.5
    other = replace(WIDE, weights={**WIDE.weights, name: weight})
    assert max(compare_outputs(loaded(bundle_of(ROFORMER, EVERY_HEAD)), loaded(other)).values()) > 2 * TOLERANCE


def test_places_on_a_page_are_compared() -> None:
    """An encoder with two axes is held against one that knows one: texts are the same, pages are not."""
    small = bundle_of(ENCODERS["two_axes"], Heads())
    model = replace(small.manifest.model, encoder=ROFORMER)
    texts_alone = replace(small, manifest=replace(small.manifest, model=model))
    assert compare_outputs(loaded(texts_alone), loaded(small))["hidden"] < TOLERANCE
    with pytest.raises(ConfigError, match="hidden: found a difference of"):
        verify(in_precision(small, torch.float32), in_precision(texts_alone, torch.float32))


def with_bias(bundle: Bundle, shift: float) -> Bundle:
    """Every score higher or lower by a shift: the terms of start and end are halved."""
    name = "spans.terms.bias"
    return replace(bundle, weights={**bundle.weights, name: bundle.weights[name] + shift})


def test_answers_that_differ_are_counted() -> None:
    small = bundle_of(ROFORMER, SPANS)
    before = compare_answers(loaded(small), loaded(small), TEXTS)
    assert before.num_entities > 10
    assert before == Agreement(
        num_texts=len(TEXTS), num_entities=before.num_entities, num_differing=0, num_at_threshold=0, largest=0.0
    )
    more = compare_answers(loaded(small), loaded(with_bias(small, 0.5)), TEXTS)
    assert more.num_entities == before.num_entities
    assert more.num_differing >= before.num_entities  # those of both have other scores
    assert more.num_at_threshold == 0
    assert more.largest > 0.01
    refused = replace(small, manifest=replace(small.manifest, max_candidates=1))
    assert compare_answers(loaded(small), loaded(refused), TEXTS[:1]).num_differing == 1
    assert compare_answers(loaded(refused), loaded(refused), TEXTS[:1]).num_differing == 0


def test_a_score_at_its_threshold_may_fall_on_either_side() -> None:
    """An entity within the tolerance of its threshold may be found by one model alone; one further off counts."""
    small = bundle_of(ROFORMER, SPANS)
    [score, *_] = sorted(entity.score or 0.0 for entity in loaded(small).recognize(TEXTS)[0].entities)  # type: ignore[union-attr]
    for above, shift, num_at_threshold in ((1e-6, -2e-5, 1), (2e-4, -1e-2, 0)):
        manifest = replace(small.manifest, thresholds=dict.fromkeys(small.manifest.labels, score - above))
        tied = replace(small, manifest=manifest)
        found = compare_answers(loaded(tied), loaded(with_bias(tied, shift)), TEXTS[:1])
        assert found.num_at_threshold == num_at_threshold
        assert bool(found.num_differing) == (not num_at_threshold)


def test_refusals_name_the_output() -> None:
    small = in_precision(bundle_of(ROFORMER, HEADS), torch.float32)
    large = enlarge(small, Plan(width_factor=2))
    for name, output in (
        ("embedding.bias", "embedding"),
        ("spans.dense.bias", "spans"),
        ("latent.down.0.bias", "latent"),
    ):
        off = replace(large, weights={**large.weights, name: large.weights[name] + 0.1})
        with pytest.raises(ConfigError, match=rf"^{output}: found a difference of \d.*, expected at most 5e-05"):
            verify(small, off)
    for name, output in (("embedding.bias", "embedding"), ("spans.dense.bias", "spans")):
        nothing = replace(large, weights={**large.weights, name: large.weights[name] * torch.nan})
        with pytest.raises(ConfigError, match=rf"^{output}: found a difference of nan"):
            verify(small, nothing)
    thresholds = dict.fromkeys(small.manifest.labels, 0.1)
    other = replace(large, manifest=replace(large.manifest, thresholds=thresholds))
    with pytest.raises(ConfigError, match=r"found \d+ entities that differ on 6 texts, expected none"):
        verify(small, other)


def test_vectors_of_texts_are_compared() -> None:
    small, other = bundle_of(ROFORMER, HEADS), bundle_of(ROFORMER, HEADS, seed=1)
    assert compare(loaded(small), loaded(other), TEXTS).outputs["vectors of texts"] > 0.1
