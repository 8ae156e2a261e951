"""Cells of documents, and their calibration error: against hand-made numbers and a reference that goes cell by cell."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement, starmap
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ner_service.bundle import Bundle
from ner_service.errors import NerServiceError, TooManyCandidatesError
from ner_service.recognizer import Recognizer
from ner_service.text.layout import windows_of
from ner_service.types import Document, Entity, LabelSet, Recognition, RecognizeOptions, WindowLimits
from training.cells import Cells, calibration_error, cells_of, is_unknown, join, read_cells
from training.data.targets import examples_of
from training.data.tokenizer_training import train_tokenizer
from training.objectives.spans import unknown_cells

CPU = torch.device("cpu")
LABELS = ("PER", "ORG", "LOC")
TEXTS = ("Ada Lovelace wrote to London.", "北京大学在上海。")


class Answers:
    """A recognizer with an answer for each text, that notes how many characters it is asked for at a time."""

    def __init__(self, answers: dict[str, Recognition | NerServiceError]) -> None:
        self.labels = LabelSet(LABELS)
        self.answers = answers
        self.asked: list[int] = []

    def recognize(self, texts: list[str], options: RecognizeOptions) -> list[Recognition | NerServiceError]:
        self.asked.append(sum(map(len, texts)))
        return [self.answers[text] for text in texts]


def rows(cells: Cells) -> list[tuple[Any, ...]]:
    columns = (cells.document_N, cells.label_N, cells.probability_N, cells.gold_N)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_cells_of_documents() -> None:
    """Found and gold, found and wrong, overlooked; a label that is not annotated or not known is no cell."""
    found = (Entity(0, 3, "PER", 0.9), Entity(4, 6, "ORG", 0.2), Entity(4, 6, "LOC", 0.7))
    gold = (Entity(0, 3, "PER"), Entity(7, 9, "PER"), Entity(0, 3, "LOC"), Entity(0, 1, "dog"))
    answers: Any = Answers({"first": Recognition(found, 1, 9), "second": TooManyCandidatesError("many")})
    documents = [
        Document("first", gold, annotated=frozenset({"PER", "ORG", "dog"})),
        Document("second", (Entity(0, 2, "ORG"),)),
    ]
    assert rows(cells_of(answers, documents, 0.1)) == [
        (0, 0, 0.9, True),
        (0, 1, 0.2, False),
        (0, 0, 0.0, True),
        (1, 1, 0.0, True),
    ]
    assert rows(cells_of(answers, [], 0.1)) == []


def test_few_entities_are_alive_at_a_time() -> None:
    """Documents go in groups of about `CHARACTERS_AT_ONCE`, and at most one beyond, and keep number and order."""
    texts = [letter * length for letter, length in zip("abcdefg", (900, 900, 900, 10, 9000, 10, 10), strict=True)]
    documents = [Document(text, (Entity(0, number + 1, "PER"),)) for number, text in enumerate(texts)]
    answers: Any = Answers({text: Recognition((Entity(0, 5, "PER", 0.5),), 1, 9) for text in texts})
    found = rows(cells_of(answers, documents, 0.1))
    assert answers.asked == [1800, 910, 9020]
    assert found == [row for number in range(7) for row in expected_rows(number)]
    assert rows(join(read_cells(answers, documents, 0.1))) == found


def expected_rows(number: int) -> list[tuple[Any, ...]]:
    """The answer "0 to 5" is right in the fifth document alone."""
    right = number == 4
    return [(number, 0, 0.5, right)] + ([] if right else [(number, 0, 0.0, True)])


def test_no_text_has_too_many_cells(tiny_bundle: Bundle) -> None:
    """`max_candidates` refuses no text here, and the recognizer keeps it: the service's own refusal is the twin."""
    strict = Recognizer(replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, max_candidates=3)), CPU)
    documents = [Document(text) for text in TEXTS]
    found = rows(cells_of(strict, documents, 0.2))
    assert found == rows(cells_of(Recognizer(tiny_bundle, CPU), documents, 0.2))
    assert len(found) > 3
    answers = strict.recognize(TEXTS, RecognizeOptions(threshold=0.2))
    assert any(isinstance(answer, TooManyCandidatesError) for answer in answers)


