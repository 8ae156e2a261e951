"""The decoder against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ner_service.decoding import Calibration, Candidates, apply_overlap, decode, nesting
from ner_service.types import Encoding, Entity, LabelSet, OverlapPolicy
from tests.strategies import LABELS

KNOWN = LabelSet(LABELS)
PLAIN = Calibration.uncalibrated(len(KNOWN))


@st.composite
def scored(draw: st.DrawFn, length: int = 9) -> list[Entity]:
    """Distinct entities of a short text in key order; few scores, so many are equal."""
    spans = st.tuples(st.integers(0, length - 1), st.integers(1, length), st.sampled_from(LABELS))
    found = draw(st.sets(spans.filter(lambda span: span[0] < span[1]), max_size=9))
    score = st.sampled_from((0.5, 0.75, 0.9))
    return sorted((Entity(*span, score=draw(score)) for span in found), key=lambda entity: entity.key)


def crosses(one: Entity, other: Entity) -> bool:
    inside = set(range(one.start, one.end)), set(range(other.start, other.end))
    return bool(inside[0] & inside[1]) and bool(inside[0] - inside[1]) and bool(inside[1] - inside[0])


def overlaps(one: Entity, other: Entity) -> bool:
    return bool(set(range(one.start, one.end)) & set(range(other.start, other.end)))


def greedy(entities: list[Entity], policy: OverlapPolicy) -> list[Entity]:
    """The rule without clusters or order of insertion: the best of what is left that clashes with none kept."""
    clash = crosses if policy == "nested" else overlaps
    kept: list[Entity] = []
    left = list(entities)
    while left:

        def rank(entity: Entity) -> tuple[object, ...]:
            score = -(entity.score or 0.0)
            return (entity.start - entity.end, score, *entity.key) if policy == "longest" else (score, *entity.key)

        best = min(left, key=rank)
        left.remove(best)
        if policy == "all" or not any(clash(best, other) for other in kept):
            kept.append(best)
    return sorted(kept, key=lambda entity: entity.key)


def candidates(cells: list[tuple[int, int, int]], scores: list[float]) -> Candidates:
    label_N, start_N, end_N = np.array(cells, dtype=np.int64).reshape(-1, 3).T
    return Candidates(label_N, start_N, end_N, np.array(scores, dtype=np.float64))


def per_character(text: str) -> Encoding:
    """[CLS], one token a character, [SEP]."""
    offsets = ((0, 0), *((i, i + 1) for i in range(len(text))), (0, 0))
    return Encoding(token_ids=(0,) * len(offsets), offsets=offsets)


@given(scored(), st.sampled_from(("all", "nested", "flat", "longest")))
def test_policies_equal_brute_force(entities: list[Entity], policy: OverlapPolicy) -> None:
    assert apply_overlap(entities, policy) == greedy(entities, policy)
    assert apply_overlap(entities[::-1], policy) == greedy(entities, policy)


@pytest.mark.parametrize(("policy", "step"), [("nested", 2), ("flat", 3), ("longest", 3)])
def test_a_long_chain_is_cut_in_no_time(policy: OverlapPolicy, step: int) -> None:
    """Each of 30,000 spans clashes with the next one or the next two; in time that grows with the square, minutes."""
    chain = [Entity(2 * place, 2 * place + (3 if step == 2 else 5), "place", 0.9) for place in range(30_000)]
    assert apply_overlap(chain, policy) == chain[::step]


def test_labels_of_one_span_have_one_parent() -> None:
    """All spans of 45 tokens, with each of 12 labels: 12,420 entities."""
    spans = [(start, end) for start in range(45) for end in range(45, start, -1)]
    entities = [Entity(*span, f"label {number:02}") for span in spans for number in range(12)]
    answers = nesting(entities)
    assert answers[:12] == [(None, 0)] * 12
    for place, (start, end) in enumerate(spans):
        assert len(set(answers[12 * place : 12 * place + 12])) == 1
        parent, depth = answers[12 * place]
        assert depth == 45 - (end - start)
        if parent is not None:
            assert entities[parent].end - entities[parent].start == end - start + 1


def test_policies_differ() -> None:
    long, short, crossing = Entity(0, 5, "group", 0.6), Entity(1, 3, "place", 0.9), Entity(4, 7, "person", 0.7)
    entities = [long, short, crossing]
    assert apply_overlap(entities, "all") == [long, short, crossing]
    assert apply_overlap(entities, "nested") == [short, crossing]
    assert apply_overlap(entities, "flat") == [short, crossing]
    assert apply_overlap(entities, "longest") == [long]
    assert apply_overlap([long, short], "nested") == [long, short]
    assert apply_overlap([long, short], "flat") == [short]


def test_one_span_with_two_labels_is_nested_but_not_flat() -> None:
    twins = [Entity(0, 2, "group", 0.6), Entity(0, 2, "place", 0.9)]
    assert apply_overlap(twins, "nested") == twins
    assert apply_overlap(twins, "flat") == apply_overlap(twins, "longest") == twins[1:]


def test_entities_that_touch_do_not_overlap() -> None:
    neighbours = [Entity(0, 2, "group", 0.6), Entity(2, 4, "place", 0.9)]
    assert apply_overlap(neighbours, "flat") == neighbours


@given(scored())
def test_nesting_equals_brute_force(entities: list[Entity]) -> None:
    def strictly_around(outer: Entity, inner: Entity) -> bool:
        return set(range(inner.start, inner.end)) < set(range(outer.start, outer.end))

    for index, (parent, depth) in enumerate(nesting(entities)):
        around = [i for i, outer in enumerate(entities) if strictly_around(outer, entities[index])]
        sizes = [entities[i].end - entities[i].start for i in around]
        assert parent == (around[sizes.index(min(sizes))] if around else None)
        assert depth == (0 if parent is None else nesting(entities)[parent][1] + 1)


def test_depth_counts_parents_and_crossing_is_no_nesting() -> None:
    entities = [Entity(0, 9, "group"), Entity(0, 5, "group"), Entity(1, 3, "place"), Entity(4, 7, "person")]
    assert nesting(entities) == [(None, 0), (0, 1), (1, 2), (0, 1)]
    assert nesting([Entity(0, 2, "group"), Entity(0, 2, "place")]) == [(None, 0), (None, 0)]


def test_gp15_gold_as_scores_comes_back() -> None:
    """Nested spans, one span with two labels, spans of one character: gold cells at +1, every other cell at -1."""
    text = "上海外国语大学附属中学"
    gold = {
        Entity(0, 11, "group"),
        Entity(0, 7, "group"),
        Entity(0, 2, "place"),
        Entity(0, 2, "person"),
        Entity(2, 3, "place"),
        Entity(10, 11, "person"),
    }
    cutoffs = [PLAIN.cutoff(label, 0.5) for label in range(len(KNOWN))]
    cells = [
        (label, start, end)
        for label in range(len(KNOWN))
        for start, end in itertools.combinations_with_replacement(range(1, len(text) + 1), 2)
    ]
    scores = [1.0 if Entity(s - 1, e, KNOWN[label]) in gold else -1.0 for label, s, e in cells]
    above = [i for i, (label, _, _) in enumerate(cells) if scores[i] > cutoffs[label]]
    found = decode(candidates([cells[i] for i in above], [scores[i] for i in above]), per_character(text), KNOWN, PLAIN)
    assert found == sorted(gold, key=lambda entity: entity.key)
    assert set(apply_overlap(found, "flat")) == {Entity(0, 11, "group")}, "what does not nest loses the rest"
    assert len({(entity.start, entity.end) for entity in found}) < len(gold), "so does one label a span"


def test_the_inclusive_token_end_becomes_an_exclusive_character_end() -> None:
    text = "Ann went to Oslo"
    encoding = Encoding((0, 1, 2, 3, 4, 0), ((0, 0), (0, 3), (4, 8), (9, 11), (12, 16), (0, 0)))
    (found,) = decode(candidates([(1, 4, 4)], [0.0]), encoding, KNOWN, PLAIN)
    assert text[found.start : found.end] == "Oslo"
    assert (found.label, found.score) == ("place", 0.5)


def test_tokens_that_share_a_character_give_one_entity_with_the_best_score() -> None:
    """Four byte tokens of one emoji: every span among them is the same mention."""
    encoding = Encoding((0,) * 6, ((0, 0), (0, 1), (0, 1), (0, 1), (0, 1), (0, 0)))
    cells = [(0, start, end) for start in range(1, 5) for end in range(start, 5)]
    scores = [0.1 * i for i in range(len(cells))]
    (found,) = decode(candidates(cells, scores), encoding, KNOWN, PLAIN)
    assert (found.start, found.end) == (0, 1)
    assert found.score == pytest.approx(1 / (1 + math.exp(-2 * max(scores))))


def test_nothing_gives_nothing() -> None:
    assert decode(Candidates.none(), per_character("x"), KNOWN, PLAIN) == []
    assert apply_overlap([], "flat") == []
    assert nesting([]) == []


@given(
    st.floats(0.1, 10),
    st.floats(-5, 5),
    st.floats(1e-6, 1 - 1e-6),
)
def test_cutoff_and_probability_are_inverse(slope: float, intercept: float, probability: float) -> None:
    calibration = Calibration(slopes=(1.0, slope), intercepts=(0.0, intercept))
    cutoff = calibration.cutoff(1, probability)
    found = calibration.probability(np.array([1]), np.array([cutoff]))
    assert found[0] == pytest.approx(probability, rel=1e-9)


def test_uncalibrated_probability_is_sigma_of_twice_the_score() -> None:
    score_N = np.array([-50.0, -1.0, 0.0, 0.5, 50.0])
    found = PLAIN.probability(np.zeros(5, dtype=np.int64), score_N)
    assert found.tolist() == pytest.approx([1 / (1 + math.exp(-2 * score)) for score in score_N])
    assert found[2] == 0.5
    assert PLAIN.cutoff(0, 0.5) == 0.0


def test_extreme_scores_and_thresholds() -> None:
    with np.errstate(all="raise"):
        found = PLAIN.probability(np.array([0, 0]), np.array([-300.0, 300.0]))
    assert 0 < found[0] < 1e-200
    assert found[1] == 1.0
    assert PLAIN.cutoff(0, 0.0) == -math.inf
    assert PLAIN.cutoff(0, 1.0) == math.inf


def test_each_label_has_its_own_calibration() -> None:
    calibration = Calibration(slopes=(1.0, 4.0, 2.0), intercepts=(0.0, 1.0, -1.0))
    found = calibration.probability(np.array([0, 1, 2]), np.array([1.0, 1.0, 1.0]))
    assert found.tolist() == pytest.approx([1 / (1 + math.exp(-logit)) for logit in (1.0, 5.0, 1.0)])


@pytest.mark.parametrize(
    ("slopes", "intercepts", "message"),
    [((1.0,), (0.0, 0.0), "1 slopes, 2 intercepts"), ((1.0, 0.0), (0.0, 0.0), "expected positive numbers")],
)
def test_calibrations_that_cannot_be_are_refused(
    slopes: tuple[float, ...], intercepts: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Calibration(slopes=slopes, intercepts=intercepts)
