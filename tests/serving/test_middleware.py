from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from ner_service.serving.batcher import ClosedError
from ner_service.serving.middleware import Arrivals, BodyLimit
from ner_service.serving.problems import BodyTimeoutError, TooLargeError
from tests.serving.conftest import Serve, Service
from tests.serving.test_problems import check_problem

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_request_id_is_repeated_or_made(service: Service) -> None:
    assert service.client.get("/", headers={"X-Request-Id": "a-B.c:1_"}).headers["x-request-id"] == "a-B.c:1_"
    for sent in ("", "a b", "x" * 129, "é", "a\tb"):
        made = service.client.get("/", headers={"X-Request-Id": sent.encode("latin-1")}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", made)


def test_a_traceparent_is_repeated_if_it_is_one(service: Service) -> None:
    assert service.client.get("/", headers={"traceparent": TRACE}).headers["traceparent"] == TRACE
    assert "traceparent" not in service.client.get("/", headers={"traceparent": "nonsense"}).headers


def test_server_timing_tells_where_the_time_went(service: Service) -> None:
    timing = service.post("/v1/extract", {"inputs": "Ada"}).headers["server-timing"]
    assert re.fullmatch(r"queue;dur=[\d.]+, infer;dur=[\d.]+, total;dur=[\d.]+", timing)


def test_the_log_has_a_line_a_request_and_no_text(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        service.post("/v1/extract?secret=1", {"inputs": ["Secret", "☠ Secret"]}, **{"X-Request-Id": "r1"})
        service.client.get("/secret")
    lines = [record.getMessage() for record in caplog.records if record.name == "ner_service.access"]
    assert re.fullmatch(r"id=r1 method=POST route=/v1/extract status=200 ms=[\d.]+ tokens=18", lines[0])
    assert re.fullmatch(r"id=\w+ method=GET route=unmatched status=404 ms=[\d.]+ tokens=0", lines[1])
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("ner_service")]
    assert not any("secret" in line.lower() for line in ours)


def test_without_a_key_everything_is_open(service: Service) -> None:
    assert service.client.get("/v1/models").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic schlüssel".encode("latin-1")},
        {"Authorization": "Bearer"},
        {"X-API-Key": "wrong"},
        {"X-API-Key": "sesam\xff".encode("latin-1")},
    ],
)
def test_a_missing_or_wrong_key_is_401(serve: Serve, headers: dict[str, Any]) -> None:
    with serve(api_key="sesam") as service:
        for path in ("/v1/models", "/v1/extract", "/v1/nothing", "/metrics"):
            reply = service.client.get(path, headers=headers)
            check_problem(reply, 401, "unauthorized")
            assert reply.headers["www-authenticate"] == "Bearer"
            assert "sesam" not in reply.text


def test_the_key_opens_and_health_and_pages_need_none(serve: Serve) -> None:
    with serve(api_key="schlüssel") as service:
        own = {"X-API-Key": "schlüssel".encode()}
        gateway = [own | {"Authorization": value} for value in (b"Bearer another", b"Basic eDp5")]
        wrong = {"Authorization": "Bearer schlüssel".encode(), "X-API-Key": b"wrong"}
        for headers in ({"Authorization": "bearer schlüssel".encode()}, own, *gateway, wrong):
            assert service.client.get("/v1/models", headers=headers).status_code == 200
        for path in ("/health/live", "/readyz", "/", "/docs", "/openapi.json", "/page/page.js"):
            assert service.client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/health/live", "/readyz", "/", "/docs", "/openapi.json", "/v1/models", "/metrics"])
