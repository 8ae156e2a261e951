"""Probabilities that can be believed, and the threshold of each label: fitted on documents that trained nothing.

Platt's model, for each label: p = sigma(slope * s + intercept) of a cell's logit s, slope > 0. Cells at or below
`LOWEST_LOGIT` take no part, gold or not: what is seen then depends on s alone, which leaves p(gold | s) as it is. Gold
cells from there without the others would tell the fit that low logits are gold.

Figures are of what was not fitted on: each fifth of the documents, by a hash of the text, is measured with what the
other four give. Knows no files. Shapes: N cells, C labels, F folds; `parameters` are log slope and intercept.

Source: Platt, Probabilistic Outputs for Support Vector Machines (1999).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from ner_service.bundle import Bundle, Manifest
from ner_service.decoding import Calibration, FloatArray, IntArray
from ner_service.errors import ConfigError
from ner_service.recognizer import Recognizer
from ner_service.records import unstructure
from ner_service.types import Document, LabelSet
from training.cells import BoolArray, Cells, Reliability, Told, calibration_error, join, nobody, read_cells
from training.data.raw import fraction_of
from training.data.sources import check_labels
from training.evaluation import Score

LOWEST_LOGIT = -8.0
"""Cells above it are looked at: p < 0.05 below it for any slope above 0.37, and a text has a dozen above it."""

MAX_CELLS = 4_000_000
"""Cells of all documents that a fit takes, some 500 MB with all that is made of them."""

MIN_GOLD = 20
"""Gold entities that a label needs for a fit and a threshold of its own: ten for each of a fit's two parameters.

Source: Peduzzi et al., A simulation study of the number of events per variable in logistic regression (1996).
"""

NUM_FOLDS = 5
NUM_STEPS = 200
"""Steps after which a fit ends in any case; ten are usual."""

THRESHOLDS = np.arange(5, 96) / 100
"""What a label's threshold is chosen from; the other choice is the probability of the logit 0."""

