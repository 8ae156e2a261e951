"""A batcher with a model that doubles numbers, for tests of it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ner_service.errors import InferenceError
from ner_service.serving.batcher import Batcher, Job, Stage

POISON, DEADLY = -1, -2


class Log:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.queued_tokens = 0
        self.waits: list[float] = []
        self.cancelled: list[Stage] = []
        self.batches: list[list[int]] = []

    def queue_changed(self, queued_tokens: int) -> None:
        self.queued_tokens = queued_tokens

    def job_started(self, queue_s: float) -> None:
        self.waits.append(queue_s)

    def job_cancelled(self, stage: Stage) -> None:
        self.cancelled.append(stage)

    def batch_done(self, lengths: Sequence[int], inference_s: float) -> None:
        self.batches.append(list(lengths))


class Model:
    """Doubles numbers. Fails on POISON, dies of DEADLY, and waits in `run` while it is held."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.now = 0.0
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def run(self, items: Sequence[int]) -> list[int]:
        self.calls.append(list(items))
        self.entered.set()
        self.gate.wait()
        self.now += 1.0
        if DEADLY in items:
            raise SystemExit
        if POISON in items:
            raise ValueError("poison")
        return [2 * item for item in items]


class Rig:
    """A batcher with everything around it."""

    def __init__(
        self,
        *,
        batch_tokens: int = 10,
        queue_tokens: int = 100,
        max_wait_s: float = math.inf,
        run: Callable[..., Any] | None = None,
    ) -> None:
        self.model, self.log, self.deaths = Model(), Log(), threading.Semaphore(0)
        self.batcher: Batcher[int, int] = Batcher(
            run or self.model.run,
            batch_tokens=batch_tokens,
            queue_tokens=queue_tokens,
            observer=self.log,
            on_death=self.deaths.release,
            max_wait_s=max_wait_s,
            clock=lambda: self.model.now,
        )

    def submit(self, *items: int, length: int = 1) -> Job[int]:
        return self.batcher.submit(items, [length] * len(items))

    def finish(self) -> None:
        self.batcher.start()
        self.batcher.close()
        assert self.batcher.join(60)


def answers(job: Job[int]) -> list[int | InferenceError]:
    return job.future.result(timeout=60).answers
