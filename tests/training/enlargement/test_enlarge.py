"""Enlargement as a whole: every kind of encoder, every head, wider and deeper (oracles B-1, B-3, B-5, B-9)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ner_service.bundle import Bundle, read_manifest
from ner_service.errors import ConfigError
from ner_service.model.config import (
    EmbeddingConfig,
    EncoderConfig,
    FNetConfig,
    HeadConfig,
    Heads,
    HuggingFaceConfig,
    LatentConfig,
    RoFormerConfig,
    RoFormerV2Config,
)
from ner_service.recognizer import Recognizer
from ner_service.types import Recognition
from tests.training.enlargement.models import (
    ENCODERS,
    EVERY_HEAD,
    ROFORMER,
    SPANS,
    TEXTS,
    bundle_of,
    heads_for,
    hidden_error,
    in_precision,
    model_of,
    random_batches,
)
from training.enlargement import Plan, Scheme, Symmetry, enlarge, num_parameters
from training.enlargement.verification import compare_outputs, outputs

PLANS = {
    "wide": Plan(width_factor=2),
    "wider": Plan(width_factor=3, symmetry="noise"),
    "wide_heads": Plan(width_factor=3, scheme="wider_heads"),
    "deep": Plan(num_layers=5),
    "wide_and_deep": Plan(width_factor=2, num_layers=3, symmetry="equal"),
}


def largest_differences(small: Bundle, large: Bundle) -> dict[str, float]:
    """Of every head's output."""
    found: dict[str, float] = {}
    with torch.no_grad():
        for batch in random_batches(small):
            pairs = zip(outputs(model_of(small), batch), outputs(model_of(large), batch), strict=True)
            for (name, expected), (_, other) in pairs:
                if name not in ("hidden", "written"):  # those are wider
                    found[name] = max(found.get(name, 0.0), float((expected - other).abs().max()))
    return found


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_every_head_of_every_encoder_gives_the_same(encoder: RoFormerConfig | RoFormerV2Config, plan: Plan) -> None:
    """B-1 and B-3 in double precision: hidden states, spans, vectors, named tokens, codes."""
    small = bundle_of(encoder, heads_for(encoder))
    large = enlarge(small, plan)
    assert hidden_error(small, large) < 1e-9
    differences = largest_differences(small, large)
    assert differences.keys() == {
        "spans",
        "embedding",
        "language_model",
        *(["latent"] if heads_for(encoder).latent else []),
    }
    assert max(differences.values()) < 1e-9


@pytest.mark.parametrize("kind", ["global_pointer", "efficient_global_pointer"])
@pytest.mark.parametrize("posterior", ["vmf", "none"])
def test_other_heads(kind: str, posterior: str) -> None:
    """B-3 for both pointer heads and the other codes."""
    heads = replace(
        EVERY_HEAD,
        spans=HeadConfig(kind=kind, head_size=6),  # type: ignore[arg-type]
        latent=LatentConfig(num_latents=2, size=3, posterior=posterior),  # type: ignore[arg-type]
    )
    small = bundle_of(replace(ROFORMER, num_layers=3), heads)
    for scheme in ("more_heads", "wider_heads"):
        large = enlarge(small, Plan(width_factor=2, num_layers=5, scheme=scheme))
        assert max(largest_differences(small, large).values()) < 1e-9


@pytest.mark.parametrize("encoder", ["roformer", "roformer_v2"])
def test_in_single_precision(encoder: str) -> None:
    """B-1 and B-3 in fp32, where rounding differs from half a unit in the last place on."""
    small = in_precision(bundle_of(ENCODERS[encoder], EVERY_HEAD), torch.float32)
    large = enlarge(small, Plan(width_factor=4, num_layers=4))
    assert {tensor.dtype for tensor in large.weights.values() if tensor.is_floating_point()} == {torch.float32}
    assert hidden_error(small, large) < 5e-5
    differences = largest_differences(small, large)
    assert max(differences[name] for name in differences.keys() - {"latent"}) < 5e-5
    cpu = torch.device("cpu")  # codes are far larger than 1
    assert compare_outputs(Recognizer(small, cpu), Recognizer(large, cpu))["latent"] < 5e-5


