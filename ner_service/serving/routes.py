"""Paths -> the walk of a request, the model cards, health and metrics. The only room that reads a request's head.

Errors are raised, not written: `RequestLog` makes problems of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from email.message import Message
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect

from ner_service.records import unstructure
from ner_service.serving.embedding import Embedder
from ner_service.serving.extraction import Extractor
from ner_service.serving.json_text import json_bytes, parse_json
from ner_service.serving.metrics import CONTENT_TYPE, Metrics
from ner_service.serving.middleware import record_of
from ner_service.serving.problems import Problem, UnsupportedMediaError
from ner_service.serving.reading import Answer
from ner_service.serving.registry import Registry, ServedModel
from ner_service.serving.schemas import (
    EmbedReply,
    EmbedRequest,
    ExtractReply,
    ExtractRequest,
    HealthReply,
    ModelCard,
    ModelList,
    ModelSummary,
    SimilarReply,
    SimilarRequest,
    parse_embed,
    parse_extract,
    parse_similar,
)
from ner_service.serving.settings import Settings

T = TypeVar("T")

Version = Annotated[str | None, Query(description="Refuse any other version.")]

# A body of this size is parsed in some ten milliseconds; the loop has nothing longer to do.
_LONG_BODY_BYTES = 256 * 1024
# No real one is longer, and the library that reads it takes time that grows with the square of its length.
_MAX_CONTENT_TYPE = 256

_LIVE_PATHS = ("/health/live", "/healthz", "/v2/health/live")
_READY_PATHS = ("/health/ready", "/readyz", "/v2/health/ready")
_FAULTS = {
    400: "Not JSON in UTF-8.",
    401: "The service asks for a key, and it is missing or wrong.",
    404: "No such model or version.",
    408: "The body came too slowly.",
    409: "The model has no head for this; `detail` names those it has.",
    413: "The body, the list of inputs or the number of images among them is too large.",
    415: "The body is not `application/json`, or is compressed.",
    422: "A field is unknown, missing, of the wrong kind or out of range; `errors` says where.",
    429: "The queue is full; `Retry-After` says when it should have room.",
    500: "An error on our side; the log has a line with the request's id.",
    503: "Not ready, or shutting down.",
    504: "The request waited to its deadline.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the routes reach."""

    settings: Settings
    registry: Registry
    extractor: Extractor
    embedder: Embedder
    metrics: Metrics
    reads_images: bool
    parses_long: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """Whoever parses a long body: its value takes some 25 times the memory, so two are not made at once."""


def build_router(services: Services) -> APIRouter:
    """Every route of the API."""
    router = APIRouter()
    for task in _tasks(services):
        _add_task(router, services, task)
    _add_models(router, services)
    _add_health(router, services)
    return router


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """What texts are sent for: the head that it takes, how it is described, and who does it.

    `work` is given the model, the JSON value of the body, and when its last byte came.
    """

    name: str
    head: str
    request: type
    reply: type
    description: str
    work: Callable[[ServedModel, object, float], Coroutine[Any, Any, Answer]]


def _tasks(services: Services) -> tuple[_Task, ...]:
    max_inputs = services.settings.max_inputs

    async def extract(model: ServedModel, value: object, received_at: float) -> Answer:
        request = parse_extract(value, model.recognizer.labels.names, max_inputs)
        return await services.extractor.extract(model, request, received_at)

    async def embed(model: ServedModel, value: object, received_at: float) -> Answer:
        return await services.embedder.embed(model, parse_embed(value, max_inputs), received_at)

    async def similar(model: ServedModel, value: object, received_at: float) -> Answer:
        return await services.embedder.rank(model, parse_similar(value, max_inputs), received_at)

    return (
        _Task(
            name="extract",
            head="spans",
            request=ExtractRequest,
            reply=ExtractReply,
            description="Find entities in one or many texts, pages or images",
            work=extract,
        ),
        _Task(
            name="embed",
            head="embedding",
            request=EmbedRequest,
            reply=EmbedReply,
            description="Turn one or many texts into unit vectors",
            work=embed,
        ),
        _Task(
            name="similar",
            head="embedding",
            request=SimilarRequest,
            reply=SimilarReply,
            description="Rank candidates by their likeness to a text",
            work=similar,
        ),
    )


def _add_task(router: APIRouter, services: Services, task: _Task) -> None:
    # The body is read and checked by `_answer`; this says in OpenAPI what it is.
    schema = {"$ref": f"#/components/schemas/{task.request.__name__}"}
    documented: dict[str, Any] = {
        "methods": ["POST"],
        "tags": [task.name],
        "responses": _responses(task.reply, *_FAULTS),
        "openapi_extra": {"requestBody": {"content": {"application/json": {"schema": schema}}, "required": True}},
    }

    async def with_default_model(request: Request, version: Version = None) -> Response:
        return await with_model(request, services.registry.default.manifest.name, version)

    async def with_model(request: Request, name: str, version: Version = None) -> Response:
        return await _answer(request, task, services, services.registry.get(name, version))

    for path, handler, name, which in (
        (f"/v1/{task.name}", with_default_model, task.name, "the default model"),
        (f"/v1/models/{{name}}/{task.name}", with_model, f"{task.name}_with_model", "a named model"),
    ):
        router.add_api_route(path, handler, name=name, description=f"{task.description} with {which}.", **documented)


