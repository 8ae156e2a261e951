from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from ner_service.serving.schemas import (
    EmbedRequest,
    ExtractReply,
    ExtractRequest,
    ModelCard,
    ModelList,
    SimilarRequest,
)
from tests.golden import OPENAPI, openapi
from tests.serving.conftest import Service


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(_references(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(_references(item) for item in value))
    return set()


def test_the_document_is_the_golden_one() -> None:
    assert openapi() == OPENAPI.read_text(encoding="utf-8"), "if this is meant: make golden"


def test_every_reference_leads_somewhere() -> None:
    document = json.loads(openapi())
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    found = _references(document)
    assert "#/components/schemas/ExtractRequest" in found
    assert found <= known


def test_faults_are_problems_and_answers_are_not() -> None:
    responses = json.loads(openapi())["paths"]["/v1/extract"]["post"]["responses"]
    assert list(responses["200"]["content"]) == ["application/json"]
    assert all(list(responses[status]["content"]) == ["application/problem+json"] for status in ("400", "429", "503"))


def test_who_needs_the_key_is_told() -> None:
    document = json.loads(openapi())
    for path, operations in document["paths"].items():
        for operation in operations.values():
            asks = path.startswith("/v1/") or path == "/metrics"
            assert ("401" in operation["responses"]) == asks == ("security" in operation)
            assert set().union(*operation.get("security", [])) <= document["components"]["securitySchemes"].keys()
    assert "HTTPValidationError" not in openapi()


def test_replies_are_what_the_document_says(service: Service) -> None:
    body = {"inputs": ["Ada Lovelace", {"id": "x", "text": "☠"}]}
    for kind, path in ((ModelList, "/v1/models"), (ModelCard, "/v1/models/tiny")):
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        adapter.validate_json(service.client.get(path).content, strict=True)
    reply = service.post("/v1/extract", body)
    TypeAdapter(ExtractReply).validate_json(reply.content, strict=True)


@pytest.mark.parametrize("request_kind", [ExtractRequest, EmbedRequest, SimilarRequest])
def test_the_request_of_the_document_is_the_one_that_is_checked(request_kind: type[BaseModel]) -> None:
    document = json.loads(openapi())
    properties = document["components"]["schemas"][request_kind.__name__]["properties"]
    assert set(properties) == set(request_kind.model_fields)


@pytest.mark.parametrize("side", [0, 5e-324, 1e9, 1e9 + 1])
def test_a_side_of_a_page_is_what_the_document_says(service: Service, side: float) -> None:
    schema = json.loads(openapi())["components"]["schemas"]["PageItem"]["properties"]["page"]["items"]
    page = {"words": [], "boxes": [], "page": [side, 1]}
    (result,) = service.post("/v1/extract", {"inputs": page}).json()["results"]
    assert (result["status"] == "ok") == (schema["exclusiveMinimum"] < side <= schema["maximum"])
