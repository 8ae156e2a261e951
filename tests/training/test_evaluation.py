"""Figures against counts made by hand, and against seqeval where it can follow."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ner_service.bundle import Bundle
from ner_service.errors import TooManyCandidatesError
from ner_service.recognizer import Recognizer
from ner_service.types import Document, Entity, LabelSet, Recognition, RecognizeOptions
from tests.strategies import documents, flat_documents, flat_entities
from training import evaluation
from training.evaluation import (
    NUM_READINGS,
    REPORTED,
    Score,
    compare,
    evaluate,
    full_report,
    has_overlap,
    predict,
    seqeval_score,
)

CPU = torch.device("cpu")
ORG, LOC, PER = "ORG", "LOC", "PER"
NESTED = Document(
    "Visby University hired Ann", (Entity(0, 16, ORG), Entity(0, 5, LOC), Entity(23, 26, PER)), id="nested"
)
FLAT = Document("Bo sat by the sea", (Entity(0, 2, PER),), id="flat")
FOUND = (
    (Entity(0, 16, ORG), Entity(0, 5, LOC), Entity(22, 26, PER), Entity(6, 16, ORG)),
    (Entity(0, 2, PER), Entity(14, 17, LOC)),
)


def counts(score: Score) -> tuple[int, int, int]:
    return score.num_predicted, score.num_gold, score.num_right


def test_counts_made_by_hand() -> None:
    report = compare([NESTED, FLAT], FOUND)
    assert counts(report.micro) == (6, 4, 3)
    assert {label: counts(score) for label, score in report.labels.items()} == {
        LOC: (2, 1, 1),
        ORG: (2, 1, 1),
        PER: (2, 2, 1),
    }
    assert counts(report.overlapping) == (4, 3, 2)
    assert counts(report.flat) == (2, 1, 1)
    # Inner by gold: "Visby" and the wrong "University" lie inside the gold "Visby University".
    assert counts(report.inner) == (2, 1, 1)
    assert counts(report.outer) == (4, 3, 2)
    assert (report.num_documents, report.num_refused) == (2, 0)


def test_figures_follow_from_counts() -> None:
    report = compare([NESTED, FLAT], FOUND)
    assert (report.micro.precision, report.micro.recall) == (3 / 6, 3 / 4)
    assert report.micro.f1 == pytest.approx(2 * (3 / 6) * (3 / 4) / (3 / 6 + 3 / 4))
    assert report.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 1 / 2) / 3)
    assert report.as_dict()["scores"]["flat"] == {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1}  # type: ignore[index]


@pytest.mark.parametrize("wrong", [Entity(0, 2, LOC), Entity(0, 1, PER), Entity(1, 2, PER)])
def test_start_end_and_label_must_all_be_right(wrong: Entity) -> None:
    assert counts(compare([FLAT], [[wrong]]).micro) == (1, 1, 0)
    assert counts(compare([FLAT], [[Entity(0, 2, PER, score=0.1)]]).micro) == (1, 1, 1)


def test_a_prediction_counts_once() -> None:
    assert counts(compare([FLAT], [[Entity(0, 2, PER, 0.9), Entity(0, 2, PER, 0.8)]]).micro) == (1, 1, 1)


def test_no_denominator_is_zero() -> None:
    assert (Score(0, 0, 0).precision, Score(0, 0, 0).recall, Score(0, 0, 0).f1) == (0.0, 0.0, 0.0)
    assert (Score(0, 3, 0).precision, Score(3, 0, 0).recall) == (0.0, 0.0)
    empty = compare([], [])
    assert (empty.micro.f1, empty.macro_f1, empty.labels) == (0.0, 0.0, {})


def test_macro_is_over_labels_in_gold() -> None:
    """A label that the model invents costs precision, not a share of the mean."""
    report = compare([FLAT], [[Entity(0, 2, PER), Entity(3, 6, LOC)]])
    assert report.macro_f1 == 1.0
    assert report.labels[LOC].f1 == 0.0


def test_a_label_that_is_not_annotated_is_neither_right_nor_wrong() -> None:
    text = "Bo of Visby"
    entities = (Entity(0, 2, PER), Entity(6, 11, LOC))
    document = Document(text, entities, annotated=frozenset({PER}))
    [found] = predict(Answers(entities), [document])  # type: ignore[arg-type]
    assert found == (Entity(0, 2, PER),)
    assert counts(compare([document], [found]).micro) == (1, 1, 1)


@dataclass(frozen=True)
class Limits:
    """What is read of a manifest."""

    max_candidates: int = 1000


class Answers:
    """A recognizer that answers every text alike."""

    labels = LabelSet((PER, ORG, LOC))
    manifest = Limits()

    def __init__(self, entities: tuple[Entity, ...] | None) -> None:
        self.answer = TooManyCandidatesError("many") if entities is None else Recognition(entities, 1, 9)

    def recognize(
        self, texts: list[str], options: RecognizeOptions | None = None
    ) -> list[Recognition | TooManyCandidatesError]:
        return [self.answer for _ in texts]


def test_a_refused_text_is_a_text_without_entities() -> None:
    report = evaluate(Answers(None), [FLAT, FLAT])  # type: ignore[arg-type]
    assert counts(report.micro) == (0, 2, 0)
    assert report.num_refused == 2
    assert report.as_dict()["refused"] == 2


def test_seqeval_sees_the_gold_that_was_annotated() -> None:
    """A label outside it is missed nowhere, and overlaps with nothing."""
    entities = (Entity(0, 2, "PER"), Entity(3, 8, "ORG"), Entity(3, 6, "ORG"))
    document = Document("Bo met Ann", entities, annotated=frozenset({"PER"}))
    report = full_report([document], [(Entity(0, 2, "PER"),)])
    assert report.micro.recall == 1.0
    assert report.seqeval == {"precision": 1.0, "recall": 1.0, "f1": 1.0}


def test_seqeval_misses_what_is_scattered() -> None:
    """As every other score does. Twin: without it nothing is missed."""
    document = Document("Bo met Ann", (Entity(0, 2, "PER"),), scattered=(Entity(0, 10, "ORG"),))
    found = [(Entity(0, 2, "PER"),)]
    report = full_report([document], found)
    assert (report.micro.precision, report.micro.recall) == (1.0, 0.5)
    assert report.seqeval == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    assert seqeval_score([replace(document, scattered=())], found)["recall"] == 1.0
    outside = replace(document, annotated=frozenset({"PER"}))
    assert seqeval_score([outside], found)["recall"] == 1.0


def test_flat_gold_is_scored_flat_and_by_seqeval_too() -> None:
    nested_answer = (Entity(0, 2, PER, 0.9), Entity(0, 1, LOC, 0.6))
    report = evaluate(Answers(nested_answer), [FLAT])  # type: ignore[arg-type]
    assert counts(report.micro) == (2, 1, 1)
    assert report.flat_policy is not None
    assert counts(report.flat_policy) == (1, 1, 1)
    assert report.seqeval == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    nested = evaluate(Answers(nested_answer), [NESTED])  # type: ignore[arg-type]
    assert (nested.flat_policy, nested.seqeval) == (None, None)


def test_served_and_evaluated_answers_are_the_same(tiny_recognizer: Recognizer) -> None:
    texts = ["Ada Lovelace wrote to London.", "北京大学在上海。"]
    own = [answer.entities for answer in tiny_recognizer.recognize(texts) if isinstance(answer, Recognition)]
    gold = [Document(text, entities) for text, entities in zip(texts, own, strict=True)]
    micro = evaluate(tiny_recognizer, gold).micro
    assert micro.num_right == micro.num_gold == micro.num_predicted > 0


def test_probabilities_are_measured_beside_answers() -> None:
    """One document: PER right at 0.9, LOC wrong at 0.6; a bin each."""
    report = evaluate(Answers((Entity(0, 2, PER, 0.9), Entity(0, 1, LOC, 0.6))), [FLAT])  # type: ignore[arg-type]
    told = report.as_dict()
    assert told["calibration"] == pytest.approx({"ece": 0.35, "ece_found": 0.35})
    assert told["label_calibration"] == {
        PER: pytest.approx({"ece": 0.1, "ece_found": 0.1}),
        ORG: {},
        LOC: {"ece": 0.6, "ece_found": 0.6},
    }
    assert tuple(told) == REPORTED
    assert "calibration" not in compare([FLAT], FOUND[1:]).as_dict()


def test_who_watches_is_told_of_every_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the answers, awaited a few at a time, stay with their documents."""
    monkeypatch.setattr(evaluation, "DOCUMENTS_AT_ONCE", 3)
    told: list[int] = []
    gold = [FLAT if number % 3 == 1 else Document("nothing") for number in range(7)]
    report = evaluate(Answers((Entity(0, 2, PER, 0.9),)), gold, told.append)  # type: ignore[arg-type]
    assert told[:3] == [3, 3, 1]
    assert sum(told) == NUM_READINGS * len(gold)
    assert report == evaluate(Answers((Entity(0, 2, PER, 0.9),)), gold)  # type: ignore[arg-type]
    assert report.num_documents == 7
    assert report.labels[PER].num_right == 2


