"""Fits that are known beforehand, folds that must not see themselves, and probabilities as they are served."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ner_service.bundle import Bundle, Manifest
from ner_service.decoding import Calibration
from ner_service.errors import ConfigError, MissingHeadError
from ner_service.recognizer import Recognizer
from ner_service.types import Document, Entity, Recognition, RecognizeOptions
from training import calibration
from training.calibration import (
    LOWEST_LOGIT,
    MIN_GOLD,
    NUM_FOLDS,
    THRESHOLDS,
    Logits,
    best_threshold,
    calibrate,
    cross_fit,
    fit,
    fit_labels,
    fit_sigmoid,
    fold_of,
    read_logits,
)
from training.data.raw import fraction_of
from training.evaluation import compare, predict

CPU = torch.device("cpu")
TEXTS = (
    "Ada Lovelace wrote to London.",
    "北京大学在上海。",
    "Bo sat by the sea.",
    "李雷去了广州。",
    "May opened a laboratory.",
    "Charles Babbage wrote from Manchester, where the University of Manchester opened a laboratory in May.",
)


def sigmoid(logits: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.exp(-np.logaddexp(0.0, -logits))


def synthetic(slope: float, intercept: float, num_cells: int, label: int = 0, seed: int = 0) -> Logits:
    """Cells whose logits are as a model's: many low, fewer high; gold as often as the sigmoid says."""
    generator = np.random.default_rng([seed, label])
    score_N = generator.normal(-4.0, 5.0, num_cells)
    return Logits(
        label_N=np.full(num_cells, label),
        score_N=score_N,
        gold_N=generator.uniform(size=num_cells) < sigmoid(slope * score_N + intercept),
        fold_N=generator.integers(0, NUM_FOLDS, num_cells),
    )


