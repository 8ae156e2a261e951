"""The service when it is too busy, not ready, dying or left by its clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from ner_service.errors import ConfigError
from tests.serving.conftest import Serve, Service, until
from tests.serving.fakes import DEADLY, FakeRecognizer
from tests.serving.test_problems import check_problem


def sample(service: Service, name: str) -> float:
    """The value of a line of /metrics; 0 where there is none."""
    lines = service.client.get("/metrics").text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name), 0.0)


Ask = Callable[..., Future[Any]]


@contextmanager
def busy_model(service: Service) -> Iterator[tuple[Future[Any], Ask]]:
    """Keep the model busy with a request, which is given, with a way to send others that wait behind it."""
    service.recognizer.hold()
    with ThreadPoolExecutor() as threads:

        def ask(inputs: Any, path: str = "/v1/extract") -> Future[Any]:
            return threads.submit(service.post, path, {"inputs": inputs})

        running = ask("Ada")
        try:
            assert service.recognizer.entered.wait(60)
            yield running, ask
        finally:
            service.recognizer.release()


def test_a_full_queue_is_429_with_retry_after(serve: Serve) -> None:
    with serve(queue_tokens=10) as service:
        with busy_model(service) as (running, ask):
            waiting = ask("Beatrice")
            until(lambda: service.model.batcher.queued_tokens == 10)
            reply = service.post("/v1/extract", {"inputs": ["Cleo", "Dan"]})
            check_problem(reply, 429, "queue_full")
            assert int(reply.headers["retry-after"]) >= 1
            assert sample(service, 'ner_rejected_total{reason="queue_full"}') == 1.0
        assert {running.result().status_code, waiting.result().status_code} == {200}


def test_overload_is_refused_before_the_texts_are_read(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(queue_tokens=5) as service:
        with busy_model(service) as (running, ask):
            waiting = ask("Ada")
            until(lambda: service.model.batcher.queued_tokens == 5)
            monkeypatch.setattr(FakeRecognizer, "encode", None)
            check_problem(service.post("/v1/extract", {"inputs": "Ada"}), 429, "queue_full")
        assert {running.result().status_code, waiting.result().status_code} == {200}


def test_a_request_that_waits_to_its_deadline_is_504(serve: Serve) -> None:
    with serve(deadline_s=0.3) as service:
        with busy_model(service) as (running, _):
            check_problem(service.post("/v1/extract", {"inputs": "Bob"}), 504, "deadline_exceeded")
            assert service.model.batcher.queued_tokens == 0
        # The one that was begun is finished, however long it took.
        assert running.result().status_code == 200


def test_nothing_is_ready_before_the_warm_up_is_done(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.serving.conftest.await_ready", lambda service: None)
    recognizer = FakeRecognizer()
    recognizer.hold()
    with serve(recognizer=recognizer) as service:
        assert recognizer.entered.wait(60)
        assert service.client.get("/health/live").status_code == 200
        check_problem(service.client.get("/health/ready"), 503, "not_ready")
        reply = service.post("/v1/extract", {"inputs": "Ada"})
        check_problem(reply, 503, "not_ready")
        assert reply.headers["retry-after"] == "1"
        recognizer.release()
        until(lambda: service.client.get("/health/ready").status_code == 200)
        assert service.post("/v1/extract", {"inputs": "Ada"}).status_code == 200


def test_the_warm_up_reads_many_lengths_and_a_full_batch(service: Service) -> None:
    # "a" and two to the powers up to the window's 64 tokens; then 8192 // 64 full windows, 64 tokens each.
    assert service.recognizer.batches == [1] * 7 + [128]


def test_a_failed_self_test_is_death(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.serving.conftest.await_ready", lambda service: None)
    monkeypatch.setattr(FakeRecognizer, "forward", lambda self, encodings, cutoffs: [])
    with serve() as service:
        until(lambda: service.deaths == ["died"])
        check_problem(service.client.get("/health/live"), 503, "not_ready")
        check_problem(service.client.get("/health/ready"), 503, "not_ready")


def test_a_text_that_cannot_be_encoded_in_the_self_test_is_death(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the fault: a model that is never ready and never dead is restarted by nobody."""

    def refuse(recognizer: FakeRecognizer, content: object) -> None:
        raise ConfigError("window: found no room")

    monkeypatch.setattr("tests.serving.conftest.await_ready", lambda service: None)
    monkeypatch.setattr(FakeRecognizer, "encode", refuse)
    with serve() as service:
        until(lambda: service.deaths == ["died"])
        check_problem(service.client.get("/health/live"), 503, "not_ready")


