"""The walk from pages to entities on a tiny random model, with one axis and with two."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given

from ner_service.bundle import Bundle
from ner_service.model.config import RoFormerConfig
from ner_service.recognizer import Recognizer
from ner_service.types import Document, Page, Recognition, RecognizeOptions, WindowLimits, codepoints_to_words
from tests.conftest import SENTENCES
from tests.strategies import page_documents
from training.cells import cells_of
from training.data.targets import examples_of
from training.evaluation import compare, predict

CPU = torch.device("cpu")
EVERYTHING = RecognizeOptions(threshold=0.0)
LONG = " ".join(SENTENCES * 3)
NUM_COLUMNS = 4


def with_axes(bundle: Bundle, num_axes: int, *, padded: bool = False) -> Recognizer:
    """The bundle's weights in an encoder with so many axes."""
    encoder = bundle.manifest.model.encoder
    assert isinstance(encoder, RoFormerConfig)
    model = replace(bundle.manifest.model, encoder=replace(encoder, num_axes=num_axes))  # type: ignore[arg-type]
    recognizer = Recognizer(replace(bundle, manifest=replace(bundle.manifest, model=model)), CPU)
    if padded:
        recognizer.model.pads = lambda device: True  # type: ignore[method-assign]
    return recognizer


@pytest.fixture(scope="module")
def one(tiny_bundle: Bundle) -> Recognizer:
    return with_axes(tiny_bundle, 1)


@pytest.fixture(scope="module")
def two(tiny_bundle: Bundle) -> Recognizer:
    return with_axes(tiny_bundle, 2)


def page_of(text: str, columns: tuple[int, ...] = (0, 1, 2, 3), right: float = 0.0, down: float = 0.0) -> Page:
    """The words of a text in rows of four, each in the column that `columns` names."""
    words = tuple(text.split())
    boxes = []
    for index, word in enumerate(words):
        row, place = divmod(index, NUM_COLUMNS)
        x, y = 200.0 * columns[place] + right, 20.0 * row + down
        boxes.append((x, y, x + 6 * len(word), y + 12))
    return Page(words, tuple(boxes), (2000, 2000))


PAGE = page_of(" ".join(SENTENCES))


def answer(recognizer: Recognizer, content: str | Page, options: RecognizeOptions | None = None) -> Recognition:
    (found,) = recognizer.recognize([content], options)
    assert isinstance(found, Recognition), found
    return found


def scored(found: Recognition) -> list[tuple[int, int, str, float | None]]:
    return [(entity.start, entity.end, entity.label, entity.score) for entity in found.entities]


@pytest.mark.parametrize("padded", [False, True])
def test_t8_texts_are_answered_to_the_bit_as_by_the_text_model(tiny_bundle: Bundle, padded: bool) -> None:
    """The text checkpoint with two axes: short texts together, and a long one in windows; packed and padded."""
    texts = [*SENTENCES, LONG, "", "a"]
    answers = [with_axes(tiny_bundle, axes, padded=padded).recognize(texts) for axes in (1, 2)]
    for first, second in zip(*answers, strict=True):
        assert isinstance(first, Recognition)
        assert isinstance(second, Recognition)
        assert scored(first) == scored(second)
        assert (first.num_windows, first.num_tokens) == (second.num_windows, second.num_tokens)
    long = answers[1][len(SENTENCES)]
    assert isinstance(long, Recognition)
    assert long.num_windows > 3
    assert long.entities


def test_t8_a_page_is_not_answered_as_its_text(one: Recognizer, two: Recognizer) -> None:
    """The twin: the second axis is read."""
    assert scored(answer(two, PAGE, EVERYTHING)) != scored(answer(one, PAGE, EVERYTHING))


def test_t11_a_page_that_is_shifted_has_the_same_answer(two: Recognizer) -> None:
    """Places count from the first word, so the encoder sees no shift; that it would not mind one, its own tests say."""
    here, there = answer(two, PAGE), answer(two, page_of(" ".join(SENTENCES), right=31.0, down=7.0))
    assert here.entities
    assert there.entities == here.entities
    assert [e.score for e in there.entities] == pytest.approx([e.score for e in here.entities], abs=1e-5)


def test_t11_columns_swapped_have_another_answer(one: Recognizer, two: Recognizer) -> None:
    """The same words in the same order at other places; with one axis nothing tells them apart."""
    swapped = page_of(" ".join(SENTENCES), columns=(2, 3, 0, 1))
    scores = [[e.score or 0.0 for e in answer(two, page, EVERYTHING).entities] for page in (PAGE, swapped)]
    assert max(abs(a - b) for a, b in zip(*scores, strict=True)) > 1e-2
    assert len(scored(answer(one, PAGE, EVERYTHING))) > 100
    assert scored(answer(one, swapped, EVERYTHING)) == scored(answer(one, PAGE, EVERYTHING))