_NEUTRAL = (2.0, 0.0)  # slope and intercept of scores that were not calibrated
_READING_SLOPE = 0.25  # so gentle that no probability rounds to 1: logits are read back from the recognizer's answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """Label index, logit, whether gold, and fold of each cell; -inf is the logit of a gold entity not looked at."""

    label_N: IntArray
    score_N: FloatArray
    gold_N: BoolArray
    fold_N: IntArray

    def where(self, chosen_N: BoolArray) -> Logits:
        """Some of the cells."""
        return Logits(
            label_N=self.label_N[chosen_N],
            score_N=self.score_N[chosen_N],
            gold_N=self.gold_N[chosen_N],
            fold_N=self.fold_N[chosen_N],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures(Reliability):
    """What probabilities and thresholds are worth: calibration errors and F1."""

    f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Gold entities; figures before and, on folds that took no part in the fit, after."""

    gold: int
    before: Figures
    after: Figures

    def as_dict(self) -> dict[str, object]:
        before = {f"{name}_before": value for name, value in unstructure(self.before).items()}
        return {"gold": self.gold, **before, **unstructure(self.after)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFit:
    """A label's fit and what it is worth. `pooled`: too little gold for a fit of its own, so it has that of all."""

    slope: float
    intercept: float
    threshold: float
    pooled: bool
    figures: Comparison

    def as_dict(self) -> dict[str, object]:
        fit = {"slope": self.slope, "intercept": self.intercept, "threshold": self.threshold, "pooled": self.pooled}
        return {**fit, **self.figures.as_dict()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """Each label's fit, in the order of the bundle's labels, and figures of all together."""

    labels: Mapping[str, LabelFit]
    figures: Comparison

    @property
    def calibration(self) -> Calibration:
        fits = self.labels.values()
        return Calibration(slopes=tuple(f.slope for f in fits), intercepts=tuple(f.intercept for f in fits))

    @property
    def thresholds(self) -> dict[str, float]:
        return {label: fit.threshold for label, fit in self.labels.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """What the other folds say of each cell: its probability, and whether it is above its label's best threshold."""

    probability_N: FloatArray
    found_N: BoolArray
    threshold_FC: FloatArray


def calibrate(bundle: Bundle, documents: Sequence[Document], device: torch.device, told: Told = nobody) -> Calibrated:
    """Fit a bundle's probabilities and thresholds to documents; those that it has count for the figures before alone.

    Raises:
        MissingHeadError: the bundle finds no entities.
        ConfigError: the documents have a label that the bundle does not have, or no entity; or the bundle tells so
            little that their cells are too many.
    """
    return fit(read_logits(bundle, documents, device, told), bundle.manifest)


def read_logits(bundle: Bundle, documents: Sequence[Document], device: torch.device, told: Told = nobody) -> Logits:
    """The cells of documents as the recognizer finds them, with logits in place of probabilities.

    Raises:
        MissingHeadError: the bundle finds no entities.
        ConfigError: the documents have a label that the bundle does not have, or no entity; or the bundle tells so
            little that their cells are too many.
    """
    num_labels = len(bundle.manifest.labels)
    reading = Calibration(slopes=(_READING_SLOPE,) * num_labels, intercepts=(0.0,) * num_labels)
    manifest = replace(bundle.manifest, calibration=reading)
    recognizer = Recognizer(replace(bundle, manifest=manifest), device)
    recognizer.require_head("spans")
    _check(documents, manifest.labels)
    threshold = 1 / (1 + math.exp(-_READING_SLOPE * LOWEST_LOGIT))
    cells = join(_bounded(read_cells(recognizer, documents, threshold, told)))
    fold_of_document = np.array([fold_of(document.text) for document in documents])
    with np.errstate(divide="ignore"):
        score_N = (np.log(cells.probability_N) - np.log1p(-cells.probability_N)) / _READING_SLOPE
    return Logits(
        label_N=cells.label_N, score_N=score_N, gold_N=cells.gold_N, fold_N=fold_of_document[cells.document_N]
    )


def fold_of(text: str) -> int:
    """The fold of a text. Not by the hash that cuts dev sets: a tenth cut by it would lie in one fold."""
    return int(fraction_of(f"fold {text}") * NUM_FOLDS)


def fit(logits: Logits, manifest: Manifest) -> Calibrated:
    """Each label's fit and threshold from all cells, and figures from folds that took no part."""
    names = manifest.labels
    before = manifest.calibration or Calibration.uncalibrated(len(names))
    before_N = before.probability(logits.label_N, logits.score_N)
    found_before_N = before_N > np.array([manifest.thresholds[name] for name in names])[logits.label_N]
    held_out = cross_fit(logits, len(names))
    tuned = [_pays(logits, held_out, label) for label in range(len(names))]
    found_N = np.where(np.array(tuned)[logits.label_N], held_out.found_N, logits.score_N > 0)

    def compared(chosen_N: BoolArray) -> Comparison:
        gold_N = logits.gold_N[chosen_N]
        return Comparison(
            gold=int(gold_N.sum()),
            before=_figures(before_N[chosen_N], found_before_N[chosen_N], gold_N),
            after=_figures(held_out.probability_N[chosen_N], found_N[chosen_N], gold_N),
        )

    calibration, pooled = fit_labels(logits, len(names))
    neutral = _sigmoid(np.array(calibration.intercepts))
    labels = {
        name: LabelFit(
            slope=calibration.slopes[label],
            intercept=calibration.intercepts[label],
            threshold=float(np.median(held_out.threshold_FC[:, label]) if tuned[label] else neutral[label]),
            pooled=pooled[label],
            figures=compared(logits.label_N == label),
        )
        for label, name in enumerate(names)
    }
    return Calibrated(labels=labels, figures=compared(np.ones_like(logits.gold_N)))


def cross_fit(logits: Logits, num_labels: int) -> HeldOut:
    """Measure each fold with what the others give."""
    probability_N = np.empty(len(logits.label_N))
    found_N = np.empty(len(logits.label_N), dtype=np.bool_)
    threshold_FC = np.empty((NUM_FOLDS, num_labels))
    for fold in range(NUM_FOLDS):
        inside_N = logits.fold_N == fold
        inside, others = logits.where(inside_N), logits.where(~inside_N)
        calibration, _ = fit_labels(others, num_labels)
        others_N = calibration.probability(others.label_N, others.score_N)
        for label in range(num_labels):
            own_N = others.label_N == label
            threshold_FC[fold, label] = best_threshold(others_N[own_N], others.gold_N[own_N])
        probability_N[inside_N] = calibration.probability(inside.label_N, inside.score_N)
        found_N[inside_N] = probability_N[inside_N] > threshold_FC[fold, inside.label_N]
    return HeldOut(probability_N=probability_N, found_N=found_N, threshold_FC=threshold_FC)


def fit_labels(logits: Logits, num_labels: int) -> tuple[Calibration, tuple[bool, ...]]:
    """A fit for each label, and whether it is that of all labels together for want of gold.

    Each fit is drawn a little to what it falls back on: a label's to that of all labels, and this to no calibration.
    """
    seen = logits.where(np.isfinite(logits.score_N))
    together = fit_sigmoid(seen.score_N, seen.gold_N, _NEUTRAL)
    fits, pooled = [], []
    for label in range(num_labels):
        own = seen.where(seen.label_N == label)
        pooled.append(bool(own.gold_N.sum() < MIN_GOLD))
        fits.append(together if pooled[-1] else fit_sigmoid(own.score_N, own.gold_N, together))
    slopes, intercepts = zip(*fits, strict=True)
    return Calibration(slopes=slopes, intercepts=intercepts), tuple(pooled)


def fit_sigmoid(score_N: FloatArray, gold_N: BoolArray, prior: tuple[float, float]) -> tuple[float, float]:
    """Slope (> 0) and intercept of the best sigma(slope * s + intercept) for what is gold.

    Most likely together with a normal prior of deviation 1 around the log of the prior's slope and around its
    intercept. That weighs as much as four cells at p = 0.5, and keeps a fit finite that tells all cells apart.
    Newton's method with the expected curvature; no step is longer than 1 or raises the loss.
    """
    centre = np.array([math.log(prior[0]), prior[1]])
    parameters = centre.copy()
    for _ in range(NUM_STEPS):
        slope_score_N = np.exp(parameters[0]) * score_N
        probability_N = _sigmoid(slope_score_N + parameters[1])
        jacobian = np.stack([slope_score_N, np.ones_like(score_N)])
        gradient = jacobian @ (probability_N - gold_N) + parameters - centre
        curvature = (jacobian * (probability_N * (1 - probability_N))) @ jacobian.T + np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        step /= max(1.0, float(np.abs(step).max()))
        loss = _loss(parameters, centre, score_N, gold_N)
        while _loss(parameters - step, centre, score_N, gold_N) > loss:
            step /= 2
        parameters = parameters - step
        if np.abs(step).max() < 1e-9:
            break
    return float(np.exp(parameters[0])), float(parameters[1])


def best_threshold(probability_N: FloatArray, gold_N: BoolArray) -> float:
    """The one of `THRESHOLDS` above which F1 is highest; of equal ones the nearest to 0.5."""
    num_found = len(probability_N) - np.searchsorted(np.sort(probability_N), THRESHOLDS, side="right")
    num_right = gold_N.sum() - np.searchsorted(np.sort(probability_N[gold_N]), THRESHOLDS, side="right")
    f1 = 2 * num_right / np.maximum(num_found + gold_N.sum(), 1)
    return float(THRESHOLDS[np.lexsort((np.abs(THRESHOLDS - 0.5), -f1))[0]])


def _pays(logits: Logits, held_out: HeldOut, label: int) -> bool:
    """Whether thresholds from other folds find a label's entities better than the logit 0, with gold enough to tell."""
    own_N = logits.label_N == label
    gold_N = logits.gold_N[own_N]
    tuned, neutral = _f1(held_out.found_N[own_N], gold_N), _f1(logits.score_N[own_N] > 0, gold_N)
    return bool(gold_N.sum() >= MIN_GOLD) and tuned > neutral


def _figures(probability_N: FloatArray, found_N: BoolArray, gold_N: BoolArray) -> Figures:
    error = calibration_error(probability_N, gold_N)
    return Figures(ece=error.ece, ece_found=error.ece_found, f1=_f1(found_N, gold_N))


def _f1(found_N: BoolArray, gold_N: BoolArray) -> float:
    return Score(int(found_N.sum()), int(gold_N.sum()), int((found_N & gold_N).sum())).f1


def _loss(
    parameters: npt.NDArray[np.float64], centre: npt.NDArray[np.float64], score_N: FloatArray, gold_N: BoolArray
) -> float:
    logit_N = np.exp(parameters[0]) * score_N + parameters[1]
    misfit = np.logaddexp(0.0, logit_N).sum() - logit_N[gold_N].sum()
    return float(misfit + ((parameters - centre) ** 2).sum() / 2)


def _sigmoid(logit_N: FloatArray) -> FloatArray:
    probability_N: FloatArray = np.exp(-np.logaddexp(0.0, -logit_N))
    return probability_N


def _bounded(parts: Iterable[Cells]) -> Iterator[Cells]:
    """The same parts. Raises ConfigError, long before memory ends, where they hold more than `MAX_CELLS`."""
    num_cells = 0
    for part in parts:
        num_cells += len(part.label_N)
        if num_cells > MAX_CELLS:
            raise ConfigError(
                f"found {num_cells:,} spans above logit {LOWEST_LOGIT:g} in {part.document_N[-1] + 1:,} texts, "
                f"expected a dozen a text and at most {MAX_CELLS:,}: train longer, or calibrate on fewer texts"
            )
        yield part


def _check(documents: Sequence[Document], labels: Sequence[str]) -> None:
    """Raises ConfigError unless the documents have entities, all of labels that the bundle has."""
    check_labels(documents, LabelSet(labels))
    if not any(document.entities for document in documents):
        raise ConfigError(f"found no entity in {len(documents)} documents, expected some")