def test_half_precision_is_read_and_not_written() -> None:
    """A factor of 1 / sqrt(2) would cost half-precision weights their last digits."""
    small = in_precision(bundle_of(ROFORMER, SPANS), torch.float16)
    large = enlarge(small, Plan(width_factor=2))
    assert large.weights["encoder.layers.0.feed_in.weight"].dtype == torch.float32
    assert hidden_error(in_precision(small, torch.float64), in_precision(large, torch.float64)) < 1e-5
    assert (
        hidden_error(
            in_precision(small, torch.float64), in_precision(in_precision(large, torch.float16), torch.float64)
        )
        > 1e-5
    )


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize("scheme", ["more_heads", "wider_heads"])
@pytest.mark.parametrize("symmetry", ["shares", "noise", "equal"])
def test_a_factor_of_1_changes_nothing(
    encoder: RoFormerConfig | RoFormerV2Config, scheme: Scheme, symmetry: Symmetry
) -> None:
    """B-5."""
    small = bundle_of(encoder, heads_for(encoder))
    same = enlarge(small, Plan(scheme=scheme, symmetry=symmetry))
    assert same.manifest.model == small.manifest.model
    assert same.weights.keys() == small.weights.keys()
    assert all(torch.equal(same.weights[name], tensor) for name, tensor in small.weights.items())


@pytest.mark.parametrize("encoder", ["factorised", "roformer_v2"])
def test_twice_by_2_is_once_by_4(encoder: str) -> None:
    """B-5: with equal copies, laid one behind the other, even the arrangement is the same."""
    small = bundle_of(ENCODERS[encoder], EVERY_HEAD)
    twice = enlarge(enlarge(small, Plan(width_factor=2, symmetry="equal")), Plan(width_factor=2, symmetry="equal"))
    once = enlarge(small, Plan(width_factor=4, symmetry="equal"))
    assert twice.manifest.model == once.manifest.model
    for name, tensor in once.weights.items():
        torch.testing.assert_close(twice.weights[name], tensor, rtol=1e-12, atol=1e-12)


def test_parameters_are_as_many_as_the_configuration_says() -> None:
    """B-5, counted by hand for a factorised RoFormer with a span head: D 32, W 12, F 24, 4 layers, K 4, C 2."""
    large = enlarge(bundle_of(ENCODERS["factorised"], SPANS), Plan(width_factor=2, num_layers=4))
    vocab_size = large.tokenizer.vocab_size
    embeddings = (vocab_size + 2) * 12 + 2 * 12 + 12 * 32 + 32
    layer = 32 * 96 + 96 + 32 * 32 + 32 + 32 * 24 + 24 + 24 * 32 + 32 + 4 * 32
    head = 32 * 8 + 8 + 8 * 4 + 4
    assert num_parameters(large) == embeddings + 4 * layer + head
    assert num_parameters(large) == sum(tensor.numel() for tensor in large.weights.values())


def test_one_that_was_never_saved_has_no_digest(tmp_path: Path) -> None:
    bundle_of(ROFORMER, SPANS).save(tmp_path / "small")
    first = enlarge(Bundle.load(tmp_path / "small"), Plan(width_factor=2))
    second = enlarge(first, Plan(num_layers=3))
    assert "weights_sha256" in dict(first.manifest.metrics["enlargement"])  # type: ignore[call-overload]
    assert "weights_sha256" not in dict(second.manifest.metrics["enlargement"])  # type: ignore[call-overload]