def test_what_is_got_has_a_head(service: Service, path: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ner_service.access"):
        assert service.client.head(path).status_code == 200
    assert f"method=HEAD route={path} status=200" in caplog.text
    assert service.client.head("/v1/extract").headers["allow"] == "POST"


def test_every_reason_is_counted_from_the_start(service: Service) -> None:
    metrics = service.client.get("/metrics").text
    for reason in ("inference_failed", "queue_full", "internal_error", "unauthorized", "invalid_image"):
        assert f'ner_rejected_total{{reason="{reason}"}} 0.0' in metrics
    for stage in ("queue", "inference"):
        assert f'ner_cancelled_total{{stage="{stage}"}} 0.0' in metrics


def test_every_route_has_its_name_in_the_metrics(service: Service) -> None:
    for path in ("/openapi.json", "/docs", "/page/page.js", "/v1/models", "/health/live", "/nowhere"):
        service.client.get(path)
    metrics = service.client.get("/metrics").text
    routes = set(re.findall(r'ner_requests_total\{code="\d+",route="([^"]+)"\}', metrics))
    assert routes >= {"/openapi.json", "/docs", "/page/{name}", "/v1/models", "/health/live"}
    unmatched = 'ner_requests_total{code="404",route="unmatched"} 1.0'
    assert [line for line in metrics.splitlines() if "total" in line and "unmatched" in line] == [unmatched]


def test_a_body_over_the_limit_is_413_declared_or_not(serve: Serve) -> None:
    def chunks(count: int) -> Iterator[bytes]:
        yield b'{"inputs": "'
        for _ in range(count):
            yield b"a" * 10
        yield b'"}'

    headers = {"Content-Type": "application/json"}
    with serve(max_body_bytes=100) as service:
        for content in (b"x" * 101, chunks(10)):
            reply = service.client.post("/v1/extract", content=content, headers=headers)
            check_problem(reply, 413, "too_large")
            assert reply.headers["connection"] == "close"
        assert service.client.post("/v1/extract", content=chunks(8), headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "num_sent", "num_read"),
    [
        ([], 30, 30),
        ([], 100, 41),
        ([(b"content-length", b"40")], 40, 40),
        ([(b"content-length", b"41")], 41, 0),
        ([(b"content-length", b"11"), (b"expect", b"100-continue")], 11, 0),
    ],
)
def test_how_much_of_a_large_body_arrives(headers: list[tuple[bytes, bytes]], num_sent: int, num_read: int) -> None:
    """With a limit of 10 bytes: all up to four times that, unless the client asked before it sent."""
    received = 0

    async def read(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body", False):
            pass

    async def receive() -> Any:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": b"a", "more_body": received < num_sent}

    limited = BodyLimit(read, Arrivals(), max_bytes=10, timeout_s=5)
    with pytest.raises(TooLargeError, match="larger than 10 bytes"):
        asyncio.run(limited({"type": "http", "headers": headers}, receive, None))  # type: ignore[arg-type]
    assert received == num_read


def test_a_body_that_does_not_end_in_time_is_408(serve: Serve) -> None:
    async def read(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body", False):
            pass

    async def trickle() -> Any:
        messages = [{"type": "http.request", "body": b"a", "more_body": True}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await asyncio.Event().wait()

        limited = BodyLimit(read, Arrivals(), max_bytes=10, timeout_s=0.01)
        await limited({"type": "http", "headers": []}, receive, None)  # type: ignore[arg-type]

    with pytest.raises(BodyTimeoutError, match=r"within 0\.01 seconds"):
        asyncio.run(trickle())


def test_waiting_for_the_client_to_go_is_no_part_of_the_body() -> None:
    async def linger(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"

    async def go_late() -> None:
        messages = [{"type": "http.request", "body": b"a"}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await asyncio.sleep(0.02)
            return {"type": "http.disconnect"}

        limited = BodyLimit(linger, Arrivals(), max_bytes=10, timeout_s=0.001)
        await limited({"type": "http", "headers": []}, receive, None)  # type: ignore[arg-type]

    asyncio.run(go_late())


def test_an_abort_ends_the_wait_for_every_body() -> None:
    async def abort() -> None:
        arrivals = Arrivals()
        loop = asyncio.get_running_loop()
        waiting = [asyncio.create_task(arrivals.wait(asyncio.Event().wait, loop.time() + 60)) for _ in range(2)]  # type: ignore[arg-type]
        await asyncio.sleep(0)
        arrivals.abort()
        for found in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(found, ClosedError)

    asyncio.run(abort())
