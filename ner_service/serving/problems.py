"""Errors -> application/problem+json (RFC 9457). The only place where a status code meets an error.

    ServingError                     a fault of a request as a whole; every subclass has its status and title
    ├── UnauthorizedError      401   no key, or a wrong one
    ├── NotFoundError          404   no such model, version or path
    ├── MethodNotAllowedError  405   a known path, another method
    ├── BodyTimeoutError       408   the body came too slowly
    ├── TooLargeError          413   over a limit that the model card shows
    ├── UnsupportedMediaError  415   not JSON by its own word
    ├── InvalidFieldError      422   JSON that is not a request
    └── NotReadyError          503   warming up, draining or dead

Errors of other rooms get their status from `_STATUS`. A problem never quotes a text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import ClassVar, NotRequired

from starlette.responses import Response
from typing_extensions import TypedDict

from ner_service.errors import (
    InferenceError,
    InvalidPageError,
    InvalidTextError,
    MissingHeadError,
    NerServiceError,
    TextTooLongError,
    TooManyCandidatesError,
)
from ner_service.serving.batcher import ClosedError, DeadlineError, ModelDiedError, QueueFullError
from ner_service.serving.images import ImagesOffError, InvalidImageError, TooManyImagesError
from ner_service.serving.json_text import InvalidJsonError, json_bytes

MEDIA_TYPE = "application/problem+json"


class FieldFault(TypedDict):
    """One fault of a body: where, as a JSON pointer (RFC 6901), and what was expected."""

    pointer: str
    detail: str


class ItemProblem(TypedDict):
    """Why one item has no answer. `type` is `urn:ner-service:` and a code that does not change."""

    type: str
    title: str
    status: int
    detail: str
    errors: NotRequired[list[FieldFault]]


class Problem(ItemProblem):
    """Why a request has no answer (RFC 9457)."""

    instance: str
    request_id: str


class ServingError(NerServiceError):
    """A request that is refused as a whole."""

    code = "internal_error"
    status: ClassVar[int] = HTTPStatus.INTERNAL_SERVER_ERROR
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, detail: str, faults: Sequence[FieldFault] = ()) -> None:
        super().__init__(detail)
        self.faults = tuple(faults)


class UnauthorizedError(ServingError):
    """The key is missing or wrong."""

    code = "unauthorized"
    status = HTTPStatus.UNAUTHORIZED
    headers = MappingProxyType({"WWW-Authenticate": "Bearer"})


class NotFoundError(ServingError):
    """No such model, version or path."""

    code = "not_found"
    status = HTTPStatus.NOT_FOUND


class MethodNotAllowedError(ServingError):
    """The path is known, but not with this method."""

    code = "method_not_allowed"
    status = HTTPStatus.METHOD_NOT_ALLOWED

    def __init__(self, allowed: str) -> None:
        super().__init__(f"expected the method {allowed}")
        self.headers = MappingProxyType({"Allow": allowed})


class BodyTimeoutError(ServingError):
    """The body did not arrive in time."""

    code = "body_timeout"
    status = HTTPStatus.REQUEST_TIMEOUT
    headers = MappingProxyType({"Connection": "close"})


class TooLargeError(ServingError):
    """The body or the list of inputs is over a limit."""

    code = "too_large"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    # What is left of the body is not read, so the connection is of no further use.
    headers = MappingProxyType({"Connection": "close"})


class UnsupportedMediaError(ServingError):
    """The body says that it is something else than JSON."""

    code = "unsupported_media_type"
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class InvalidFieldError(ServingError):
    """JSON that is not a request: a field is unknown, missing, of the wrong kind or out of range."""

    code = "invalid_field"
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class NotReadyError(ServingError):
    """The model is warming up, the service is shutting down, or the model is dead."""

    code = "not_ready"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    headers = MappingProxyType({"Retry-After": "1"})


_STATUS: Mapping[type[NerServiceError], int] = {
    InvalidJsonError: HTTPStatus.BAD_REQUEST,
    MissingHeadError: HTTPStatus.CONFLICT,
    InvalidTextError: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidPageError: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidImageError: HTTPStatus.UNPROCESSABLE_ENTITY,
    ImagesOffError: HTTPStatus.CONFLICT,
    TooManyImagesError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TextTooLongError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TooManyCandidatesError: HTTPStatus.UNPROCESSABLE_ENTITY,
    InferenceError: HTTPStatus.INTERNAL_SERVER_ERROR,
    QueueFullError: HTTPStatus.TOO_MANY_REQUESTS,
    DeadlineError: HTTPStatus.GATEWAY_TIMEOUT,
    ClosedError: HTTPStatus.SERVICE_UNAVAILABLE,
    ModelDiedError: HTTPStatus.SERVICE_UNAVAILABLE,
}


def item_problem(error: NerServiceError, pointer: str = "") -> ItemProblem:
    """The problem of the item that stands at `pointer` in the body."""
    status = error.status if isinstance(error, ServingError) else _STATUS.get(type(error), 500)
    problem: ItemProblem = {
        "type": f"urn:ner-service:{error.code}",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": str(error),
    }
    if isinstance(error, InvalidPageError | InvalidImageError):
        fault = FieldFault(pointer=f"{pointer}/{error.pointer}", detail=error.detail)
        problem["detail"] = f"{fault['pointer']}: {fault['detail']}"
        problem["errors"] = [fault]
    return problem


def problem_response(error: NerServiceError, *, instance: str, request_id: str) -> Response:
    """The reply to a request that is refused as a whole."""
    item = item_problem(error)
    problem = Problem(
        type=item["type"],
        title=item["title"],
        status=item["status"],
        detail=item["detail"],
        instance=instance,
        request_id=request_id,
    )
    headers: dict[str, str] = {}
    if isinstance(error, ServingError):
        headers.update(error.headers)
        if error.faults:
            problem["errors"] = list(error.faults)
    if isinstance(error, QueueFullError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return Response(json_bytes(problem), status_code=problem["status"], media_type=MEDIA_TYPE, headers=headers)
