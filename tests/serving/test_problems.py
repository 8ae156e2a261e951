from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ner_service.errors import CallerError, InferenceError, InvalidPageError, NerServiceError, ServiceError
from ner_service.serving.images import InvalidImageError
from ner_service.serving.problems import item_problem
from tests.serving.conftest import Serve, Service

JSON = {"Content-Type": "application/json"}


def check_problem(reply: Any, status: int, code: str) -> dict[str, Any]:
    """The problem of a reply, after checking what every problem has."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = reply.json()
    assert set(problem) - {"errors"} == {"type", "title", "status", "detail", "instance", "request_id"}
    assert problem["type"] == f"urn:ner-service:{code}"
    assert problem["status"] == status
    assert problem["instance"] == reply.request.url.path
    assert problem["request_id"] == reply.headers["x-request-id"]
    return problem


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "not JSON"),
        (b'{"inputs": "a"', "line 1, column 15"),
        (b'{"inputs": "\xff"}', "not UTF-8 at byte 12"),
        ('{"inputs": "a"}'.encode("utf-16"), "not UTF-8"),
        (b'{"inputs": "a", "threshold": NaN}', "NaN is no JSON number"),
        (b'{"inputs": "a", "threshold": -Infinity}', "-Infinity is no JSON number"),
        (b'{"inputs": "a", "threshold": 0.1, "threshold": 0.9}', "'threshold' stands twice"),
        (b"{" + b"".join(b'"%d": 0, ' % key for key in range(300_000)) + b'"a": 0, "a": 1}', "'a' stands twice"),
        (
            b'{"inputs": "a", "\\ud800": 1}',
            r"the key '\ud800' has a lone surrogate U+D800 at character 0, expected Unicode",
        ),
        (b'{"inputs": "a", "label_thresholds": {"a\\udfff": 0.5}}', r"the key 'a\udfff' has a lone surrogate"),
        (b'{"inputs": ' + b"[" * 200_000, "nested too deeply"),
        (b'{"inputs": "a", "threshold": 1' + b"0" * 5000 + b"}", "too many digits"),
    ],
)
def test_what_is_not_json_is_400(service: Service, body: bytes, detail: str) -> None:
    problem = check_problem(service.client.post("/v1/extract", content=body, headers=JSON), 400, "invalid_json")
    assert detail in problem["detail"]


def test_a_byte_order_mark_is_skipped(service: Service) -> None:
    body = b'\xef\xbb\xbf{"inputs": "Ada"}'
    assert service.client.post("/v1/extract", content=body, headers=JSON).status_code == 200


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        ([], "", "valid dictionary"),
        ({}, "/inputs", "required"),
        ({"inputs": None}, "/inputs", "a text, an object with a text, a page or an image, or a list"),
        ({"inputs": [["a"]]}, "/inputs/0", "a text, or an object with a text, a page or an image"),
        ({"inputs": ["a", {"id": "b"}]}, "/inputs/1/text", "required"),
        ({"inputs": {"text": 1}}, "/inputs/text", "valid string"),
        ({"inputs": {"text": "a", "id": 1}}, "/inputs/id", "valid string"),
        ({"inputs": {"text": "a", "a/b~c": 1}}, "/inputs/a~1b~0c", "not permitted"),
        ({"inputs": "a", "treshold": 0.5}, "/treshold", "not permitted"),
        ({"inputs": {"text": "a", "id": "\udfff"}}, "/inputs/id", "without a lone surrogate"),
        ({"inputs": [{"text": "a", "id": "b\ud800"}]}, "/inputs/0/id", "without a lone surrogate"),
        ({"inputs": "a", "threshold": -0.1}, "/threshold", "greater than or equal to 0"),
        ({"inputs": "a", "threshold": 1.1}, "/threshold", "less than or equal to 1"),
        ({"inputs": "a", "threshold": True}, "/threshold", "valid number"),
        ({"inputs": "a", "threshold": "0.5"}, "/threshold", "valid number"),
        ({"inputs": "a", "threshold": 10**400}, "/threshold", "valid number"),
        ({"inputs": "a", "threshold": 10**40}, "/threshold", "less than or equal to 1"),
        ({"inputs": "a", "labels": ["PER"] * 1001}, "/labels", "found 1001, expected at most 1000"),
        ({"inputs": "a", "label_thresholds": {f"L{n}": 2 for n in range(1001)}}, "/label_thresholds", "found 1001"),
        ({"inputs": "a"} | dict.fromkeys(map(str, range(1000))), "", "found 1001"),
        ({"inputs": ["a", {"text": "b"} | dict.fromkeys(map(str, range(1000)))]}, "/inputs/1", "found 1001"),
        ({"inputs": {"text": "b"} | dict.fromkeys(map(str, range(1000)))}, "/inputs", "found 1001"),
        ({"inputs": "a", "labels": "NAME"}, "/labels", "valid list"),
        ({"inputs": "a", "labels": []}, "/labels", "at least 1 item"),
        ({"inputs": "a", "labels": ["WORK", "name"]}, "/labels/1", "the model knows: NAME, WORD, WORK"),
        ({"inputs": "a", "labels": ["\ud800"]}, "/labels/0", "the model knows: NAME, WORD, WORK"),
        ({"inputs": "a", "label_thresholds": {"NAME": 2}}, "/label_thresholds/NAME", "less than or equal to 1"),
        ({"inputs": "a", "label_thresholds": {"a/b": 0.5}}, "/label_thresholds/a~1b", "the model knows: NAME, WORD"),
        ({"inputs": "a", "overlap": "none"}, "/overlap", "'all', 'nested', 'flat' or 'longest'"),
        ({"inputs": "a", "offset_unit": "bytes"}, "/offset_unit", "'codepoint', 'utf16' or 'utf8'"),
        ({"inputs": "a", "long_text": "cut"}, "/long_text", "'window' or 'error'"),
    ],
)
def test_a_bad_field_is_422_and_says_where(service: Service, body: object, pointer: str, detail: str) -> None:
    problem = check_problem(service.post("/v1/extract", body), 422, "invalid_field")
    (fault,) = problem["errors"]
    assert fault["pointer"] == pointer
    assert detail in fault["detail"]


def test_every_fault_is_told(service: Service) -> None:
    problem = check_problem(service.post("/v1/extract", {"threshold": 2, "x": 1}), 422, "invalid_field")
    assert {fault["pointer"] for fault in problem["errors"]} == {"/inputs", "/threshold", "/x"}
    many = check_problem(service.post("/v1/extract", {"inputs": "a", "labels": [1] * 900}), 422, "invalid_field")
    assert len(many["errors"]) == 100
    assert "899 more" in many["detail"]


def test_too_many_inputs_are_413(serve: Serve) -> None:
    with serve(max_inputs=2) as service:
        assert service.post("/v1/extract", {"inputs": ["a"] * 2}).status_code == 200
        problem = check_problem(service.post("/v1/extract", {"inputs": ["a"] * 3}), 413, "too_large")
        assert problem["errors"] == [{"pointer": "/inputs", "detail": "found 3 inputs, expected at most 2"}]
        check_problem(service.post("/v1/extract", {"inputs": [1] * 100_000}), 413, "too_large")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "nonsense"},
        {"Content-Type": 'application/json; charset=utf-8; x="' + ";" * 256},
    ],
)
def test_another_content_type_is_415(service: Service, headers: dict[str, str]) -> None:
    reply = service.client.post("/v1/extract", content=b'{"inputs": "a"}', headers=headers)
    check_problem(reply, 415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json; charset=UTF-8", "application/vnd.some+json", "Application/JSON"])
def test_json_by_another_name_is_json(service: Service, kind: str) -> None:
    reply = service.client.post("/v1/extract", content=b'{"inputs": "a"}', headers={"Content-Type": kind})
    assert reply.status_code == 200


def test_what_is_not_there_is_404(service: Service) -> None:
    for method, path in (
        ("GET", "/nothing"),
        ("GET", "/page/nothing.js"),
        ("GET", "/page/../app.py"),
        ("POST", "/v1/extract/"),
    ):
        check_problem(service.client.request(method, path), 404, "not_found")
    problem = check_problem(service.client.get("/v1/models/huge"), 404, "not_found")
    assert "tiny" in problem["detail"]
    check_problem(service.post("/v1/models/huge/extract", {"inputs": "a"}), 404, "not_found")
    check_problem(service.client.get("/v1/models/tiny?version=8"), 404, "not_found")
    for path in ("/v1/models/tiny/extract", "/v1/extract"):
        problem = check_problem(service.post(f"{path}?version=8", {"inputs": "a"}), 404, "not_found")
        assert "7" in problem["detail"]


def test_another_method_is_405(service: Service) -> None:
    reply = service.client.get("/v1/extract")
    check_problem(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"


def test_an_unexpected_error_is_500_and_neither_reply_nor_log_quote_the_text(
    service: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(text: str) -> None:
        raise KeyError(text)

    monkeypatch.setattr(service.recognizer, "encode", fail)
    with caplog.at_level(logging.DEBUG):
        reply = service.post("/v1/extract", {"inputs": "a secret"})
    problem = check_problem(reply, 500, "internal_error")
    assert "secret" not in reply.text
    assert "secret" not in caplog.text
    assert f"id={problem['request_id']} unexpected KeyError in fail:" in caplog.text


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = ("inputs", "labels", "threshold", "label_thresholds", "overlap", "offset_unit", "long_text", "text", "id")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_VALUES | st.dictionaries(st.sampled_from(_FIELDS), _VALUES, max_size=4))
def test_whatever_json_is_sent_is_answered_200_or_422(service: Service, body: object) -> None:
    reply = service.post("/v1/extract", body)
    assert reply.status_code in (200, 422), reply.text
    json.loads(reply.content)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40))
def test_whatever_bytes_are_sent_are_never_our_fault(service: Service, body: bytes) -> None:
    assert service.client.post("/v1/extract", content=body, headers=JSON).status_code in (200, 400, 422)


def test_every_error_of_the_domain_has_a_problem() -> None:
    def leaves(kind: type[NerServiceError]) -> list[type[NerServiceError]]:
        below = [leaf for child in kind.__subclasses__() for leaf in leaves(child)]
        return below or [kind]

    made = {InvalidPageError: InvalidPageError("boxes", "x"), InvalidImageError: InvalidImageError("x")}
    for kind in [*leaves(CallerError), *leaves(ServiceError)]:
        error = made.get(kind) or kind.__new__(kind)
        problem = item_problem(error)
        assert problem["type"] == f"urn:ner-service:{kind.code}"
        assert 400 <= problem["status"] <= 599
    assert item_problem(InferenceError("x"))["status"] == 500
