"""Items of many jobs -> batches of one model, first come first served; every job is answered exactly once.

A job is admitted whole or refused at once: the queue is bounded in tokens, and a job larger than the queue is admitted
when the queue is empty. A batch is cut by its token budget the moment the model is free; no timer ever waits for more.
When a batch fails it is split until only the item at fault fails. Items of a job that nobody waits for are skipped.
If the model's thread dies, every job that it owes an answer fails, and so does every later one.

Knows no model, no text and no web: an item is whatever `run` takes, and its length is a number of tokens.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Literal, Protocol, TypeVar

from ner_service.errors import InferenceError, ServiceError
from ner_service.text.planning import take_prefix

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Stage = Literal["queue", "inference"]

_SMOOTHING = 0.2

logger = logging.getLogger(__name__)


class QueueFullError(ServiceError):
    """The queue has no room for the job. `retry_after_s` is when it should have, by the measured rate."""

    code = "queue_full"

    def __init__(
        self, num_tokens: int, queued_tokens: int, queue_tokens: int, retry_after_s: float, unit: str = "tokens"
    ) -> None:
        found = f"{num_tokens} {unit} do not fit beside {queued_tokens} waiting ones"
        super().__init__(f"the queue is full: {found}, the limit is {queue_tokens}")
        self.retry_after_s = retry_after_s


class DeadlineError(ServiceError):
    """The job waited to its deadline and was not begun."""

    code = "deadline_exceeded"


class ClosedError(ServiceError):
    """The batcher takes no jobs, or gave this one up while shutting down."""

    code = "shutting_down"


class ModelDiedError(ServiceError):
    """The model's thread ended by a fault; nothing can be answered any more."""

    code = "model_died"


class Observer(Protocol):
    """Whoever counts what the batcher does. Called from any thread."""

    def queue_changed(self, queued_tokens: int) -> None: ...

    def job_started(self, queue_s: float) -> None: ...

    def job_cancelled(self, stage: Stage) -> None: ...

    def batch_done(self, lengths: Sequence[int], inference_s: float) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[Answer]):
    """A job's answers, one an item and in the order of items, and the seconds it waited and was worked on."""

    answers: list[Answer | InferenceError]
    queue_s: float
    inference_s: float


@dataclass(slots=True, kw_only=True, eq=False)
class Job(Generic[Answer]):
    """Items that are admitted, cancelled and answered together. `future` is resolved exactly once."""

    num_items: int
    admitted_at: float
    started_at: float | None = None
    answers: dict[int, Answer | InferenceError] = field(default_factory=dict)
    future: Future[Outcome[Answer]] = field(default_factory=Future)

    def __post_init__(self) -> None:
        # A running future cannot be cancelled from outside: only the batcher decides how a job ends.
        self.future.set_running_or_notify_cancel()


@dataclass(frozen=True, slots=True)
class _Unit(Generic[Item, Answer]):
    job: Job[Answer]
    index: int
    item: Item
    num_tokens: int


