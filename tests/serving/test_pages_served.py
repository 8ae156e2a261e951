"""Pages among texts: what is answered, in whose order, and whose fault is whose."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ner_service.serving.schemas import ExtractReply
from tests.serving.conftest import Serve, Service
from tests.serving.fakes import BOTH, FakeRecognizer
from tests.serving.test_problems import check_problem

JSON = {"Content-Type": "application/json"}

# Two columns of two lines. By rows it reads "Invoice Ada from Lovelace", by columns "Invoice from Ada Lovelace".
WORDS = ["Invoice", "Ada", "from", "Lovelace"]
BOXES = [[10, 10, 80, 20], [300, 10, 330, 20], [10, 22, 50, 32], [300, 22, 380, 32]]
PAGE: dict[str, Any] = {"words": WORDS, "boxes": BOXES, "page": [600, 800]}


def extract(service: Service, inputs: Any, **fields: Any) -> Any:
    reply = service.post("/v1/extract", {"inputs": inputs, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def spans(result: dict[str, Any]) -> list[tuple[str, list[int], int, int]]:
    return [(entity["label"], entity["words"], entity["start"], entity["end"]) for entity in result["entities"]]


def test_a_page_is_answered_in_words_among_texts(service: Service) -> None:
    reply = extract(service, ["Ada", {"id": "scan", **PAGE}, {"id": "b", "text": "😀 Bob"}], offset_unit="utf8")
    before, page, after = reply["results"]
    assert [before["entities"][0]["end"], after["entities"][0]["start"], reply["offset_unit"]] == [3, 5, "utf8"]
    assert {key: value for key, value in page.items() if key != "entities"} == {
        "id": "scan",
        "status": "ok",
        "offset_unit": "word",
        "length": 4,
        "windows": 1,
    }
    # Read by columns: "Invoice from Ada Lovelace"; the words 1 and 3 of the client are one name.
    assert spans(page) == [("NAME", [0], 0, 1), ("NAME", [1, 3], 1, 4), ("WORD", [1], 1, 2), ("WORD", [3], 3, 4)]
    assert [entity["parent"] for entity in page["entities"]] == [None, None, 1, 1]
    assert [entity["depth"] for entity in page["entities"]] == [0, 0, 1, 1]
    name = page["entities"][1]
    assert (name["text"], name["boxes"], name["score"]) == ("Ada Lovelace", [BOXES[1], BOXES[3]], 0.982014)
    # 3 + 25 of the page's words with spaces between + 5; two special tokens each.
    assert reply["usage"] == {"characters": 33, "tokens": 39, "windows": 3}
    TypeAdapter(ExtractReply).validate_json(json.dumps(reply), strict=True)


def test_given_order_is_kept_where_the_item_says_so(service: Service) -> None:
    (read,) = extract(service, {**PAGE, "order": "given"})["results"]
    # As they come: "Invoice Ada from Lovelace", in which no two capitals are one name of Ada's.
    assert [entity["text"] for entity in read["entities"]] == ["Invoice Ada", "Invoice", "Ada", "Lovelace"]
    # The must-fail twin: the default reads another text.
    (sorted_read,) = extract(service, PAGE)["results"]
    assert [entity["text"] for entity in sorted_read["entities"]] != [entity["text"] for entity in read["entities"]]


def test_shuffled_words_are_one_page_and_answers_name_the_client_s_own(service: Service) -> None:
    order = [2, 3, 0, 1]
    shuffled = {**PAGE, "words": [WORDS[i] for i in order], "boxes": [BOXES[i] for i in order]}
    plain, other = extract(service, [PAGE, shuffled])["results"]
    back = [(label, [order[index] for index in words]) for label, words, _, _ in spans(other)]
    assert sorted(back) == sorted((label, words) for label, words, _, _ in spans(plain))
    # Read: Ada (3 here), Lovelace (1 here): the range runs from the least to one past the greatest.
    assert ("NAME", [3, 1], 1, 4) in spans(other)
    assert [entity["start"] for entity in other["entities"]] == sorted(entity["start"] for entity in other["entities"])
    for entity in other["entities"]:
        if entity["parent"] is not None:
            assert set(entity["words"]) < set(other["entities"][entity["parent"]]["words"])


def test_a_page_without_words_and_one_longer_than_the_window(service: Service) -> None:
    words = ["word"] * 40 + ["Ada", "Lovelace"] + ["word"] * 40
    boxes = [[10, 10 + 12 * index, 50, 20 + 12 * index] for index in range(len(words))]
    long = {"words": words, "boxes": boxes, "page": [100, 2000]}
    empty, windowed = extract(service, [{"words": [], "boxes": [], "page": [1, 1]}, long])["results"]
    assert (empty["status"], empty["length"], empty["entities"]) == ("ok", 0, [])
    assert windowed["windows"] > 1
    assert ("NAME", [40, 41], 40, 42) in spans(windowed)
    (refused,) = extract(service, long, long_text="error")["results"]
    assert refused["error"]["type"] == "urn:ner-service:text_too_long"


NAN = float("nan")
BOX, SIZE = "/boxes/1", "/page"
FAULTS: list[tuple[str, Any, str, str, str]] = [
    ("/boxes/1/0", -1, "/boxes/1/0", "found x0 = -1", "expected 0 or more"),
    ("/boxes/1/2", 601, "/boxes/1/2", "found x1 = 601", "the page's width"),
    ("/boxes/3/3", 800.5, "/boxes/3/3", "found y1 = 800.5", "the page's height"),
    ("/boxes/1/2", 299, "/boxes/1/2", "x0 = 300 and x1 = 299", "expected x0 <= x1"),
    ("/boxes/1/3", 9, "/boxes/1/3", "y0 = 10 and y1 = 9", "expected y0 <= y1"),
    ("/boxes/2/1", NAN, "/boxes/2/1", "found y0 = NaN", "expected a number"),
    ("/boxes/2/1", float("inf"), "/boxes/2/1", "found y0 = Infinity", "expected a number"),
    ("/boxes/2/1", -float("inf"), "/boxes/2/1", "found y0 = -Infinity", "expected a number"),
    ("/boxes/2/1", "NaN", "/boxes/2/1", "found y0 = a string", "expected a number"),
    ("/boxes/2/1", "22", "/boxes/2/1", "found y0 = a string", "expected a number"),
    ("/boxes/2/1", True, "/boxes/2/1", "found y0 = a boolean", "expected a number"),
    ("/boxes/2/1", None, "/boxes/2/1", "found y0 = null", "expected a number"),
    ("/boxes/2/1", [1], "/boxes/2/1", "found y0 = a list", "expected a number"),
    ("/boxes/2/1", 10**400, "/boxes/2/1", "found an endless y0", "expected a finite number"),
    ("/boxes/2", [1, 2, 3], "/boxes/2", "found 3 items", "expected 4 numbers: x0, y0, x1, y1"),
    ("/boxes/2", [1, 2, 3, 4, 5], "/boxes/2", "found 5 items", "expected 4 numbers"),
    ("/boxes/2", {"x0": 1}, "/boxes/2", "found an object", "expected 4 numbers"),
    ("/boxes", BOXES[:3], "/boxes", "found 3 boxes", "expected 4, one for each word"),
    ("/boxes", [*BOXES, BOXES[0]], "/boxes", "found 5 boxes", "expected 4"),
    ("/boxes", "none", "/boxes", "found a string", "expected a list of boxes"),
    ("/words/3", "", "/words/3", "found an empty word", "at least one character"),
    ("/words/3", " ", "/words/3", "found white space", "expected none"),
    ("/words/3", "\ud800", "/words/3", "found a lone surrogate U+D800", "Unicode text"),
    ("/words/3", 7, "/words/3", "found a number", "expected a string"),
    ("/words", None, "/words", "found null", "expected a list of words"),
    ("/page", [600], "/page", "found 1 items", "expected 2 numbers: width, height"),
    ("/page", [600, 0], "/page/1", "found 0", "above 0"),
    ("/page", [-600, 800], "/page/0", "found -600", "above 0"),
    ("/page", [NAN, 800], "/page/0", "found width = NaN", "expected a number"),
    ("/page", "A4", "/page", "found a string", "expected 2 numbers"),
]


@pytest.mark.parametrize(("place", "value", "pointer", "found", "expected"), FAULTS)
def test_a_fault_of_a_page_is_its_own_and_says_where(
    service: Service, place: str, value: object, pointer: str, found: str, expected: str
) -> None:
    bad = copy.deepcopy(PAGE)
    *path, last = [int(part) if part.isdecimal() else part for part in place.split("/")[1:]]
    parent: Any = bad
    for part in path:
        parent = parent[part]
    parent[last] = value
    before, refused, after = extract(service, [PAGE, {"id": "bad", **bad}, "Ada"])["results"]
    assert [before["status"], after["status"]] == ["ok", "ok"]
    assert spans(before) == spans(extract(service, PAGE)["results"][0])
    assert (refused["id"], refused["status"]) == ("bad", "error")
    problem = refused["error"]
    assert (problem["type"], problem["status"]) == ("urn:ner-service:invalid_page", 422)
    (fault,) = problem["errors"]
    assert fault["pointer"] == f"/inputs/1{pointer}"
    assert found in fault["detail"]
    assert expected in fault["detail"]
    assert problem["detail"] == f"{fault['pointer']}: {fault['detail']}"
    # A page that is the only input stands at /inputs itself.
    (alone,) = extract(service, bad)["results"]
    assert alone["error"]["errors"][0]["pointer"] == f"/inputs{pointer}"


def test_a_number_too_large_for_json_readers_is_a_fault_too(service: Service) -> None:
    body = json.dumps({"inputs": [PAGE, "Ada"]}).replace("300, 10", "1e999, 10").encode()
    refused, kept = service.client.post("/v1/extract", content=body, headers=JSON).json()["results"]
    assert refused["error"]["errors"][0]["pointer"] == "/inputs/0/boxes/1/0"
    assert kept["status"] == "ok"


@pytest.mark.parametrize(
    ("change", "pointer", "detail"),
    [
        ({"order": "columns"}, "/inputs/0/order", "'reading' or 'given'"),
        ({"text": "Ada"}, "/inputs/0/text", "not permitted"),
        ({"id": 7}, "/inputs/0/id", "valid string"),
        ({"boxes": ...}, "/inputs/0/boxes", "required"),
        ({"words": ...}, "/inputs/0/words", "required"),
        ({"page": ...}, "/inputs/0/page", "required"),
    ],
)
def test_what_is_wrong_around_a_page_is_the_request_s(
    service: Service, change: dict[str, Any], pointer: str, detail: str
) -> None:
    item = {key: value for key, value in {**PAGE, **change}.items() if value is not ...}
    problem = check_problem(service.post("/v1/extract", {"inputs": [item]}), 422, "invalid_field")
    assert [fault["pointer"] for fault in problem["errors"]] == [pointer]
    assert detail in problem["errors"][0]["detail"]


def test_nan_outside_a_page_is_still_no_json(service: Service) -> None:
    body = json.dumps({"inputs": [PAGE, NAN]}).encode()
    problem = check_problem(service.client.post("/v1/extract", content=body, headers=JSON), 400, "invalid_json")
    assert "NaN is no JSON number" in problem["detail"]


def test_pages_over_a_limit_are_their_own_error(serve: Serve) -> None:
    with serve(max_words=4, max_characters=25) as service:
        more = {"words": [*WORDS, "x"], "boxes": [*BOXES, BOXES[0]], "page": [600, 800]}
        longer = {**PAGE, "words": ["Invoices", *WORDS[1:]]}
        fits, words, characters = extract(service, [PAGE, more, longer])["results"]
    assert fits["status"] == "ok"
    assert words["error"]["detail"] == "found 5 words, expected at most 4"
    assert characters["error"]["detail"] == "found 26 characters, expected at most 25"
    assert [words["error"]["status"], characters["error"]["status"]] == [413, 413]


@pytest.mark.parametrize("item", [PAGE, {"image": "aGk="}])
def test_vectors_are_of_texts_alone(serve: Serve, item: dict[str, Any]) -> None:
    with serve(FakeRecognizer(BOTH)) as service:
        for path, body, pointer in (
            ("/v1/embed", {"inputs": ["a", item]}, "/inputs/1"),
            ("/v1/similar", {"input": item, "candidates": ["a"]}, "/input"),
            ("/v1/similar", {"input": "a", "candidates": ["a", item]}, "/candidates/1"),
        ):
            problem = check_problem(service.post(path, body), 422, "invalid_field")
            (fault,) = problem["errors"]
            assert fault["pointer"] == pointer
            assert "a text or an object with a text" in fault["detail"]


def test_pages_are_counted(service: Service) -> None:
    extract(service, [PAGE, "Ada", {**PAGE, "page": [1, 1]}])
    metrics = service.client.get("/metrics").text
    assert "ner_page_words_count 1.0" in metrics
    assert "ner_page_words_sum 4.0" in metrics
    assert "ner_text_windows_count 2.0" in metrics
    assert 'ner_rejected_total{reason="invalid_page"} 1.0' in metrics


_JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({"words": _JSON_VALUES, "boxes": _JSON_VALUES, "page": _JSON_VALUES}))
def test_whatever_stands_in_a_page_its_neighbours_are_answered(service: Service, item: dict[str, Any]) -> None:
    # NaN and Infinity are written as Python writes them, which JSON does not have.
    _, found, after = extract(service, ["Ada", item, PAGE])["results"]
    assert found["status"] == "ok" or found["error"]["errors"][0]["pointer"].startswith("/inputs/1/")
    assert len(after["entities"]) == 4
