"""All of it put together: an ASGI app around models that somebody else loaded. Knows no process and no signal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from fastapi import FastAPI, Request
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ner_service import __version__
from ner_service.serving.embedding import Embedder
from ner_service.serving.extraction import Extractor
from ner_service.serving.images import ImageReader
from ner_service.serving.metrics import Metrics
from ner_service.serving.middleware import ApiKey, Arrivals, BodyLimit, RequestLog
from ner_service.serving.pages import build_pages
from ner_service.serving.problems import MEDIA_TYPE, MethodNotAllowedError, NotFoundError
from ner_service.serving.reading import Reader
from ner_service.serving.registry import Registry
from ner_service.serving.routes import Services, build_router
from ner_service.serving.schemas import EmbedRequest, ExtractRequest, SimilarRequest
from ner_service.serving.settings import Settings

_DESCRIPTION = "Named entities, nested and scored. Offsets are half-open and refer to the text as it was sent."

_VALIDATION = "HTTPValidationError"


def build_app(
    settings: Settings,
    registry: Registry,
    metrics: Metrics,
    images: ImageReader | None = None,
    arrivals: Arrivals | None = None,
) -> FastAPI:
    """The service as an app. Models warm up when it starts; it answers 503 until they are ready.

    Without `images` an item that is one is an error. Whoever gives `arrivals` can end the wait for bodies.
    """
    reader = Reader(settings, images)
    services = Services(
        settings=settings,
        registry=registry,
        extractor=Extractor(reader, metrics),
        embedder=Embedder(reader, metrics),
        metrics=metrics,
        reads_images=images is not None,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if images is not None:
            images.start()
        warming = asyncio.create_task(asyncio.to_thread(registry.warm_up))
        yield
        registry.drain()
        registry.abort()
        if images is not None:
            images.abort()
        await warming
        reader.close()

    app = FastAPI(
        title="ner-service",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.include_router(build_router(services))
    app.include_router(build_pages())
    app.add_api_route("/openapi.json", lambda: JSONResponse(app.openapi()), include_in_schema=False)
    # The last one added is the first one passed.
    app.add_middleware(
        BodyLimit,
        arrivals=arrivals or Arrivals(),
        max_bytes=settings.max_body_bytes,
        timeout_s=settings.body_timeout_s,
    )
    app.add_middleware(ApiKey, key=settings.api_key, guards=_is_guarded)
    app.add_middleware(RequestLog, metrics=metrics)
    app.add_exception_handler(HTTPException, _raise_error)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _is_guarded(path: str) -> bool:
    """Answers and figures need the key. Health is for machines that have none; the pages have nothing to hide."""
    return path.startswith("/v1/") or path == "/metrics"


async def _raise_error(request: Request, error: Exception) -> NoReturn:
    """The framework's own refusals, in the words of ours."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        raise MethodNotAllowedError((error.headers or {}).get("Allow", ""))
    raise NotFoundError("no such path")


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The framework's document, with the requests' schemas in it and problems under their own media type."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        _, definitions = models_json_schema(
            [(request, "validation") for request in (ExtractRequest, EmbedRequest, SimilarRequest)],
            ref_template="#/components/schemas/{model}",
        )
        components = document["components"]
        components["schemas"].update(definitions["$defs"])
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        for name in (_VALIDATION, "ValidationError"):
            components["schemas"].pop(name, None)
        for name, path in document["paths"].items():
            for operation in path.values():
                if _is_guarded(name):
                    operation["security"] = [{}, {"bearer": []}, {"key": []}]  # none where no key is set
                # The framework's own fault of a parameter, which no text can be.
                if _VALIDATION in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
                for status, response in operation["responses"].items():
                    if status.isdecimal() and int(status) >= 400 and "application/json" in response["content"]:
                        response["content"] = {MEDIA_TYPE: response["content"]["application/json"]}
        app.openapi_schema = document
    return app.openapi_schema
