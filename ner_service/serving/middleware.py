"""What every request passes: id, log line, metrics, the last handler of errors, the key, the limits of the body.

Pure ASGI. Knows no route and no model. No log line has a text in it: an unexpected error is told by its kind and place.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ner_service.errors import NerServiceError
from ner_service.serving.batcher import ClosedError
from ner_service.serving.metrics import Metrics
from ner_service.serving.problems import (
    BodyTimeoutError,
    ServingError,
    TooLargeError,
    UnauthorizedError,
    problem_response,
)

CLIENT_GONE = 499

_DISCARDED = 4
"""A body of up to so many times the limit arrives before it is refused."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

logger = logging.getLogger("ner_service.access")


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """What is told of a request in its log line and headers; the route fills in what it knows."""

    request_id: str
    num_tokens: int = 0
    timing_s: dict[str, float]


def record_of(scope: Scope) -> RequestRecord:
    """The record of a request that has passed `RequestLog`."""
    record = scope["state"]["record"]
    assert isinstance(record, RequestRecord)
    return record


class RequestLog:
    """Gives every request an id and an answer: an error that nobody caught becomes its problem here, and only here."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at = time.perf_counter()
        method = scope["method"]
        if method == "HEAD":
            scope = {**scope, "method": "GET"}  # the server sends the head alone
        headers = Headers(scope=scope)
        record = RequestRecord(request_id=_request_id(headers.get("x-request-id", "")), timing_s={})
        scope.setdefault("state", {})["record"] = record
        traceparent = headers.get("traceparent", "")
        status: int | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                reply = MutableHeaders(scope=message)
                reply["X-Request-Id"] = record.request_id
                reply["Server-Timing"] = _server_timing(record, time.perf_counter() - started_at)
                if _TRACEPARENT.fullmatch(traceparent):
                    reply["traceparent"] = traceparent
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception as error:
            problem = error if isinstance(error, NerServiceError) else _unexpected(error, record.request_id)
            self._metrics.rejected(problem.code)
            if status is None:
                response = problem_response(problem, instance=scope["path"], request_id=record.request_id)
                await response(scope, receive, send_with_headers)
        finally:
            self._conclude(scope, method, record, status or CLIENT_GONE, time.perf_counter() - started_at)

    def _conclude(self, scope: Scope, method: str, record: RequestRecord, status: int, duration_s: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.request_done(route, status, duration_s)
        logger.info(
            "id=%s method=%s route=%s status=%d ms=%.1f tokens=%d",
            *(record.request_id, method, route, status, duration_s * 1000, record.num_tokens),
        )


class ApiKey:
    """Asks for the key on every path for which `guards` is true; without a key set, on none."""

    def __init__(self, app: ASGIApp, key: SecretStr | None, guards: Callable[[str], bool]) -> None:
        self._app = app
        self._key = None if key is None else key.get_secret_value().encode()
        self._guards = guards

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._key is not None and self._guards(scope["path"]):
            headers = Headers(scope=scope)
            scheme, _, bearer = headers.get("authorization", "").partition(" ")
            # A gateway may have put a token of its own into the one header.
            found = [headers.get("x-api-key", ""), *([bearer.strip()] if scheme.lower() == "bearer" else [])]
            # Headers are read as Latin-1; back to the bytes that were sent.
            if not any(hmac.compare_digest(each.encode("latin-1"), self._key) for each in found):
                raise UnauthorizedError("expected the key as `Authorization: Bearer KEY` or `X-API-Key: KEY`")
        await self._app(scope, receive, send)


class Arrivals:
    """The bodies that are on their way."""

    def __init__(self) -> None:
        self._timeouts: set[asyncio.Timeout] = set()
        self._is_aborted = False

    async def wait(self, receive: Receive, until: float) -> Message:
        """The next part of a body.

        Raises:
            TimeoutError: it is not there at `until`, by the loop's clock.
            ClosedError: `abort` was called.
        """
        try:
            async with asyncio.timeout_at(until) as timeout:
                self._timeouts.add(timeout)
                try:
                    return await receive()
                finally:
                    self._timeouts.discard(timeout)
        except TimeoutError:
            if self._is_aborted:
                raise ClosedError("the service shut down before the body arrived") from None
            raise

    def abort(self) -> None:
        """Wait for none of them any longer. Called within the loop."""
        self._is_aborted = True
        for timeout in self._timeouts:
            timeout.reschedule(asyncio.get_running_loop().time())


class BodyLimit:
    """Bounds the bytes of a body, with or without a declared length, and the time it takes to arrive.

    Most clients send all before they read, and see a reset where the rest of a body finds the connection closed. So
    what is not much over the limit arrives, and is thrown away, before it is refused.
    """

    def __init__(self, app: ASGIApp, arrivals: Arrivals, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._arrivals = arrivals
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        declared = int(length[:19]) if length.isdecimal() else 0
        num_bytes = 0
        is_complete = False
        until = asyncio.get_running_loop().time() + self._timeout_s

        async def receive_part() -> Message:
            nonlocal num_bytes, is_complete
            try:
                message = await self._arrivals.wait(receive, until)
            except TimeoutError:
                if max(declared, num_bytes) > self._max_bytes:
                    raise self._too_large() from None
                raise BodyTimeoutError(f"the body did not arrive within {self._timeout_s:g} seconds") from None
            num_bytes += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            return message

        async def receive_bounded() -> Message:
            if is_complete:
                return await receive()
            # A client that expects a word before it sends gets it.
            if declared > self._max_bytes * (1 if "expect" in headers else _DISCARDED):
                raise self._too_large()
            message = await receive_part()
            if max(declared, num_bytes) <= self._max_bytes:
                return message
            while not is_complete and num_bytes <= self._max_bytes * _DISCARDED:
                await receive_part()
            raise self._too_large()

        await self._app(scope, receive_bounded, send)

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"the body is larger than {self._max_bytes} bytes")


def _request_id(sent: str) -> str:
    return sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def _server_timing(record: RequestRecord, total_s: float) -> str:
    return ", ".join(f"{name};dur={value * 1000:.1f}" for name, value in {**record.timing_s, "total": total_s}.items())


def _unexpected(error: Exception, request_id: str) -> ServingError:
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-5:]))
    logger.error("id=%s unexpected %s in %s", request_id, type(error).__name__, where)
    return ServingError("an error on our side; the log names its kind beside the request id")
