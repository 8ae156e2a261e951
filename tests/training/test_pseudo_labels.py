"""Pseudo-labels: what a model is sure of is an entity, a label that it is in doubt about is left open."""

from __future__ import annotations

from collections import defaultdict

import pytest

from ner_service.recognizer import Recognizer
from ner_service.types import Document, RecognizeOptions
from tests.conftest import SENTENCES
from training import pseudo_labels
from training.pseudo_labels import pseudo_label

SHORT = sorted({sentence[:length] for sentence in SENTENCES for length in range(2, 12)})
"""Pieces short enough that the random model is sometimes sure of all it finds, or of one label alone."""


def scores(recognizer: Recognizer, text: str) -> dict[str, dict[tuple[int, int], float]]:
    """The probability of every span that has more than one in a thousand, by label."""
    [answer] = recognizer.recognize([text], RecognizeOptions(threshold=0.001))
    assert not isinstance(answer, Exception)
    found: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)
    for entity in answer.entities:
        found[entity.label][entity.start, entity.end] = entity.score or 0.0
    return found


@pytest.mark.parametrize("sure", [0.6, 0.75])
def test_labels_in_doubt_are_left_open_and_sure_spans_kept(tiny_recognizer: Recognizer, sure: float) -> None:
    made = list(pseudo_label(tiny_recognizer, SHORT, sure))
    left_open = 0
    for text, document in zip(SHORT, made, strict=True):
        of_labels = scores(tiny_recognizer, text)
        doubted = {name for name, own in of_labels.items() if any(1 - sure < p <= sure for p in own.values())}
        expected = {
            (start, end, name)
            for name, own in of_labels.items()
            if name not in doubted
            for (start, end), p in own.items()
            if p > sure
        }
        if document is None:
            assert not expected
            continue
        assert document.text == text
        assert {(entity.start, entity.end, entity.label) for entity in document.entities} == expected
        assert document.annotated == set(tiny_recognizer.labels) - doubted
        left_open += bool(doubted)
    assert None in made
    assert 0 < left_open < sum(document is not None for document in made)


def test_of_one_label_the_outermost_are_kept(tiny_recognizer: Recognizer) -> None:
    """Those of different labels may lie in each other; nothing else of a document changes."""
    whole = list(pseudo_label(tiny_recognizer, SHORT, 0.6))
    left_out = of_another_label = 0
    for all_of_it, outer in zip(whole, pseudo_label(tiny_recognizer, SHORT, 0.6, outermost=True), strict=True):
        if all_of_it is None or outer is None:
            assert all_of_it is outer
            continue
        assert (outer.text, outer.annotated) == (all_of_it.text, all_of_it.annotated)
        for entity in all_of_it.entities:
            inside = {
                other.label
                for other in all_of_it.entities
                if other is not entity and other.start <= entity.start and entity.end <= other.end
            }
            assert (entity in outer.entities) == (entity.label not in inside)
            left_out += entity.label in inside
            of_another_label += bool(inside - {entity.label}) and entity.label not in inside
    assert left_out > 3
    assert of_another_label


def test_sentences_are_read_in_blocks(tiny_recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they are cut, and only as far as they are needed."""
    whole = list(pseudo_label(tiny_recognizer, SHORT, 0.75))
    monkeypatch.setattr(pseudo_labels, "BLOCK", 4)
    read: list[str] = []
    made = pseudo_label(tiny_recognizer, (read.append(text) or text for text in SHORT), 0.75)
    first = next(made)
    assert len(read) == 4
    assert [first, *made] == whole


def test_what_the_model_refuses_has_no_document(tiny_recognizer: Recognizer) -> None:
    [refused, kept] = pseudo_label(tiny_recognizer, ["\ud800", _labelled(tiny_recognizer).text], 0.75)
    assert refused is None
    assert kept == _labelled(tiny_recognizer)


def _labelled(recognizer: Recognizer) -> Document:
    return next(document for document in pseudo_label(recognizer, SHORT, 0.75) if document is not None)
