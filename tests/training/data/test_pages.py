"""Documents of pages in the order in which they are read."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given

from ner_service.text.reading_order import reading_order
from ner_service.types import Document, Entity, Page, codepoints_to_words
from tests.strategies import page_documents
from training.config import DataConfig, SourceConfig
from training.data.pages import in_reading_order
from training.data.sources import digest, read_corpus, read_source

# As an annotator writes a form down: each question with its answer, though the rows stand beside each other.
PAGE = Page(
    ("Name", "Date", "Ada", "Lovelace", "May", "5"),
    ((0, 0, 40, 10), (0, 30, 40, 40), (50, 0, 80, 10), (50, 12, 90, 22), (50, 30, 80, 40), (82, 30, 90, 40)),
    (100, 50),
)


def document(*spans: tuple[int, int, str]) -> Document:
    ranges = PAGE.ranges
    entities = (Entity(ranges[first][0], ranges[end - 1][1], label) for first, end, label in spans)
    return Document(PAGE.text, tuple(entities), page=PAGE)


def test_words_are_sorted_and_entities_go_along() -> None:
    found = in_reading_order(document((1, 2, "question"), (2, 4, "answer"), (4, 6, "answer")))
    assert found.text == "Name Ada Lovelace Date May 5"
    assert {found.text[e.start : e.end] for e in found.entities} == {"Date", "Ada Lovelace", "May 5"}
    assert found.scattered == ()


def test_a_mention_that_is_torn_apart_is_scattered() -> None:
    found = in_reading_order(document((0, 2, "question"), (2, 4, "answer")))
    assert [found.text[e.start : e.end] for e in found.entities] == ["Ada Lovelace"]
    assert [(found.text[e.start : e.end], e.label) for e in found.scattered] == [("Name Ada Lovelace Date", "question")]


def test_a_text_stays_as_it_is() -> None:
    text = Document("Ann saw Visby", (Entity(0, 3, "PER"),))
    assert in_reading_order(text) is text


@given(page_documents())
def test_no_mention_and_no_word_is_lost(given_document: Document) -> None:
    found = in_reading_order(given_document)
    assert given_document.page is not None
    assert found.page == given_document.page.reordered(reading_order(given_document.page.boxes))
    assert len(found.entities) + len(found.scattered) == len(given_document.entities)

    def words(document: Document) -> list[tuple[str, list[str]]]:
        assert document.page is not None
        spans = ((e.label, codepoints_to_words(document.page, e.start, e.end)) for e in document.entities)
        return sorted((label, sorted(document.page.words[first:end])) for label, (first, end) in spans)

    mentions = words(given_document)
    assert all(mention in mentions for mention in words(found))
    assert in_reading_order(found).text == found.text, "what is in order stays so"


def test_a_source_sorts_pages_unless_it_is_told_not_to(tmp_path: Path) -> None:
    record = {
        "words": PAGE.words,
        "boxes": PAGE.boxes,
        "page": PAGE.size,
        "entities": [{"start": 0, "end": 2, "label": "q"}, {"start": 2, "end": 4, "label": "a"}],
    }
    (tmp_path / "pages.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    [sorted_one] = read_source(SourceConfig(path="pages.jsonl", labels={"q": "question", "a": "answer"}), tmp_path)
    [as_given] = read_source(SourceConfig(path="pages.jsonl", order="given"), tmp_path)
    assert sorted_one.text == "Name Ada Lovelace Date May 5"
    assert [entity.label for entity in (*sorted_one.entities, *sorted_one.scattered)] == ["answer", "question"]
    assert as_given.text == PAGE.text
    assert len(as_given.entities) == 2
    assert not as_given.scattered


def test_a_label_of_torn_mentions_alone_is_a_label_of_the_run(tmp_path: Path) -> None:
    entities = [{"start": 0, "end": 2, "label": "question"}, {"start": 2, "end": 4, "label": "answer"}]
    record = {"words": PAGE.words, "boxes": PAGE.boxes, "page": PAGE.size, "entities": entities}
    (tmp_path / "pages.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    source = SourceConfig(path="pages.jsonl")
    corpus = read_corpus(DataConfig(train=(source,), dev=(source,)), tmp_path)
    assert list(corpus.labels) == ["answer", "question"]
    assert [entity.label for entity in corpus.train[0].scattered] == ["question"]


def test_a_digest_tells_boxes_apart_and_texts_from_pages() -> None:
    plain = Document(PAGE.text)
    moved = Document(PAGE.text, page=Page(PAGE.words, ((0, 0, 41, 10), *PAGE.boxes[1:]), PAGE.size))
    assert len({digest([one], []) for one in (plain, document(), moved)}) == 3