def test_a_dead_model_thread_turns_readiness_off_and_is_told(service: Service) -> None:
    check_problem(service.post("/v1/extract", {"inputs": DEADLY}), 503, "model_died")
    until(lambda: service.deaths == ["died"])
    problem = check_problem(service.client.get("/health/ready"), 503, "not_ready")
    assert "dead" in problem["detail"]
    check_problem(service.client.get("/health/live"), 503, "not_ready")
    check_problem(service.post("/v1/extract", {"inputs": "Ada"}), 503, "not_ready")


@pytest.mark.parametrize(
    "alias", ["/health/live", "/healthz", "/v2/health/live", "/health/ready", "/readyz", "/v2/health/ready"]
)
def test_health_has_its_aliases(service: Service, alias: str) -> None:
    assert service.client.get(alias).json() == {"status": "ready" if "read" in alias else "live"}


def test_draining_refuses_new_requests_and_answers_those_that_came_before(service: Service) -> None:
    with busy_model(service) as (running, _):
        service.model.drain()
        check_problem(service.client.get("/health/ready"), 503, "not_ready")
        assert service.client.get("/health/live").status_code == 200
        check_problem(service.post("/v1/extract", {"inputs": "Bob"}), 503, "not_ready")
    assert running.result().status_code == 200


def test_what_is_not_done_at_the_end_of_the_grace_is_503(service: Service) -> None:
    with busy_model(service) as (running, _):
        service.model.batcher.abort()
        check_problem(running.result(), 503, "shutting_down")


def test_a_client_that_goes_takes_its_texts_out_of_the_queue(service: Service) -> None:
    with busy_model(service) as (running, _):
        sent = asyncio.run(_ask_and_go(service))
        assert sent == []
        assert service.model.batcher.queued_tokens == 0
    assert running.result().status_code == 200
    assert sample(service, 'ner_cancelled_total{stage="queue"}') == 1.0
    assert sample(service, 'ner_requests_total{code="499",route="/v1/extract"}') == 1.0


async def _ask_and_go(service: Service) -> list[Any]:
    """Send a request straight to the app and disconnect when it waits; what was sent back."""
    sent: list[Any] = []
    gone = asyncio.Event()
    messages = [{"type": "http.request", "body": b'{"inputs": "Ada"}', "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/extract",
        "raw_path": b"/v1/extract",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    request = asyncio.create_task(service.client.app(scope, receive, send))  # type: ignore[arg-type]
    while service.model.batcher.queued_tokens == 0:
        await asyncio.sleep(0)
    gone.set()
    await request
    return sent


def test_metrics_tell_what_happened(service: Service) -> None:
    service.post("/v1/extract", {"inputs": ["Ada Lovelace", "☠", "\ud800"]})
    assert sample(service, 'ner_requests_total{code="200",route="/v1/extract"}') == 1.0
    assert sample(service, 'ner_request_duration_seconds_count{route="/v1/extract"}') == 1.0
    assert sample(service, 'ner_entities_total{label="NAME"}') == 1.0
    assert sample(service, 'ner_entities_total{label="WORD"}') == 2.0
    assert sample(service, 'ner_entity_score_count{label="WORD"}') == 2.0
    assert sample(service, 'ner_rejected_total{reason="inference_failed"}') == 1.0
    assert sample(service, 'ner_rejected_total{reason="invalid_text"}') == 1.0
    assert sample(service, "ner_queue_tokens") == 0.0
    assert sample(service, f'ner_model_info{{digest="{"cd" * 32}",precision="float32"}}') == 1.0
    # 8 batches of the warm-up, and the text without poison.
    for name in ("ner_batch_tokens", "ner_batch_sequences", "ner_inference_duration_seconds"):
        assert sample(service, f"{name}_count") == 9.0
    assert sample(service, "ner_batch_padding_ratio_count") == 9.0
    assert sample(service, "ner_queue_duration_seconds_count") == 9.0
    assert sample(service, "ner_text_windows_count") == 1.0


def test_padding_is_what_the_model_read_for_nothing(serve: Serve) -> None:
    with serve() as service:
        # 3 and 12 tokens side by side: 24 places for 15.
        before = sample(service, "ner_batch_padding_ratio_sum")
        service.post("/v1/extract", {"inputs": ["a", "a" * 10]})
        assert sample(service, "ner_batch_padding_ratio_sum") - before == pytest.approx(1 - 15 / 24)
