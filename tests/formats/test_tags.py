from __future__ import annotations

import pytest

from ner_service.formats.tags import BILOU, BIO, BIOES, BMES, IOB1, TagError, TagScheme, is_tag

SCHEMES: dict[str, TagScheme] = {"BIO": BIO, "IOB1": IOB1, "BIOES": BIOES, "BMES": BMES, "BILOU": BILOU}


@pytest.mark.parametrize(
    ("scheme", "tags", "spans"),
    [
        ("BIO", "O B-x I-x B-x O B-y", [(1, 2, "x"), (3, 3, "x"), (5, 5, "y")]),
        ("BIO", "B-x B-y I-y", [(0, 0, "x"), (1, 2, "y")]),
        ("BIO", "B-x-y I-x-y", [(0, 1, "x-y")]),
        ("IOB1", "I-x I-x B-x I-y O I-y", [(0, 1, "x"), (2, 2, "x"), (3, 3, "y"), (5, 5, "y")]),
        ("BIOES", "B-x I-x E-x S-y O S-y", [(0, 2, "x"), (3, 3, "y"), (5, 5, "y")]),
        ("BMES", "B-x M-x E-x B-y E-y", [(0, 2, "x"), (3, 4, "y")]),
        ("BILOU", "U-x B-x I-x L-x", [(0, 0, "x"), (1, 3, "x")]),
        ("BIOES", "O O", []),
    ],
)
def test_tags_to_spans(scheme: str, tags: str, spans: list[tuple[int, int, str]]) -> None:
    assert list(SCHEMES[scheme].spans(tags.split())) == spans


@pytest.mark.parametrize(
    ("scheme", "tags", "index", "message"),
    [
        ("BIO", "I-x", 0, "found I-x after the start of the sentence, expected B-x first"),
        ("BIO", "O I-x", 1, "found I-x after O, expected B-x first"),
        ("BIO", "B-x I-y", 1, "found I-y after B-x, expected B-y first"),
        ("BIO", "O E-x", 1, "found the tag 'E-x', expected O or B-LABEL or I-LABEL"),
        ("BIO", "B-", 0, "found the tag 'B-'"),
        ("BIO", "_", 0, "found the tag '_'"),
        ("BIOES", "I-x E-x", 0, "found I-x after the start of the sentence"),
        ("BIOES", "B-x O", 1, "found O after B-x, expected I-x or E-x"),
        ("BIOES", "B-x B-x", 1, "found B-x after B-x, expected I-x or E-x"),
        ("BIOES", "B-x E-y", 1, "found E-y after B-x, expected I-x or E-x"),
        ("BIOES", "S-x E-x", 1, "found E-x after S-x"),
        ("BMES", "B-x I-x", 1, "found the tag 'I-x'"),
        ("BILOU", "O B-x", 1, "found the end of the sentence after B-x, expected L-x before it"),
    ],
)
def test_tags_out_of_place_are_refused(scheme: str, tags: str, index: int, message: str) -> None:
    with pytest.raises(TagError, match=message) as caught:
        list(SCHEMES[scheme].spans(tags.split()))
    assert caught.value.index == index


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("num_tokens", [1, 2, 5])
def test_tags_of_a_span_give_the_span(scheme: TagScheme, num_tokens: int) -> None:
    tags = ["O", *scheme.tags(num_tokens, "x"), *scheme.tags(1, "x")]
    assert list(scheme.spans(tags)) == [(1, num_tokens, "x"), (num_tokens + 1, num_tokens + 1, "x")]


@pytest.mark.parametrize(
    ("text", "expected"), [("O", True), ("B-x", True), ("U-x", True), ("B-", False), ("NN", False), ("-", False)]
)
def test_what_looks_like_a_tag(text: str, expected: bool) -> None:
    assert is_tag(text) is expected
