"""Joined documents say what their parts said."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from ner_service.types import Document, Entity, Page
from tests.strategies import documents
from training.data.augmentation import join, join_documents


def mentions(document: Document) -> list[tuple[str, str]]:
    return [(entity.label, document.text[entity.start : entity.end]) for entity in document.entities]


@given(st.lists(documents(), min_size=1, max_size=3))
def test_a_joined_document_keeps_every_mention(parts: list[Document]) -> None:
    joined = join(parts)
    assert joined.text == "\n".join(part.text for part in parts)
    assert mentions(joined) == [mention for part in parts for mention in mentions(part)]


def test_offsets_count_from_the_joined_text() -> None:
    one = Document("Ann left.", (Entity(0, 3, "person"),), id="one")
    two = Document("In 北京.", (Entity(3, 5, "place"),), id="two")
    joined = join([one, two])
    assert joined == Document("Ann left.\nIn 北京.", (Entity(0, 3, "person"), Entity(13, 15, "place")))
    assert joined.text[13:15] == "北京"


@given(st.lists(documents(), max_size=6), st.floats(0, 1), st.integers(0, 9))
def test_every_document_is_in_one_result(given_documents: list[Document], share: float, seed: int) -> None:
    results = list(join_documents(given_documents, share, random.Random(seed)))
    found = sorted(mention for result in results for mention in mentions(result))
    assert found == sorted(mention for document in given_documents for mention in mentions(document))
    total = sum(len(document.text) for document in given_documents)
    num_seams = len(given_documents) - len(results)
    assert sum(len(result.text) for result in results) == total + num_seams


def numbered(count: int) -> list[Document]:
    return [Document(f"{number}.") for number in range(count)]


def test_share_none_leaves_documents_alone() -> None:
    assert list(join_documents(numbered(30), 0.0, random.Random(0))) == numbered(30)


def test_share_all_joins_two_to_eight() -> None:
    sizes = [result.text.count(".") for result in join_documents(numbered(300), 1.0, random.Random(0))]
    assert sum(sizes) == 300
    assert all(2 <= size <= 8 for size in sizes[:-1])
    assert len(set(sizes)) > 3


def test_only_documents_annotated_alike_are_joined() -> None:
    kinds = (
        Document("0.", annotated=frozenset({"person"})),
        Document("1."),
        Document("2.", flat=True),
    )
    for result in join_documents(kinds * 30, 1.0, random.Random(0)):
        [text] = set(result.text.split("\n"))
        kind = kinds[int(text[0])]
        assert (result.annotated, result.flat) == (kind.annotated, kind.flat)


def test_pages_are_not_joined() -> None:
    page = Page(("Ann", "left"), ((0, 0, 1, 1), (2, 0, 3, 1)), (4, 4))
    pages = [Document(page.text, page=page)] * 4
    texts = [Document("Bo slept.")] * 4
    results = list(join_documents([*pages, *texts], 1.0, random.Random(0)))
    assert [document for document in results if document.page] == pages
    assert any("\n" in document.text for document in results), "the twin: texts are"
