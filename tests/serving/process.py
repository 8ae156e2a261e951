"""The service as a process of its own."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import IO, Any

from tests.serving.conftest import until


@dataclass
class Process:
    """A running service. Its log is read as it is written: a full pipe would hold it up."""

    popen: subprocess.Popen[str]
    port: int
    stdin: IO[str]
    stdout: IO[str]
    log: Future[list[str]]

    def request(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json", "X-Request-Id": "r1"})
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, content

    def extract(self, text: str) -> tuple[int, Any]:
        status, content = self.request("POST", "/v1/extract", {"inputs": text})
        return status, json.loads(content)

    def is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def let_go(self) -> None:
        self.stdin.write("\n")
        self.stdin.flush()

    def end(self) -> tuple[int, str]:
        """Exit code and what stands in the log, once it has ended by itself."""
        return self.popen.wait(120), "".join(self.log.result())


@contextmanager
def running(command: Sequence[str], **settings: str) -> Iterator[Process]:
    """The service that a command starts on a free port, once it is ready; killed at the end."""
    environment = {**os.environ, "NER_PORT": "0", **settings}
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=environment, text=True, **pipes) as popen, ThreadPoolExecutor() as threads:
        assert popen.stdin is not None
        assert popen.stdout is not None
        assert popen.stderr is not None
        try:
            told = (re.search(r"listening on 127\.0\.0\.1, port (\d+)", line) for line in popen.stderr)
            port = int(next(found[1] for found in told if found))
            process = Process(popen, port, popen.stdin, popen.stdout, threads.submit(list, popen.stderr))
            until(process.is_listening)
            until(lambda: process.request("GET", "/health/ready")[0] == 200)
            yield process
        finally:
            popen.kill()