def test_with_one_axis_a_page_is_read_in_the_order_of_its_words(tiny_bundle: Bundle) -> None:
    """Its answer is that of its text, less what begins or ends inside a word."""
    limits = {"window": WindowLimits(max_tokens=512), "max_candidates": 100_000}
    roomy = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, **limits))  # type: ignore[arg-type]
    reader = with_axes(roomy, 1)
    starts, ends = ({word[side] for word in PAGE.ranges} for side in (0, 1))
    of_text = answer(reader, PAGE.text, EVERYTHING)
    whole = {entity: entity.score for entity in of_text.entities if entity.start in starts and entity.end in ends}
    of_page = answer(reader, PAGE, EVERYTHING)
    assert len(of_text.entities) > len(whole) > 100
    assert {entity: entity.score for entity in of_page.entities} == pytest.approx(whole, abs=1e-5)


@given(page_documents())
def test_entities_of_a_page_are_of_whole_words(two: Recognizer, document: Document) -> None:
    assert document.page is not None
    (found,) = two.recognize([document.content], EVERYTHING)
    if not isinstance(found, Recognition):
        return  # a word of more tokens than a window of 32 has room for
    ranges = document.page.ranges
    starts, ends = ({word[side] for word in ranges} for side in (0, 1))
    for entity in found.entities:
        assert entity.start in starts
        assert entity.end in ends
        first, end = codepoints_to_words(document.page, entity.start, entity.end)
        assert (ranges[first][0], ranges[end - 1][1]) == (entity.start, entity.end)


def test_a_page_beside_texts_and_pages_is_answered_as_alone(two: Recognizer) -> None:
    contents: list[str | Page] = [SENTENCES[0], PAGE, LONG, page_of(LONG), Page((), (), (1, 1))]
    for content, found in zip(contents, two.recognize(contents), strict=True):
        assert isinstance(found, Recognition)
        alone = answer(two, content)
        assert found.entities == alone.entities
        assert [e.score for e in found.entities] == pytest.approx([e.score for e in alone.entities], abs=1e-5)
    assert answer(two, page_of(LONG)).num_windows > 3


def test_vectors_of_pages_depend_on_their_places(tiny_embedding_bundle: Bundle) -> None:
    swapped = page_of(SENTENCES[0], columns=(3, 2, 1, 0))
    for num_axes, alike in ((1, True), (2, False)):
        reader = with_axes(tiny_embedding_bundle, num_axes)
        first, second = (
            reader.embed([window.encoding for window in reader.encode(page)])
            for page in (page_of(SENTENCES[0]), swapped)
        )
        assert bool((abs(first - second) < 1e-6).all()) is alike


def test_what_is_learnt_is_what_is_served(two: Recognizer) -> None:
    """The cells of training, of evaluation and of calibration are those of the recognizer's own windows."""
    found = answer(two, PAGE)
    document = Document(PAGE.text, found.entities, page=PAGE)
    examples, lost = examples_of(document, two.tokenizer, two.limits, two.labels)
    assert lost == []
    assert [example.encoding for example in examples] == [window.encoding for window in two.encode(PAGE)]
    assert predict(two, [document]) == [found.entities]
    assert compare([document], predict(two, [document])).micro.f1 == 1.0
    cells = cells_of(two, [document], 0.5)
    assert cells.gold_N.sum() == len(found.entities)
    assert cells.probability_N[cells.gold_N].tolist() == pytest.approx([e.score for e in found.entities], abs=1e-5)


def test_a_scattered_mention_counts_as_one_that_was_not_found(two: Recognizer) -> None:
    found = answer(two, PAGE)
    first, *others = found.entities
    document = Document(PAGE.text, tuple(others), page=PAGE, scattered=(first,))
    report = compare([document], [found.entities])
    num = len(found.entities)
    assert (report.micro.num_predicted, report.micro.num_gold, report.micro.num_right) == (num, num, num - 1)
    assert report.labels[first.label].num_gold == sum(entity.label == first.label for entity in found.entities)
    cells = cells_of(two, [document], 0.5)
    assert sorted(cells.probability_N[cells.gold_N].tolist())[0] == 0.0
    _, lost = examples_of(document, two.tokenizer, two.limits, two.labels)
    assert [(own.entity, own.reason) for own in lost] == [(first, "its words do not follow each other")]