def together(*parts: Logits) -> Logits:
    names = ("label_N", "score_N", "gold_N", "fold_N")
    return Logits(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def seen(logits: Logits) -> Logits:
    """As `read_logits` sees cells: low ones are not there, and low gold ones have no logit."""
    low_N = logits.score_N <= LOWEST_LOGIT
    hidden = replace(logits, score_N=np.where(low_N, -np.inf, logits.score_N))
    return hidden.where(~low_N | logits.gold_N)


def manifest_of(manifest: Manifest, num_labels: int) -> Manifest:
    labels = manifest.labels[:num_labels]
    return replace(manifest, labels=labels, thresholds=dict.fromkeys(labels, 0.5))


def standard_errors(slope: float, intercept: float, logits: Logits) -> tuple[float, float]:
    """From the Fisher information of slope and intercept."""
    probability_N = sigmoid(slope * logits.score_N + intercept)
    design = np.stack([logits.score_N, np.ones_like(logits.score_N)])
    covariance = np.linalg.inv((design * (probability_N * (1 - probability_N))) @ design.T)
    return math.sqrt(covariance[0, 0]), math.sqrt(covariance[1, 1])


@pytest.mark.parametrize(("slope", "intercept"), [(0.4, -0.8), (2.0, 0.0), (1.2, 1.5)])
def test_known_parameters_are_recovered(slope: float, intercept: float) -> None:
    logits = synthetic(slope, intercept, 20_000)
    found = fit_sigmoid(logits.score_N, logits.gold_N, (2.0, 0.0))
    errors = standard_errors(slope, intercept, logits)
    assert abs(found[0] - slope) < 4 * errors[0]
    assert abs(found[1] - intercept) < 4 * errors[1]


def test_a_fit_is_where_the_loss_is_least() -> None:
    """The gradient of the loss with its prior is 0 there, by a sum written out anew."""
    logits = synthetic(0.7, -0.5, 500)
    slope, intercept = fit_sigmoid(logits.score_N, logits.gold_N, (1.5, 0.3))
    excess_N = sigmoid(slope * logits.score_N + intercept) - logits.gold_N
    assert (excess_N * slope * logits.score_N).sum() + math.log(slope / 1.5) == pytest.approx(0, abs=1e-6)
    assert excess_N.sum() + intercept - 0.3 == pytest.approx(0, abs=1e-6)


def test_cells_that_are_left_out_do_not_change_the_fit() -> None:
    """What is seen depends on the logit alone. Twin: low gold cells, seen without their neighbours, do change it."""
    logits = synthetic(0.3, -0.5, 20_000)
    whole = fit_sigmoid(logits.score_N, logits.gold_N, (2.0, 0.0))
    candidates = logits.where(logits.score_N > LOWEST_LOGIT)
    found = fit_sigmoid(candidates.score_N, candidates.gold_N, (2.0, 0.0))
    errors = standard_errors(*whole, candidates)
    assert abs(found[0] - whole[0]) < 2 * errors[0]
    assert abs(found[1] - whole[1]) < 2 * errors[1]
    chosen = logits.where((logits.score_N > LOWEST_LOGIT) | logits.gold_N)
    biased = fit_sigmoid(chosen.score_N, chosen.gold_N, (2.0, 0.0))
    assert abs(biased[0] - whole[0]) > 5 * errors[0]


@given(
    st.lists(st.tuples(st.floats(LOWEST_LOGIT, 60), st.booleans()), max_size=30),
    st.floats(0.05, 20),
    st.floats(-5, 5),
)
def test_any_fit_is_finite_and_its_slope_positive(
    cells: list[tuple[float, bool]], slope: float, intercept: float
) -> None:
    score_N = np.array([score for score, _ in cells], dtype=np.float64)
    gold_N = np.array([gold for _, gold in cells], dtype=np.bool_)
    found = fit_sigmoid(score_N, gold_N, (slope, intercept))
    assert 0 < found[0] < math.inf
    assert math.isfinite(found[1])
    if not cells:
        assert found == pytest.approx((slope, intercept))


def test_cells_that_can_be_told_apart_have_a_finite_fit() -> None:
    """Without a prior the slope would have no bound: three times steeper is more likely still."""
    score_N = np.concatenate([np.linspace(-6, -1, 40), np.linspace(1, 6, 40)])
    gold_N = score_N > 0
    slope, intercept = fit_sigmoid(score_N, gold_N, (2.0, 0.0))
    assert 2.0 < slope < 10.0
    assert intercept == pytest.approx(0, abs=1e-6)
    assert np.logaddexp(0, -3 * slope * abs(score_N)).sum() < np.logaddexp(0, -slope * abs(score_N)).sum()


def test_a_rare_label_has_the_fit_of_all() -> None:
    common = synthetic(0.5, -0.5, 4_000)
    rare = synthetic(3.0, 2.0, 4_000, label=1)
    few = rare.where(np.cumsum(rare.gold_N) < MIN_GOLD)
    calibration, pooled = fit_labels(together(common, few), 3)
    assert pooled == (False, True, True)
    assert calibration.slopes[1] == calibration.slopes[2] != calibration.slopes[0]
    calibration, pooled = fit_labels(together(common, rare), 3)
    assert pooled == (False, False, True)
    assert calibration.slopes[1] > 2 * calibration.slopes[0]


def test_best_threshold_by_hand() -> None:
    """Gold at 0.3, 0.6 and 0.9, others at 0.1 and 0.5: F1 is 6/7 from 0.1 to 0.3, where four are found."""
    probability_N = np.array([0.3, 0.6, 0.9, 0.1, 0.5])
    gold_N = np.array([True, True, True, False, False])
    assert best_threshold(probability_N, gold_N) == 0.29
    # A gold entity that was overlooked costs every threshold alike.
    assert best_threshold(np.append(probability_N, 0.0), np.append(gold_N, True)) == 0.29
    assert best_threshold(np.empty(0), np.empty(0, dtype=bool)) == 0.5


@given(st.lists(st.tuples(st.sampled_from(THRESHOLDS.tolist()), st.booleans()), max_size=20))
def test_no_other_threshold_is_better(cells: list[tuple[float, bool]]) -> None:
    def f1(threshold: float) -> float:
        found = [gold for p, gold in cells if p > threshold]
        return 2 * sum(found) / max(len(found) + sum(gold for _, gold in cells), 1)

    probability_N = np.array([p for p, _ in cells], dtype=np.float64)
    gold_N = np.array([gold for _, gold in cells], dtype=np.bool_)
    assert f1(best_threshold(probability_N, gold_N)) == max(map(f1, THRESHOLDS.tolist()))


def test_a_fold_does_not_see_itself() -> None:
    """Turning a fold's gold round changes what is said of every fold but itself: the second half is the twin."""
    logits = synthetic(0.5, -0.5, 3_000)
    inside_N = logits.fold_N == 2
    poisoned = replace(logits, gold_N=logits.gold_N ^ inside_N)
    clean, other = cross_fit(logits, 1), cross_fit(poisoned, 1)
    assert (clean.probability_N[inside_N] == other.probability_N[inside_N]).all()
    assert (clean.found_N[inside_N] == other.found_N[inside_N]).all()
    assert clean.threshold_FC[2] == other.threshold_FC[2]
    assert (clean.probability_N[~inside_N] != other.probability_N[~inside_N]).all()


def test_a_threshold_that_pays_is_taken(tiny_bundle: Bundle) -> None:
    """Every entity scores below 0, so that the neutral threshold finds none."""
    shifted = synthetic(2.0, 8.0, 4_000)
    found = fit(seen(shifted), manifest_of(tiny_bundle.manifest, 1)).labels["PER"]
    assert found.figures.before.f1 < 0.6 < 0.8 < found.figures.after.f1
    assert found.threshold in THRESHOLDS
    assert found.threshold < 0.9


def test_a_threshold_that_does_not_pay_is_not(tiny_bundle: Bundle) -> None:
    """Told apart at 0: nothing is better. And with little gold nothing else is tried."""
    apart = synthetic(50.0, 0.0, 4_000)
    few = apart.where(np.cumsum(apart.gold_N) < MIN_GOLD)
    shifted = synthetic(2.0, 8.0, 4_000)
    rare = shifted.where(np.cumsum(shifted.gold_N) < MIN_GOLD)
    for logits in (apart, few, rare):
        found = fit(seen(logits), manifest_of(tiny_bundle.manifest, 1)).labels["PER"]
        assert found.threshold == pytest.approx(1 / (1 + math.exp(-found.intercept)))
        assert found.figures.after.f1 == found.figures.before.f1


def test_errors_fall_where_scores_exaggerate(tiny_bundle: Bundle) -> None:
    """The service's sigma(2s) for cells of slope 0.5. Twin: cells of slope 2 gain nothing."""
    exaggerated = fit(seen(synthetic(0.5, -0.5, 20_000)), manifest_of(tiny_bundle.manifest, 1)).figures
    assert exaggerated.before.ece_found is not None
    assert exaggerated.after.ece_found is not None
    assert exaggerated.before.ece_found > 0.15
    assert exaggerated.after.ece_found < 0.02
    right = fit(seen(synthetic(2.0, 0.0, 20_000)), manifest_of(tiny_bundle.manifest, 1)).figures
    assert right.before.ece_found == pytest.approx(right.after.ece_found, abs=0.01)


def sampled(bundle: Bundle, slope: float) -> list[Document]:
    """Documents whose gold are the tiny model's spans, as often as sigma(slope * s) says."""
    generator = np.random.default_rng(3)
    probe = replace(
        bundle, manifest=replace(bundle.manifest, calibration=Calibration(slopes=(slope,) * 3, intercepts=(0.0,) * 3))
    )
    texts = [f"{one} {other}" for one in TEXTS for other in TEXTS]
    answers = Recognizer(probe, CPU).recognize(texts, RecognizeOptions(threshold=0.001))
    documents = []
    for text, answer in zip(texts, answers, strict=True):
        assert isinstance(answer, Recognition)
        drawn = [replace(e, score=None) for e in answer.entities if generator.uniform() < (e.score or 0.0)]
        documents.append(Document(text, tuple(drawn)))
    return documents


@pytest.fixture(scope="module")
def documents(tiny_bundle: Bundle) -> list[Document]:
    return sampled(tiny_bundle, 0.8)


def calibrated(bundle: Bundle, documents: list[Document]) -> Bundle:
    found = calibrate(bundle, documents, CPU)
    manifest = replace(bundle.manifest, calibration=found.calibration, thresholds=found.thresholds)
    return replace(bundle, manifest=manifest)


def test_logits_are_the_models(tiny_bundle: Bundle, documents: list[Document]) -> None:
    """Read back through probabilities, they are those of the forward pass; folds follow the text."""
    logits = read_logits(tiny_bundle, documents, CPU)
    uncalibrated = Calibration.uncalibrated(3)
    served = Recognizer(tiny_bundle, CPU).recognize([d.text for d in documents], RecognizeOptions(threshold=0.01))
    expected = [e.score for answer in served if isinstance(answer, Recognition) for e in answer.entities]
    probability_N = uncalibrated.probability(logits.label_N, logits.score_N)
    assert sorted(probability_N[probability_N > 0.01]) == pytest.approx(sorted(map(float, filter(None, expected))))
    folds = {fold_of(document.text) for document in documents}
    assert set(logits.fold_N.tolist()) == folds == set(range(NUM_FOLDS))
    assert logits.gold_N.sum() == sum(len(document.entities) for document in documents)


def test_a_tenth_cut_by_the_hash_of_dev_sets_falls_into_all_folds(tiny_bundle: Bundle) -> None:
    """Each fold has a fifth of it, give or take four deviations. Twin: by the hash that cut it, all is one fold."""
    held_out = [text for text in (f"Bo met {number}." for number in range(10_000)) if fraction_of(text) < 0.1]
    sizes = np.bincount([fold_of(text) for text in held_out], minlength=NUM_FOLDS)
    assert abs(sizes - len(held_out) / NUM_FOLDS).max() < 4 * math.sqrt(len(held_out) * 0.2 * 0.8)
    assert {int(fraction_of(text) * NUM_FOLDS) for text in held_out} == {0}
    few = [Document(text, (Entity(0, 2, "PER"),)) for text in held_out[:40]]
    gold = (logits := read_logits(tiny_bundle, few, CPU)).where(logits.gold_N)
    assert gold.fold_N.tolist() == [fold_of(document.text) for document in few]
    assert len(set(gold.fold_N.tolist())) == NUM_FOLDS


def test_a_model_that_finds_nearly_every_span_is_refused(
    tiny_bundle: Bundle, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as there are too many, not once all are read. Twin: as many as there are do fit."""
    total = len(read_logits(tiny_bundle, documents, CPU).score_N)
    assert total > 1000
    monkeypatch.setattr(calibration, "MAX_CELLS", total)
    assert len(read_logits(tiny_bundle, documents, CPU).score_N) == total
    monkeypatch.setattr(calibration, "MAX_CELLS", 100)
    said = r"found [\d,]+ spans above logit -8 in (\d+) texts, expected a dozen a text and at most 100: train longer"
    with pytest.raises(ConfigError, match=said) as refusal:
        read_logits(tiny_bundle, documents, CPU)
    num_texts = int(str(refusal.value).partition(" texts")[0].rpartition(" ")[2])
    assert 0 < num_texts < len(documents)


def test_a_models_own_slope_is_recovered(tiny_bundle: Bundle, documents: list[Document]) -> None:
    """Documents drawn with slope 0.8: the fit of all labels finds it, far from the 2 that it starts from."""
    logits = read_logits(tiny_bundle, documents, CPU)
    finite = logits.where(np.isfinite(logits.score_N))
    slope, intercept = fit_sigmoid(finite.score_N, finite.gold_N, (2.0, 0.0))
    errors = standard_errors(0.8, 0.0, finite)
    assert abs(slope - 0.8) < 4 * errors[0]
    assert abs(intercept) < 4 * errors[1]


def test_the_service_answers_with_the_fit(tiny_bundle: Bundle, documents: list[Document]) -> None:
    """Section 1.4: p = sigma(slope * s + intercept), each label above its own threshold; the order of scores stays."""
    after = calibrated(tiny_bundle, documents)
    fitted = after.manifest.calibration
    assert fitted is not None
    options = RecognizeOptions(label_thresholds=dict.fromkeys(tiny_bundle.manifest.labels, 0.001))
    [plain] = Recognizer(tiny_bundle, CPU).recognize([TEXTS[0]], options)
    [own] = Recognizer(after, CPU).recognize([TEXTS[0]])
    assert isinstance(plain, Recognition)
    assert isinstance(own, Recognition)
    expected = {}
    for entity in plain.entities:
        index = tiny_bundle.manifest.labels.index(entity.label)
        logit = math.log((entity.score or 0) / (1 - (entity.score or 0))) / 2
        probability = 1 / (1 + math.exp(-fitted.slopes[index] * logit - fitted.intercepts[index]))
        if probability > after.manifest.thresholds[entity.label]:
            expected[entity] = probability
    assert {entity: entity.score for entity in own.entities} == pytest.approx(expected)
    assert len(expected) > 1
    for label in tiny_bundle.manifest.labels:
        before, now = (sorted(_of(answer, label), key=score) for answer in (plain, own))
        assert [entity for entity in before if entity in now] == now


def _of(answer: Recognition, label: str) -> list[Entity]:
    return [entity for entity in answer.entities if entity.label == label]


def score(entity: Entity) -> float:
    return entity.score or 0.0


def test_calibrating_again_changes_nothing(tiny_bundle: Bundle, documents: list[Document]) -> None:
    """The fit starts from the model's logits, not from what the bundle says of them."""
    once = calibrate(tiny_bundle, documents, CPU)
    again = calibrate(calibrated(tiny_bundle, documents), documents, CPU)
    assert again.calibration == once.calibration
    assert again.thresholds == once.thresholds
    assert again.figures.after == once.figures.after
    assert again.figures.before != once.figures.before


def test_f1_before_is_what_is_served(tiny_bundle: Bundle, documents: list[Document]) -> None:
    report = compare(documents, predict(Recognizer(tiny_bundle, CPU), documents))
    found = calibrate(tiny_bundle, documents, CPU)
    assert found.figures.before.f1 == pytest.approx(report.micro.f1)
    for label, fitted in found.labels.items():
        assert fitted.figures.before.f1 == pytest.approx(report.labels[label].f1)
        assert fitted.figures.gold == report.labels[label].num_gold


def test_gold_without_a_logit_counts_and_is_not_fitted(tiny_bundle: Bundle, documents: list[Document]) -> None:
    """An entity that no token boundary fits is overlooked, and the fit is what it was."""
    spoilt = [replace(documents[0], entities=(*documents[0].entities, Entity(1, 2, "PER"))), *documents[1:]]
    clean, other = calibrate(tiny_bundle, documents, CPU), calibrate(tiny_bundle, spoilt, CPU)
    assert other.calibration == clean.calibration
    assert other.figures.gold == clean.figures.gold + 1
    assert other.figures.before.f1 < clean.figures.before.f1


def test_refusals(tiny_bundle: Bundle, tiny_embedding_bundle: Bundle, documents: list[Document]) -> None:
    with pytest.raises(MissingHeadError, match="spans"):
        calibrate(tiny_embedding_bundle, documents, CPU)
    foreign = Document("Ada", (Entity(0, 3, "person"),))
    with pytest.raises(ConfigError, match=r"^'Ada': found the label 'person' of 'Ada', expected one of 'PER', 'ORG'"):
        calibrate(tiny_bundle, [foreign], CPU)
    with pytest.raises(ConfigError, match="found no entity in 1 documents"):
        calibrate(tiny_bundle, [Document("Ada")], CPU)
