"""Entities to cells and back, and the entities for which there is no cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given

from ner_service.decoding import Calibration, Candidates, decode
from ner_service.errors import NerServiceError
from ner_service.text.tokenizer import TextTokenizer
from ner_service.text.windows import merge, split
from ner_service.types import Document, Entity, LabelSet, Recognition, RecognizeOptions, WindowLimits
from tests.strategies import LABELS, documents
from training.data.targets import Example, encode_documents, examples_of
from training.data.tokenizer_training import train_tokenizer
from training.evaluation import compare, predict

NAMES = LabelSet(LABELS)
LIMITS = WindowLimits(max_tokens=64, overlap_tokens=16)
NARROW = WindowLimits(max_tokens=14, overlap_tokens=4)
TEXTS = (
    "北京大学在北京。",
    "Ann visited Annapolis and Visby.",
    "Ann, Ann and Ann visited Visby, Visby.",
    "李雷去了上海。",
)


@cache
def tokenizer() -> TextTokenizer:
    return train_tokenizer(TEXTS, vocab_size=300, min_frequency=1)


def decoded(document: Document, examples: Sequence[Example], limits: WindowLimits) -> list[Entity]:
    """What the recognizer makes of a model that finds the gold cells and nothing else."""
    windows = split(document.text, tokenizer(), limits)
    answers = []
    for window, example in zip(windows, examples, strict=True):
        label_N, start_N, end_N = np.array(example.cells, dtype=np.int64).reshape(-1, 3).T
        found = Candidates(label_N, start_N, end_N, np.ones(len(example.cells)))
        answers.append((window, decode(found, example.encoding, NAMES, Calibration.uncalibrated(len(NAMES)))))
    return merge(answers)


class PerfectRecognizer:
    """Finds every gold cell: the best that a model could do."""

    def __init__(self, documents: Sequence[Document], limits: WindowLimits) -> None:
        self.documents = {document.text: document for document in documents}
        self.limits = limits

    def recognize(
        self, texts: Sequence[str], options: RecognizeOptions | None = None
    ) -> list[Recognition | NerServiceError]:
        answers: list[Recognition | NerServiceError] = []
        for text in texts:
            document = self.documents[text]
            examples, _ = examples_of(document, tokenizer(), self.limits, NAMES)
            answers.append(Recognition(tuple(decoded(document, examples, self.limits)), len(examples), 0))
        return answers


@given(documents())
def test_there_and_back_is_the_identity(document: Document) -> None:
    examples, lost = examples_of(document, tokenizer(), LIMITS, NAMES)
    back = decoded(document, examples, LIMITS)
    assert sorted([*back, *(item.entity for item in lost)], key=lambda entity: entity.key) == list(document.entities)
    for item in lost:
        assert item.document is document


def test_most_entities_come_back() -> None:
    """Or the property above would hold with everything lost."""
    text = "Ann visited 北京大学."
    gold = (Entity(0, 3, "person"), Entity(12, 14, "place"), Entity(12, 16, "group"))
    document = Document(text, tuple(sorted(gold, key=lambda entity: entity.key)))
    examples, lost = examples_of(document, tokenizer(), LIMITS, NAMES)
    assert lost == []
    assert decoded(document, examples, LIMITS) == list(document.entities)


def test_cells_are_label_first_and_last_token() -> None:
    [example], _ = examples_of(Document("李雷去了上海", (Entity(4, 6, "place"),)), tokenizer(), LIMITS, NAMES)
    # [CLS] is token 0, so character i is token i + 1; the last token is inclusive.
    assert example.cells == ((NAMES.index("place"), 5, 6),)
    assert example.annotated == (True, True, True)


def test_a_span_with_two_labels_is_two_cells() -> None:
    both = (Entity(0, 2, "group"), Entity(0, 2, "place"))
    [example], lost = examples_of(Document("上海", both), tokenizer(), LIMITS, NAMES)
    assert example.cells == ((NAMES.index("place"), 1, 2), (NAMES.index("group"), 1, 2))
    assert lost == []


def test_a_label_of_others_is_left_out() -> None:
    names = LabelSet(("place",))
    document = Document("李雷去了上海", (Entity(0, 2, "person"), Entity(4, 6, "place")))
    [example], lost = examples_of(document, tokenizer(), LIMITS, names)
    assert example.cells == ((0, 5, 6),)
    assert lost == []


def test_annotated_labels_are_a_mask_in_the_order_of_labels() -> None:
    document = Document("李雷", annotated=frozenset({"group", "person"}))
    [example], _ = examples_of(document, tokenizer(), LIMITS, NAMES)
    assert example.annotated == (True, False, True)


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (1, 3, "no token starts where it starts"),  # nn
        (0, 2, "no token ends where it ends"),  # An
        (3, 11, "no token starts where it starts"),  # the space before "visited"
        (0, 4, "no token ends where it ends"),  # the space after "Ann"
    ],
)
def test_a_span_that_no_token_boundary_fits_is_listed(start: int, end: int, reason: str) -> None:
    entity = Entity(start, end, "person")
    document = Document("Ann visited Visby", (entity,), id="letter")
    examples, [lost] = examples_of(document, tokenizer(), LIMITS, NAMES)
    assert (lost.entity, lost.reason, lost.document.id) == (entity, reason, "letter")
    assert examples[0].cells == ()


def test_a_span_longer_than_every_window_is_listed() -> None:
    text = "一二三四五六七八九十" * 3
    document = Document(text, (Entity(0, 30, "group"), Entity(2, 5, "place")))
    examples, [lost] = examples_of(document, tokenizer(), NARROW, NAMES)
    assert len(examples) > 1
    assert (lost.entity.label, lost.reason) == ("group", "no window holds it whole")


def test_an_entity_stands_in_every_window_that_holds_it() -> None:
    text = "一二三四五六七八九十" * 3
    spans = tuple(Entity(start, start + 4, "place") for start in range(len(text) - 3))
    document = Document(text, spans)
    examples, lost = examples_of(document, tokenizer(), NARROW, NAMES)
    windows = split(text, tokenizer(), NARROW)
    assert lost == []
    for window, example in zip(windows, examples, strict=True):
        inside = [e for e in spans if window.start <= e.start and e.end <= window.end]
        assert [(first - 1 + window.start) for _, first, _ in example.cells] == [e.start for e in inside]
    assert decoded(document, examples, NARROW) == list(spans)


def test_what_is_lost_stays_in_the_denominator_of_recall() -> None:
    fitting = Document("Ann visited Visby", (Entity(0, 3, "person"), Entity(12, 17, "place")))
    unfit = Document("Ann, Ann visited", (Entity(0, 3, "person"), Entity(6, 8, "person")))
    _, lost = encode_documents([fitting, unfit], tokenizer(), LIMITS, NAMES)
    assert [item.entity for item in lost] == [Entity(6, 8, "person")]
    recognizer = PerfectRecognizer([fitting, unfit], LIMITS)
    micro = compare([fitting, unfit], predict(recognizer, [fitting, unfit])).micro  # type: ignore[arg-type]
    assert (micro.num_gold, micro.num_predicted, micro.num_right) == (4, 3, 3)
    assert (micro.precision, micro.recall) == (1.0, 0.75)


def test_windows_of_flat_documents_tell_what_their_mentions_cover() -> None:
    """Also of a mention that no window holds whole, and of one of a label that the run has not."""
    document = Document("李雷去了上海", (Entity(0, 2, "person"), Entity(4, 6, "town")), flat=True)
    [example], _ = examples_of(document, tokenizer(), LIMITS, NAMES)
    assert example.covered == ((NAMES.index("person"), 1, 2, True), (-1, 5, 6, True))
    [nested], _ = examples_of(replace(document, flat=False), tokenizer(), LIMITS, NAMES)
    assert nested.covered == ()
    long = Document("北京大学在北京。" * 3, (Entity(2, 22, "group"),), flat=True)
    examples, lost = examples_of(long, tokenizer(), NARROW, NAMES)
    assert [item.reason for item in lost] == ["no window holds it whole"]
    assert [example.cells for example in examples] == [()] * len(examples)
    assert sum(last - first + 1 for example in examples for _, first, last, _ in example.covered) >= 20
    assert not any(whole for example in examples for *_, whole in example.covered)
