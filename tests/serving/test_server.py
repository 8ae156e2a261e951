"""The service as a real process: signals, sockets and exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest

from tests.serving.conftest import until
from tests.serving.fakes import DEADLY
from tests.serving.process import Process, running

FAKE = [sys.executable, "-m", "tests.serving.fake_server"]


Start = Callable[..., AbstractContextManager[Process]]


@pytest.fixture
def start() -> Start:
    """Starts the service around a fake model, with these settings in its environment."""
    return lambda **settings: running(FAKE, NER_MODEL="unused", **settings)


def test_sigterm_finishes_what_is_in_flight_and_ends_with_0(start: Start) -> None:
    with start() as process, ThreadPoolExecutor() as threads:
        running = threads.submit(process.extract, "⏳ Ada")
        assert process.stdout.readline() == "waiting\n"
        process.popen.send_signal(signal.SIGTERM)
        until(lambda: not process.is_listening())
        assert process.popen.poll() is None
        process.let_go()
        status, reply = running.result()
        assert status == 200
        assert reply["results"][0]["entities"][0]["text"] == "Ada"
        code, log = process.end()
        assert code == 0
        assert "id=r1 method=POST route=/v1/extract status=200" in log
        assert "Ada" not in log


def test_what_is_not_done_within_the_grace_is_503(start: Start) -> None:
    with start(NER_GRACE_S="0.1") as process, ThreadPoolExecutor() as threads:
        running = threads.submit(process.extract, "⏳ Ada")
        assert process.stdout.readline() == "waiting\n"
        process.popen.send_signal(signal.SIGTERM)
        status, problem = running.result()
        assert (status, problem["type"]) == (503, "urn:ner-service:shutting_down")
        # The model is still busy, and does not keep the process.
        assert process.end()[0] == 0


def test_a_model_in_the_midst_of_computing_does_not_keep_the_process(start: Start) -> None:
    """Nor does the interpreter's end abort it: the thread is within torch, which it cannot unwind."""
    with start(NER_GRACE_S="0.1") as process, ThreadPoolExecutor() as threads:
        running = threads.submit(process.extract, "♾ Ada")
        assert process.stdout.readline() == "computing\n"
        process.popen.send_signal(signal.SIGTERM)
        assert running.result()[0] == 503
        code, log = process.end()
        assert (code, "terminate" in log) == (0, False)


def test_a_signal_that_comes_while_the_model_loads_ends_the_process() -> None:
    environment = {**os.environ, "NER_MODEL": "slow", "NER_PORT": "0"}
    with subprocess.Popen(FAKE, env=environment, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_body_that_is_still_arriving_at_the_end_of_the_grace_is_503(start: Start) -> None:
    with start(NER_GRACE_S="0.5") as process, socket.create_connection(("127.0.0.1", process.port)) as client:
        head = b"POST /v1/extract HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
        client.sendall(head + b'{"i')
        until(lambda: b'route="/health/ready"' in process.request("GET", "/metrics")[1])
        process.popen.send_signal(signal.SIGTERM)
        reply = b"".join(iter(lambda: client.recv(4096), b""))
        assert reply.startswith(b"HTTP/1.1 503")
        assert b"urn:ner-service:shutting_down" in reply
        code, log = process.end()
        assert (code, "Traceback" in log) == (0, False)


def test_the_body_of_a_request_that_offers_an_upgrade_is_read(start: Start) -> None:
    """As Java's own client offers HTTP/2 with each request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
    head = b"POST /v1/extract HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 17\r\n"
    with start() as process, socket.create_connection(("127.0.0.1", process.port)) as client:
        client.sendall(head + offer + b'\r\n{"inputs": "Ada"}')
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_client_that_is_killed_frees_the_queue(start: Start) -> None:
    with start() as process, ThreadPoolExecutor() as threads:
        running = threads.submit(process.extract, "⏳ Ada")
        assert process.stdout.readline() == "waiting\n"
        with socket.create_connection(("127.0.0.1", process.port)) as client:
            body = b'{"inputs": "Bob"}'
            head = (
                b"POST /v1/extract HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            )
            client.sendall(head % len(body) + body)
            until(lambda: b"ner_queue_tokens 5.0" in process.request("GET", "/metrics")[1])
        until(lambda: b"ner_queue_tokens 0.0" in process.request("GET", "/metrics")[1])
        assert b'ner_cancelled_total{stage="queue"} 1.0' in process.request("GET", "/metrics")[1]
        process.let_go()
        assert running.result()[0] == 200


def test_a_dead_model_ends_the_process_with_an_error(start: Start) -> None:
    with start() as process:
        status, problem = process.extract(f"{DEADLY} Ada")
        assert (status, problem["type"]) == (503, "urn:ner-service:model_died")
        code, log = process.end()
        assert code == 1
        assert "the model's thread died of SystemExit" in log
        assert "Ada" not in log


def test_a_slow_body_is_408_and_a_large_one_413(start: Start) -> None:
    with start(NER_BODY_TIMEOUT_S="0.1", NER_MAX_BODY_BYTES="100") as process:
        for length, status in ((b"50", b"408 Request Timeout"), (b"101", b"413 ")):
            with socket.create_connection(("127.0.0.1", process.port)) as client:
                head = b"POST /v1/extract HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
                client.sendall(head + length + b"\r\n\r\n{")
                reply = b"".join(iter(lambda: client.recv(4096), b""))
            assert reply.startswith(b"HTTP/1.1 " + status)
            assert b"application/problem+json" in reply


def test_a_client_that_sends_all_before_it_reads_learns_that_it_was_too_much(start: Start) -> None:
    """A connection that closes under a body is a reset, and the reply is lost: 8 MB are more than sockets hold."""
    with start(NER_MAX_BODY_BYTES="4000000") as process:
        status, content = process.request("POST", "/v1/extract", "a" * 8_000_000)
        assert (status, json.loads(content)["type"]) == (413, "urn:ner-service:too_large")


def test_a_taken_port_is_told_and_ends_the_process_with_an_error() -> None:
    """And so is a setting that is none."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        environment = {**os.environ, "NER_MODEL": "unused", "NER_PORT": port, "NER_GRACE": "1"}
        ended = subprocess.run(FAKE, env=environment, text=True, capture_output=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "ConfigError: NER_HOST, NER_PORT: cannot listen on 127.0.0.1" in ended.stderr
    assert "Address already in use" in ended.stderr
    assert "WARNING ner_service.serving.server NER_GRACE: no such setting; did you mean NER_GRACE_S?" in ended.stderr