def test_a_saved_one_is_the_same_and_says_where_it_came_from(tmp_path: Path) -> None:
    """B-9, and the served recognizer: identical entities, vectors alike."""
    heads = replace(SPANS, embedding=EmbeddingConfig(size=6))
    small = in_precision(bundle_of(ROFORMER, heads), torch.float32)
    digest = small.save(tmp_path / "small").files["model.safetensors"].sha256
    loaded = Bundle.load(tmp_path / "small")
    enlarge(loaded, Plan(width_factor=2, num_layers=3, seed=7)).save(tmp_path / "large")
    again = Bundle.load(tmp_path / "large")
    assert hidden_error(small, again) < 5e-5
    manifest = read_manifest(tmp_path / "large")
    assert manifest.model.encoder == replace(
        ROFORMER, hidden_size=32, num_heads=4, intermediate_size=24, num_layers=3, layer_norm_eps=5e-13
    )
    assert (manifest.labels, manifest.thresholds, manifest.window) == (
        loaded.manifest.labels,
        loaded.manifest.thresholds,
        loaded.manifest.window,
    )
    assert manifest.metrics["enlargement"] == {
        "from": "small 1",
        "weights_sha256": digest,
        "width_factor": 2,
        "num_layers": 3,
        "scheme": "more_heads",
        "symmetry": "shares",
        "seed": 7,
    }
    one, other = (Recognizer.load(tmp_path / name, "cpu") for name in ("small", "large"))
    num_entities = 0
    for expected, found in zip(one.recognize(TEXTS), other.recognize(TEXTS), strict=True):
        assert isinstance(expected, Recognition)
        assert isinstance(found, Recognition)
        assert found.entities == expected.entities
        assert [entity.score for entity in found.entities] == pytest.approx(
            [entity.score for entity in expected.entities], abs=5e-5
        )
        num_entities += len(expected.entities)
    assert num_entities > 10
    assert other.vectors(TEXTS) == pytest.approx(one.vectors(TEXTS), abs=5e-5)


def test_what_is_drawn_depends_on_the_seed_alone() -> None:
    small = bundle_of(ROFORMER, EVERY_HEAD)
    plans = [Plan(width_factor=2, num_layers=3, scheme="wider_heads", seed=seed) for seed in (0, 0, 1)]
    first, again, other = (enlarge(small, plan).weights for plan in plans)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["spans.dense.weight"], other["spans.dense.weight"])
    assert not torch.equal(first["encoder.layers.1.feed_in.weight"], other["encoder.layers.1.feed_in.weight"])
    shuffled = replace(small, weights=dict(sorted(small.weights.items(), reverse=True)))
    assert all(torch.equal(enlarge(shuffled, plans[0]).weights[name], first[name]) for name in first)


@pytest.mark.parametrize(
    ("encoder", "kind"),
    [
        (HuggingFaceConfig(model_type="bert"), "huggingface"),
        (FNetConfig(vocab_size=50, hidden_size=16, num_layers=2, intermediate_size=16), "fnet"),
    ],
)
def test_other_encoders_are_refused(encoder: EncoderConfig, kind: str) -> None:
    small = bundle_of(ROFORMER, Heads())
    model = replace(small.manifest.model, encoder=encoder)
    with pytest.raises(ConfigError, match=f"found an encoder of kind '{kind}', expected 'roformer' or 'roformer_v2'"):
        enlarge(replace(small, manifest=replace(small.manifest, model=model)), Plan(width_factor=2))


def test_refusals() -> None:
    small = bundle_of(ROFORMER, SPANS)
    with pytest.raises(ConfigError, match="num_layers: found 1, expected at least the bundle's own 2"):
        enlarge(small, Plan(num_layers=1))
    bare = bundle_of(replace(ROFORMER, num_layers=0), SPANS)
    with pytest.raises(ConfigError, match="num_layers: found 2 for an encoder without layers, expected 0"):
        enlarge(bare, Plan(num_layers=2))
    assert enlarge(bare, Plan(width_factor=2)).manifest.model.encoder.num_layers == 0  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="width_factor: found 0, expected 1 or more"):
        Plan(width_factor=0)
    foreign = replace(small, weights={**small.weights, "tags.weight": torch.zeros(3, 16)})
    with pytest.raises(ConfigError, match=r"found the weights \['tags.weight'\], expected none but those it knows"):
        enlarge(foreign, Plan(width_factor=2))
    pages = bundle_of(ENCODERS["two_axes"], SPANS)
    with pytest.raises(ConfigError, match="found 'wider_heads' by 2 for an encoder with num_axes = 2"):
        enlarge(pages, Plan(width_factor=2, scheme="wider_heads"))


def test_every_head_has_its_parameters_counted() -> None:
    """Statistics of batches are kept, not learnt, and the table of a posterior is neither."""
    for posterior in ("vmf", "gaussian"):
        latent = LatentConfig(num_latents=1, size=4, posterior=posterior)
        small = bundle_of(ROFORMER, replace(EVERY_HEAD, latent=latent))
        learnt = (tensor.numel() for name, tensor in small.weights.items() if "posteriors.0.norm" not in name)
        assert num_parameters(small) == sum(learnt)