class Batcher(Generic[Item, Answer]):
    """A queue and the one thread in which the model runs.

    Args:
        run: the model: as many answers as items, in their order. An `Exception` fails the batch, which is then split;
            any other `BaseException` is the death of the thread.
        batch_tokens: the most tokens of a batch, except of an item that is longer by itself.
        queue_tokens: the most tokens that wait, except of a job that is larger by itself.
        observer: is told what happens.
        on_death: called once, from the dying thread, after every job has failed.
        max_wait_s: seconds after which what waits is gone in any case: no refusal asks for a longer wait.
        unit: what a token is, in the words of a refusal.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Answer]],
        *,
        batch_tokens: int,
        queue_tokens: int,
        observer: Observer,
        on_death: Callable[[], None],
        max_wait_s: float = math.inf,
        unit: str = "tokens",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._batch_tokens = batch_tokens
        self._queue_tokens = queue_tokens
        self._observer = observer
        self._on_death = on_death
        self._max_wait_s = max_wait_s
        self._unit = unit
        self._clock = clock
        self._changed = threading.Condition()
        self._queue: deque[_Unit[Item, Answer]] = deque()
        self._queued_tokens = 0
        self._unanswered: set[Job[Answer]] = set()
        # Makes the error afresh: one that is raised again and again keeps every traceback it ever had.
        self._refusal: Callable[[], ServiceError] | None = None
        # Of a batch: tokens and seconds apart, or a light batch would tell as much of the speed as a full one.
        self._usual_tokens = self._usual_s = 0.0
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait; those in the model's hands do not count."""
        return self._queued_tokens

    def start(self) -> None:
        self._thread.start()

    def check_room(self, num_tokens: int) -> None:
        """Refuse what `submit` would refuse.

        Raises:
            QueueFullError: no room for so many tokens.
            ClosedError: `close` was called.
            ModelDiedError: the thread is dead.
        """
        with self._changed:
            if self._refusal is not None:
                raise self._refusal()
            if self._queued_tokens and self._queued_tokens + num_tokens > self._queue_tokens:
                expected_s = self._queued_tokens * self._usual_s / self._usual_tokens if self._usual_tokens else 1.0
                wait_s = min(expected_s, self._max_wait_s)
                raise QueueFullError(num_tokens, self._queued_tokens, self._queue_tokens, wait_s, self._unit)

    def submit(self, items: Sequence[Item], lengths: Sequence[int]) -> Job[Answer]:
        """Admit all items or none.

        Raises:
            QueueFullError, ClosedError, ModelDiedError: as `check_room`.
        """
        job: Job[Answer] = Job(num_items=len(items), admitted_at=self._clock())
        units = [_Unit(job, index, *pair) for index, pair in enumerate(zip(items, lengths, strict=True))]
        with self._changed:
            self.check_room(sum(lengths))
            self._unanswered.add(job)
            self._queue.extend(units)
            self._count(sum(lengths))
            self._changed.notify()
        if not items:
            self._settle(job, Outcome(answers=[], queue_s=0.0, inference_s=0.0))
        return job

    def cancel(self, job: Job[Answer]) -> None:
        """Nobody waits for the job any more: forget what is left of it. Nothing happens to an answered job."""
        if self._settle(job, CancelledError()):
            self._observer.job_cancelled("queue" if job.started_at is None else "inference")

    def expire(self, job: Job[Answer]) -> None:
        """The job's deadline has come. A job that was begun is finished: only its own work lies before its end."""
        with self._changed:
            if job.started_at is None:
                self._settle(job, DeadlineError("the request waited to its deadline and was not begun"))

    async def answer(self, items: Sequence[Item], lengths: Sequence[int], deadline_s: float) -> Outcome[Answer]:
        """Submit and wait; a cancelled waiter takes its job out of the queue.

        Raises:
            DeadlineError: the job was not begun within `deadline_s`.
            QueueFullError, ClosedError, ModelDiedError: as `check_room`; the last two also while waiting.
        """
        job = self.submit(items, lengths)
        timer = asyncio.get_running_loop().call_later(deadline_s, self.expire, job)
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            timer.cancel()
            self.cancel(job)

    def close(self) -> None:
        """Admit nothing more; the thread ends when the queue is empty."""
        self._refuse(partial(ClosedError, "the service is shutting down"))

    def abort(self) -> None:
        """Admit nothing more, and fail every job that has no answer yet."""
        self.close()
        self._fail_all(partial(ClosedError, "the service shut down before this request was answered"))

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end after `close`; whether it came, or the thread was never begun."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            while batch := self._take_batch():
                self._answer_batch(batch)
        except BaseException as error:
            logger.critical("the model's thread died of %s", type(error).__name__)
            reason = partial(ModelDiedError, "the model's thread died")
            self._refuse(reason)
            self._fail_all(reason)
            self._on_death()

    def _take_batch(self) -> list[_Unit[Item, Answer]]:
        """The head of the queue, or nothing when closed and done."""
        with self._changed:
            while not self._queue and self._refusal is None:
                self._changed.wait()
            count = take_prefix([unit.num_tokens for unit in self._queue], self._batch_tokens)
            batch = [self._queue.popleft() for _ in range(count)]
            self._count(-sum(unit.num_tokens for unit in batch))
            now = self._clock()
            for unit in batch:
                if unit.job.started_at is None:
                    unit.job.started_at = now
                    self._observer.job_started(now - unit.job.admitted_at)
            return batch

    def _answer_batch(self, batch: Sequence[_Unit[Item, Answer]]) -> None:
        batch = [unit for unit in batch if not unit.job.future.done()]
        if not batch:
            return
        started_at = self._clock()
        try:
            answers = self._run([unit.item for unit in batch])
            if len(answers) != len(batch):
                raise InferenceError(f"the model gave {len(answers)} answers to {len(batch)} items")
        except Exception as error:
            self._split(batch, error)
        else:
            self._measure([unit.num_tokens for unit in batch], self._clock() - started_at)
            for unit, answer in zip(batch, answers, strict=True):
                self._deliver(unit, answer)

    def _split(self, batch: Sequence[_Unit[Item, Answer]], error: Exception) -> None:
        # The error's own words may quote a text, so only its kind is told.
        logger.warning("a batch of %d failed with %s", len(batch), type(error).__name__)
        if len(batch) == 1:
            self._deliver(batch[0], InferenceError(f"the model failed with {type(error).__name__}"))
            return
        middle = len(batch) // 2
        self._answer_batch(batch[:middle])
        self._answer_batch(batch[middle:])

    def _measure(self, lengths: Sequence[int], inference_s: float) -> None:
        with self._changed:
            share = _SMOOTHING if self._usual_tokens else 1.0
            self._usual_tokens += share * (sum(lengths) - self._usual_tokens)
            self._usual_s += share * (inference_s - self._usual_s)
        self._observer.batch_done(lengths, inference_s)

    def _deliver(self, unit: _Unit[Item, Answer], answer: Answer | InferenceError) -> None:
        job = unit.job
        job.answers[unit.index] = answer
        if len(job.answers) == job.num_items:
            assert job.started_at is not None
            inference_s, queue_s = self._clock() - job.started_at, job.started_at - job.admitted_at
            answers = [job.answers[index] for index in range(job.num_items)]
            self._settle(job, Outcome(answers=answers, queue_s=queue_s, inference_s=inference_s))

    def _settle(self, job: Job[Answer], outcome: Outcome[Answer] | BaseException) -> bool:
        """Answer the job unless it has its answer; whether it was this one. A failed job leaves the queue."""
        with self._changed:
            if job not in self._unanswered:
                return False
            self._unanswered.discard(job)
            if isinstance(outcome, BaseException):
                left = [unit for unit in self._queue if unit.job is job]
                self._queue = deque(unit for unit in self._queue if unit.job is not job)
                self._count(-sum(unit.num_tokens for unit in left))
        if isinstance(outcome, BaseException):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
        return True

    def _fail_all(self, reason: Callable[[], ServiceError]) -> None:
        with self._changed:
            jobs = list(self._unanswered)
            self._queue.clear()
            self._count(-self._queued_tokens)
        for job in jobs:
            self._settle(job, reason())

    def _refuse(self, reason: Callable[[], ServiceError]) -> None:
        with self._changed:
            self._refusal = reason
            self._changed.notify()

    def _count(self, num_tokens: int) -> None:
        self._queued_tokens += num_tokens
        self._observer.queue_changed(self._queued_tokens)
