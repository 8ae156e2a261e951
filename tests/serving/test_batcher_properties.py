"""The batcher under anything that may happen to it, in one thread and in many."""

from __future__ import annotations

from concurrent.futures import CancelledError, ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ner_service.errors import InferenceError
from ner_service.serving.batcher import ClosedError, DeadlineError, Job, ModelDiedError, QueueFullError
from tests.serving.batcher_rig import DEADLY, POISON, Rig, answers


class Queue(RuleBasedStateMachine):
    """What happens to a queue while the model is busy, against a plain list; then all of it is worked off."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(batch_tokens=10, queue_tokens=30)
        self.waiting: list[tuple[Job[int], list[int], int]] = []
        self.ended: list[tuple[Job[int], type[BaseException]]] = []

    @rule(items=st.lists(st.sampled_from([1, 2, 3, POISON]), min_size=1, max_size=4), length=st.integers(1, 15))
    def submit(self, items: list[int], length: int) -> None:
        tokens = sum(length * len(items) for _, items, length in self.waiting)
        try:
            job = self.rig.submit(*items, length=length)
        except QueueFullError:
            assert tokens > 0
            assert tokens + length * len(items) > 30
        else:
            assert not tokens or tokens + length * len(items) <= 30
            self.waiting.append((job, items, length))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), error=st.sampled_from([CancelledError, DeadlineError]))
    def give_up(self, data: st.DataObject, error: type[BaseException]) -> None:
        job, *_ = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        (self.rig.batcher.cancel if error is CancelledError else self.rig.batcher.expire)(job)
        self.ended.append((job, error))

    @invariant()
    def tokens_are_counted(self) -> None:
        expected = sum(length * len(items) for _, items, length in self.waiting)
        assert self.rig.batcher.queued_tokens == self.rig.log.queued_tokens == expected

    @invariant()
    def only_those_that_gave_up_have_ended(self) -> None:
        assert all(type(job.future.exception(timeout=0)) is error for job, error in self.ended)
        assert not any(job.future.done() for job, *_ in self.waiting)

    def teardown(self) -> None:
        self.rig.finish()
        for job, items, _ in self.waiting:
            found = answers(job)
            assert len(found) == len(items)
            for item, answer in zip(items, found, strict=True):
                assert isinstance(answer, InferenceError) if item == POISON else answer == 2 * item
        assert all(len(batch) == 1 or sum(batch) <= 10 for batch in self.rig.log.batches)
        assert self.rig.batcher.queued_tokens == 0


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


_CLIENT = st.tuples(
    st.lists(st.sampled_from([1, 2, 3, 4, POISON]), min_size=1, max_size=5),
    st.integers(1, 12),
    st.sampled_from(["wait", "wait", "wait", "cancel", "expire"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_CLIENT, min_size=1, max_size=24), st.sampled_from(["close", "abort", "die"]))
def test_under_many_clients_every_job_is_answered_exactly_once(
    clients: list[tuple[list[int], int, str]], end: str
) -> None:
    rig = Rig(batch_tokens=16, queue_tokens=64)
    rig.batcher.start()

    def ask(items: list[int], length: int, ending: str) -> list[int | InferenceError] | BaseException:
        settled: list[object] = []
        try:
            job = rig.submit(*items, length=length)
            job.future.add_done_callback(settled.append)
            if ending != "wait":
                getattr(rig.batcher, ending)(job)
            return job.future.result(timeout=60).answers
        except (QueueFullError, DeadlineError, ClosedError, ModelDiedError, CancelledError) as error:
            return error
        finally:
            assert len(settled) <= 1

    with ThreadPoolExecutor(8) as threads:
        pending = [threads.submit(ask, *client) for client in clients]
        if end == "die":
            try:
                rig.submit(DEADLY)
            except QueueFullError:
                rig.batcher.close()
        else:
            getattr(rig.batcher, end)()
        found = [each.result(timeout=60) for each in pending]
    assert rig.batcher.join(60)
    for (items, _, ending), outcome in zip(clients, found, strict=True):
        if isinstance(outcome, BaseException):
            allowed = {"wait": (), "cancel": (CancelledError,), "expire": (DeadlineError,)}[ending]
            last = {"close": (ClosedError,), "abort": (ClosedError,), "die": (ModelDiedError, ClosedError)}[end]
            assert isinstance(outcome, (QueueFullError, *allowed, *last))
        else:
            assert [None if isinstance(answer, InferenceError) else answer for answer in outcome] == [
                None if item == POISON else 2 * item for item in items
            ]
    assert rig.batcher.queued_tokens == 0