def _add_models(router: APIRouter, services: Services) -> None:
    @router.get("/v1/models", tags=["models"], responses=_responses(ModelList, 401, 500))
    async def list_models() -> Response:
        """List the models that are served."""
        models: ModelList = {"models": [_summary(model, services) for model in services.registry.models]}
        return _json(models)

    @router.get("/v1/models/{name}", tags=["models"], responses=_responses(ModelCard, 401, 404, 500))
    async def show_model(name: str, version: Version = None) -> Response:
        """Show a model's labels, limits, thresholds, calibration and measured scores."""
        return _json(_card(services.registry.get(name, version), services))


def _add_health(router: APIRouter, services: Services) -> None:
    async def live() -> Response:
        """Whether the process lives; if not, start another."""
        if any(model.state == "dead" for model in services.registry.models):
            services.registry.default.require_ready()
        return _json(HealthReply(status="live"))

    async def ready() -> Response:
        """Whether requests should be sent here."""
        for model in services.registry.models:
            model.require_ready()
        return _json(HealthReply(status="ready"))

    for handler, paths in ((live, _LIVE_PATHS), (ready, _READY_PATHS)):
        for path in paths:
            shown = path == paths[0]
            documented = _responses(HealthReply, 503)
            router.add_api_route(path, handler, tags=["health"], responses=documented, include_in_schema=shown)

    documented = {**_responses(str, 401), 200: {"content": {"text/plain": {}}}}

    @router.get("/metrics", tags=["health"], responses=documented)
    async def metrics() -> Response:
        """Show the metrics, for Prometheus."""
        return Response(services.metrics.exposition(), media_type=CONTENT_TYPE)


async def _answer(request: Request, task: _Task, services: Services, model: ServedModel) -> Response:
    model.recognizer.require_head(task.head)
    model.require_ready()
    _require_json(request)
    model.batcher.check_room(1)  # before the body takes any
    body = await request.body()
    received_at = time.perf_counter()
    value = await _parsed(body, services.parses_long)
    answer = await _while_connected(request, task.work(model, value, received_at))
    record = record_of(request.scope)
    record.num_tokens = answer.num_tokens
    record.timing_s.update(queue=answer.queue_s, infer=answer.inference_s)
    return Response(answer.body, media_type="application/json")


async def _parsed(body: bytes, parses_long: asyncio.Semaphore) -> object:
    """The value of a body; long ones are parsed one by one in a thread, so that others are heard meanwhile."""
    if len(body) <= _LONG_BODY_BYTES:
        return parse_json(body)
    async with parses_long:
        return await asyncio.to_thread(parse_json, body)


def _require_json(request: Request) -> None:
    found = request.headers.get("content-type", "")
    if len(found) > _MAX_CONTENT_TYPE:
        raise UnsupportedMediaError(f"found a content type of {len(found)} characters, expected application/json")
    message = Message()
    message["content-type"] = found
    subtype = message.get_content_subtype()
    charset = message.get_content_charset("utf-8")
    if message.get_content_maintype() != "application" or not (subtype == "json" or subtype.endswith("+json")):
        raise UnsupportedMediaError(f"found content type {found!r}, expected application/json")
    if charset != "utf-8":
        raise UnsupportedMediaError(f"found charset {charset!r}, expected utf-8")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise UnsupportedMediaError(f"found content encoding {encoding!r}, expected none")


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work unless the client goes, for nothing else tells a handler so.

    Raises:
        ClientDisconnect: the client went, and the work was cancelled.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnection(request))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _summary(model: ServedModel, services: Services) -> ModelSummary:
    return {
        "name": model.manifest.name,
        "version": model.manifest.version,
        "default": model is services.registry.default,
    }


def _card(model: ServedModel, services: Services) -> ModelCard:
    manifest, settings = model.manifest, services.settings
    calibration = manifest.calibration
    return {
        **_summary(model, services),
        "description": manifest.description,
        "licence": manifest.licence,
        "inputs": ["text", "page", "image"] if services.reads_images else ["text", "page"],
        "heads": unstructure(manifest.model.heads),
        "labels": list(manifest.labels),
        "thresholds": dict(manifest.thresholds),
        "calibration": None
        if calibration is None
        else {
            label: {"slope": slope, "intercept": intercept}
            for label, slope, intercept in zip(manifest.labels, calibration.slopes, calibration.intercepts, strict=True)
        },
        "window": {
            "max_tokens": manifest.window.max_tokens,
            "overlap_tokens": manifest.window.overlap_tokens,
            "longest_entity_tokens": manifest.window.overlap_tokens,
        },
        "limits": {
            "max_inputs": settings.max_inputs,
            "max_characters": settings.max_characters,
            "max_words": settings.max_words,
            "max_body_bytes": settings.max_body_bytes,
            "max_candidates": manifest.max_candidates,
            "queue_tokens": settings.queue_tokens,
            "deadline_s": settings.deadline_s,
            "body_timeout_s": settings.body_timeout_s,
            "grace_s": settings.grace_s,
            "max_image_pixels": settings.max_image_pixels,
            "queue_images": settings.queue_images,
        },
        "metrics": dict(manifest.metrics),
        "data_sha256": manifest.data_sha256,
        "digest": model.digest,
    }


def _json(value: object) -> Response:
    return Response(json_bytes(value), media_type="application/json")


def _responses(reply: Any, *faults: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer, for OpenAPI."""
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": _FAULTS[status]} for status in faults
    }
    return {200: {"model": reply, "description": reply.__doc__}, **problems}