def test_no_text_has_cells_that_are_too_long_together(
    tiny_recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of the limit on the characters of all entities."""
    options = RecognizeOptions(threshold=0.2)
    documents = [Document(text) for text in TEXTS]
    expected = rows(cells_of(tiny_recognizer, documents, 0.2))
    monkeypatch.setattr("ner_service.recognizer.MIN_MENTIONS", 1)
    monkeypatch.setattr(tiny_recognizer, "max_coverage", 0.1)
    assert rows(cells_of(tiny_recognizer, documents, 0.2)) == expected
    assert all(isinstance(answer, TooManyCandidatesError) for answer in tiny_recognizer.recognize(TEXTS, options))


def test_cells_are_served_answers(tiny_recognizer: Recognizer) -> None:
    options = RecognizeOptions(threshold=0.2)
    answers = [answer for answer in tiny_recognizer.recognize(TEXTS, options) if isinstance(answer, Recognition)]
    served = [
        (number, LABELS.index(entity.label), entity.score, False)
        for number, answer in enumerate(answers)
        for entity in answer.entities
    ]
    assert rows(cells_of(tiny_recognizer, [Document(text) for text in TEXTS], 0.2)) == served
    assert len(served) > 3


TEXT = "李雷 met Ann of Annapolis in 北京大学."
TOKENIZER = train_tokenizer([TEXT, "Ann, Annapolis"], vocab_size=300, min_frequency=1)
spans = st.tuples(st.integers(0, len(TEXT)), st.integers(0, len(TEXT)), st.sampled_from([*LABELS, "EVENT"]))


@given(st.lists(spans.filter(lambda span: span[0] < span[1]), max_size=4), st.booleans(), st.integers(10, 40))
def test_what_flat_documents_leave_unknown_is_what_training_leaves_out(
    mentions: list[tuple[int, int, str]], flat: bool, max_tokens: int
) -> None:
    """The rule over a document is `unknown_cells` over its windows, whatever these or the tokens' boundaries cut."""
    document = Document(TEXT, tuple(sorted(starmap(Entity, mentions), key=lambda entity: entity.key)), flat=flat)
    limits = WindowLimits(max_tokens=max_tokens, overlap_tokens=3)
    examples, _ = examples_of(document, TOKENIZER, limits, LabelSet(LABELS))
    for window, example in zip(windows_of(TEXT, TOKENIZER, limits), examples, strict=True):
        unknown_CLL = unknown_cells([example], len(LABELS), len(example))[0]
        tokens = [(i, start, end) for i, (start, end) in enumerate(window.encoding.offsets) if start < end]
        for (i, start, _), (j, _, end) in combinations_with_replacement(tokens, 2):
            for label, name in enumerate(LABELS):
                span = Entity(window.start + start, window.start + end, name)
                assert is_unknown(span, document) == bool(unknown_CLL[label, i, j])


def test_unknown_cells_are_none() -> None:
    """The twin of the rule above: where it does not hold, the same answer is a cell."""
    answers: Any = Answers({"Visby Bay": Recognition((Entity(0, 5, "PER", 0.9),), 1, 9)})
    mention = (Entity(0, 9, "LOC"),)
    assert rows(cells_of(answers, [Document("Visby Bay", mention, flat=True)], 0.1)) == [(0, 2, 0.0, True)]
    assert rows(cells_of(answers, [Document("Visby Bay", mention)], 0.1)) == [(0, 0, 0.9, False), (0, 2, 0.0, True)]


def error(probabilities: list[float], gold: list[bool]) -> tuple[float | None, float | None]:
    found = calibration_error(np.array(probabilities), np.array(gold, dtype=bool))
    return found.ece, found.ece_found


def test_calibration_error_by_hand() -> None:
    """Fewer cells than bins: a bin each, so the mean of |p - gold|; 0.01 counts only where it is gold."""
    probabilities, gold = [0.9, 0.2, 0.01, 0.01, 0.6], [True, False, False, True, False]
    assert error(probabilities, gold) == pytest.approx(((0.1 + 0.2 + 0.99 + 0.6) / 4, (0.1 + 0.2 + 0.6) / 3))
    # 30 cells are 15 pairs: each pair of (0.5, gold and not) is right on average.
    assert error([0.5] * 30, [True, False] * 15) == pytest.approx((0.0, 0.0))
    assert error([0.7] * 30, [True, False] * 15) == pytest.approx((0.2, 0.2))
    assert error([0.04], [False]) == (None, None)
    assert error([0.0], [True]) == (1.0, None)


def reference(probability_N: list[float], gold_N: list[bool]) -> float:
    """Cell by cell: bins of sizes that differ by one at most, the larger first."""
    cells = zip(probability_N, gold_N, strict=True)
    counted = sorted(((p, gold) for p, gold in cells if p >= 0.05 or gold), key=lambda cell: cell[0])
    size, larger = divmod(len(counted), 15)
    total, start = 0.0, 0
    for number in range(15):
        part = counted[start : start + size + (number < larger)]
        start += len(part)
        if part:
            confidence = sum(p for p, _ in part) / len(part)
            accuracy = sum(gold for _, gold in part) / len(part)
            total += len(part) / len(counted) * abs(confidence - accuracy)
    return total


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=80))
def test_calibration_error_is_that_of_the_reference(cells: list[tuple[float, bool]]) -> None:
    probabilities, gold = [p for p, _ in cells], [gold for _, gold in cells]
    ece, _ = error(probabilities, gold)
    if ece is None:
        assert not any(gold)
        assert max(probabilities) < 0.05
    else:
        assert ece == pytest.approx(reference(probabilities, gold), abs=1e-12)


def test_right_probabilities_have_no_error_and_exaggerated_ones_have() -> None:
    """With 20,000 cells in 15 bins the noise of a bin's share is sqrt(p (1 - p) / 1333) < 0.014."""
    generator = np.random.default_rng(0)
    probability_N = generator.uniform(0.05, 1.0, 20_000)
    gold_N = generator.uniform(size=20_000) < probability_N
    assert error(probability_N.tolist(), gold_N.tolist())[0] < 0.014  # type: ignore[operator]
    logit_N = torch.logit(torch.from_numpy(probability_N))
    assert error(torch.sigmoid(3 * logit_N).tolist(), gold_N.tolist())[0] > 0.1  # type: ignore[operator]


def test_what_is_overlooked_counts_in_one_error_alone() -> None:
    """Right probabilities far below 0.05 hide some entities: `ece` names them, `ece_found` does not."""
    generator = np.random.default_rng(0)
    probability_N = np.concatenate([generator.uniform(0.05, 1.0, 5_000), np.full(100_000, 0.01)])
    gold_N = generator.uniform(size=len(probability_N)) < probability_N
    ece, ece_found = error(probability_N.tolist(), gold_N.tolist())
    assert ece is not None
    assert ece_found is not None
    assert ece > 0.1
    assert ece_found < 0.02