def test_a_text_that_the_service_refuses_has_probabilities(tiny_bundle: Bundle) -> None:
    """With `max_candidates` 3 or without: other answers, those of the service, but the same probabilities."""
    texts = ["Ada Lovelace wrote to London.", "北京大学在上海。", "Bo sat.", "Ada Lovelace wrote to London. " * 4]
    free, strict = (
        Recognizer(replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, max_candidates=number)), CPU)
        for number in (2**31 - 1, 3)
    )
    answers = [answer.entities for answer in free.recognize(texts) if isinstance(answer, Recognition)]
    gold = [Document(text, entities[::2]) for text, entities in zip(texts, answers, strict=True)]
    whole, cut = evaluate(free, gold), evaluate(strict, gold)
    assert (cut.calibration, cut.label_calibration) == (whole.calibration, whole.label_calibration)
    served = [answer.entities if isinstance(answer, Recognition) else None for answer in strict.recognize(texts)]
    assert None in served
    assert any(served)
    assert (cut.num_refused, whole.num_refused) == (served.count(None), 0)
    assert cut.micro == compare(gold, served).micro != whole.micro


def test_a_label_that_the_model_does_not_have_counts_in_f1_alone() -> None:
    known = evaluate(Answers((Entity(0, 2, PER, 0.9),)), [FLAT])  # type: ignore[arg-type]
    stranger = replace(FLAT, entities=(*FLAT.entities, Entity(14, 17, "SEA")))
    other = evaluate(Answers((Entity(0, 2, PER, 0.9),)), [stranger])  # type: ignore[arg-type]
    assert (counts(known.micro), counts(other.micro)) == ((1, 1, 1), (1, 2, 1))
    assert other.labels["SEA"].f1 == 0.0
    assert (other.calibration, other.label_calibration) == (known.calibration, known.label_calibration)


