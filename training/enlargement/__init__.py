"""Lossless enlargement: a bundle in, a larger bundle out that computes the same function, every head included.

Wider first (`width`), with copies that may part (`symmetry`), then deeper (`depth`); `verification` measures two
bundles against each other. Knows no file and no training run.

Source: kexue.fm/archives/8444, with the factors of bias and epsilon put right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ner_service.bundle import WEIGHTS, Bundle, Manifest
from ner_service.errors import ConfigError
from ner_service.model.text_model import TextModel
from ner_service.records import unstructure
from training.enlargement.depth import deepen
from training.enlargement.symmetry import Symmetry, Weights
from training.enlargement.width import Grown, Scheme, known_encoder, widen

__all__ = ["Plan", "Scheme", "Symmetry", "enlarge", "num_parameters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a model grows: `width_factor` times as wide and `num_layers` deep, None for as deep as it is.

    `scheme` says what becomes of attention: `more_heads` has `width_factor` times the heads, each as wide as before;
    `wider_heads` as many heads, each `width_factor` times as wide. `symmetry` is how the copies of a channel are told
    apart: `shares` divides every weight among them by chance, `noise` adds to them what sums to zero, `equal` leaves
    them equal, so that without dropout they learn the same for ever.
    """

    width_factor: int = 1
    num_layers: int | None = None
    scheme: Scheme = "more_heads"
    symmetry: Symmetry = "shares"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.width_factor < 1:
            raise ValueError(f"width_factor: found {self.width_factor}, expected 1 or more")


def enlarge(bundle: Bundle, plan: Plan) -> Bundle:
    """A larger bundle whose every head gives the same outputs, its weights in single precision at least.

    Tokenizer, labels, window, thresholds, calibration and metrics stay as they are; among the metrics stands, as
    `enlargement`, what the bundle was made from and how.

    Raises:
        ConfigError: another encoder than 'roformer' and 'roformer_v2', a weight that is not known, fewer layers than
            there are, or more where there are none, for a new one stands on an old one.
    """
    manifest = bundle.manifest
    small = known_encoder(manifest.model.encoder)
    num_layers = small.num_layers if plan.num_layers is None else plan.num_layers
    if num_layers < small.num_layers:
        raise ConfigError(f"num_layers: found {num_layers}, expected at least the bundle's own {small.num_layers}")
    if num_layers > small.num_layers == 0:
        raise ConfigError(f"num_layers: found {num_layers} for an encoder without layers, expected 0")
    latent = manifest.model.heads.latent
    generator = torch.Generator().manual_seed(plan.seed)
    weights = _in_precision(bundle.weights, torch.float64)
    grown = Grown(small, plan.width_factor, plan.scheme)
    weights = widen(weights, grown, plan.symmetry, generator)
    weights = deepen(weights, grown.encoder, num_layers, latent.num_latents if latent else 0, generator)
    model = replace(manifest.model, encoder=replace(grown.encoder, num_layers=num_layers))
    metrics = {**manifest.metrics, "enlargement": {**_origin(manifest), **unstructure(plan), "num_layers": num_layers}}
    return replace(
        bundle,
        manifest=replace(manifest, model=model, metrics=metrics, files={}),
        weights=_in_precision(weights, torch.promote_types(_precision(bundle.weights), torch.float32)),
    )


def num_parameters(bundle: Bundle) -> int:
    """How many numbers the bundle's model learns."""
    with torch.device("meta"):
        model = TextModel(bundle.manifest.model, len(bundle.manifest.labels))
    return sum(parameter.numel() for parameter in model.parameters())


def _origin(manifest: Manifest) -> dict[str, object]:
    """Tells the bundle that another was made from; one that was never saved has no digest."""
    digest = {"weights_sha256": manifest.files[WEIGHTS].sha256} if WEIGHTS in manifest.files else {}
    return {"from": f"{manifest.name} {manifest.version}", **digest}


def _in_precision(weights: Weights, dtype: torch.dtype) -> Weights:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def _precision(weights: Weights) -> torch.dtype:
    return next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())