def test_overlap() -> None:
    assert has_overlap([Entity(0, 5, LOC), Entity(4, 6, LOC)])
    assert has_overlap([Entity(0, 9, ORG), Entity(2, 3, LOC), Entity(5, 6, LOC)])
    assert has_overlap([Entity(0, 5, LOC), Entity(0, 5, ORG)])
    assert not has_overlap([Entity(5, 6, LOC), Entity(0, 5, LOC)])
    assert not has_overlap([])


@given(documents(), st.data())
def test_parts_add_up(document: Document, data: st.DataObject) -> None:
    found = data.draw(st.lists(st.sampled_from(document.entities), unique=True)) if document.entities else []
    other = data.draw(documents().filter(lambda other: len(other.text) <= len(document.text)))
    report = compare([document], [[*found, *other.entities]])
    for parts in ((report.flat, report.overlapping), (report.inner, report.outer), tuple(report.labels.values())):
        total = tuple(sum(column) for column in zip((0, 0, 0), *map(counts, parts), strict=True))
        assert total == counts(report.micro)


@given(flat_documents(), st.data())
def test_seqeval_agrees_on_flat_entities(document: Document, data: st.DataObject) -> None:
    kept = [entity for entity in document.entities if data.draw(st.booleans())]
    fresh = data.draw(flat_entities(document.text))
    found = kept + [entity for entity in fresh if not has_overlap([*kept, entity])]
    found = [entity for i, entity in enumerate(found) if not has_overlap([*found[:i], entity])]
    micro = compare([document], [found]).micro
    expected = {"precision": micro.precision, "recall": micro.recall, "f1": micro.f1}
    assert seqeval_score([document], [found]) == pytest.approx(expected)


def test_seqeval_sees_a_wrong_boundary() -> None:
    assert seqeval_score([FLAT], [[Entity(0, 1, PER)]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_neighbours_of_one_label_stay_two() -> None:
    document = Document("北京上海", (Entity(0, 2, LOC), Entity(2, 4, LOC)))
    assert seqeval_score([document], [document.entities])["f1"] == 1.0
    assert seqeval_score([document], [[Entity(0, 4, LOC)]])["f1"] == 0.0


def test_tags_cannot_say_overlap() -> None:
    with pytest.raises(ValueError, match="entities overlap"):
        seqeval_score([NESTED], [()])
