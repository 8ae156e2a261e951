from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError

import pytest

from ner_service.errors import InferenceError
from ner_service.serving.batcher import (
    ClosedError,
    DeadlineError,
    ModelDiedError,
    QueueFullError,
)
from tests.serving.batcher_rig import DEADLY, POISON, Rig, answers


def test_answers_come_in_the_order_of_items() -> None:
    rig = Rig()
    one, two, none = rig.submit(1, 2, 3), rig.submit(4), rig.submit()
    rig.finish()
    assert [answers(one), answers(two), answers(none)] == [[2, 4, 6], [8], []]


def test_batches_are_cut_by_tokens_first_come_first_served() -> None:
    rig = Rig(batch_tokens=10)
    jobs = [rig.submit(1, 2, length=4), rig.submit(3, length=4), rig.submit(4, length=50), rig.submit(5, 6, length=5)]
    rig.finish()
    assert rig.model.calls == [[1, 2], [3], [4], [5, 6]]
    assert rig.log.batches == [[4, 4], [4], [50], [5, 5]]
    assert all(job.future.done() for job in jobs)


def test_the_model_is_never_waited_for_by_a_timer() -> None:
    rig = Rig()
    rig.batcher.start()
    assert answers(rig.submit(1)) == [2]
    rig.model.gate.clear()
    rig.model.entered.clear()
    first = rig.submit(1)
    assert rig.model.entered.wait(60)
    rest = [rig.submit(item) for item in range(5)]
    rig.model.gate.set()
    assert [answers(job) for job in [first, *rest]] == [[2], [0], [2], [4], [6], [8]]
    assert rig.model.calls[1:] == [[1], [0, 1, 2, 3, 4]]
    rig.batcher.close()


def test_a_job_is_admitted_whole_or_not_at_all() -> None:
    rig = Rig(queue_tokens=10)
    rig.submit(1, 2, length=4)
    with pytest.raises(QueueFullError, match="9 tokens do not fit beside 8 waiting ones, the limit is 10"):
        rig.submit(1, 2, 3, length=3)
    assert rig.batcher.queued_tokens == 8
    rig.submit(1, length=2)
    assert rig.batcher.queued_tokens == 10
    rig.finish()
    assert rig.model.calls == [[1, 2, 1]]


def test_a_job_larger_than_the_queue_is_admitted_when_nothing_waits() -> None:
    rig = Rig(queue_tokens=10)
    large = rig.submit(1, length=1000)
    with pytest.raises(QueueFullError):
        rig.submit(2)
    rig.finish()
    assert answers(large) == [2]


def test_retry_after_is_what_waits_over_the_measured_rate() -> None:
    rig = Rig(queue_tokens=100)
    rig.batcher.start()
    # The model's clock moves one second a call: 20 tokens a second.
    answers(rig.submit(1, length=20))
    rig.model.gate.clear()
    rig.model.entered.clear()
    running = rig.submit(1, length=7)
    assert rig.model.entered.wait(60)
    rig.submit(2, length=60)
    with pytest.raises(QueueFullError) as refusal:
        rig.submit(3, length=60)
    assert refusal.value.retry_after_s == 60 / 20
    rig.model.gate.set()
    assert answers(running) == [2]
    rig.batcher.close()


@pytest.mark.parametrize(("max_wait_s", "told_s"), [(30.0, 1.5), (1.0, 1.0)])
def test_light_batches_tell_little_of_the_rate(max_wait_s: float, told_s: float) -> None:
    """Nine of one token and then one of 1,009, a second each: 120 wait for 1.2 seconds and more, not for 120."""
    rig = Rig(batch_tokens=2000, queue_tokens=200, max_wait_s=max_wait_s)
    rig.batcher.start()
    for number in range(9):
        answers(rig.submit(number, length=1))
    answers(rig.submit(1, length=1009))
    rig.model.gate.clear()
    rig.model.entered.clear()
    running = rig.submit(1, length=1)
    assert rig.model.entered.wait(60)
    rig.submit(2, length=120)
    with pytest.raises(QueueFullError) as refusal:
        rig.submit(3, length=120)
    assert refusal.value.retry_after_s == pytest.approx(min(120 / (1 + 0.2 * 1008), max_wait_s))
    assert refusal.value.retry_after_s <= told_s
    rig.model.gate.set()
    assert answers(running) == [2]
    rig.batcher.close()


def test_waiting_and_working_are_told() -> None:
    rig = Rig(batch_tokens=1)
    rig.submit(1)
    late = rig.submit(2, 3)
    rig.finish()
    outcome = late.future.result()
    assert (outcome.queue_s, outcome.inference_s) == (1.0, 2.0)
    assert rig.log.waits == [0.0, 1.0]


@pytest.mark.parametrize("position", range(7))
def test_only_the_poison_fails(position: int) -> None:
    rig = Rig()
    items = list(range(7))
    items[position] = POISON
    one, other = rig.submit(*items[:3]), rig.submit(*items[3:])
    rig.finish()
    found = answers(one) + answers(other)
    assert isinstance(found[position], InferenceError)
    assert str(found[position]) == "the model failed with ValueError"
    assert [answer for index, answer in enumerate(found) if index != position] == [
        2 * item for item in items if item != POISON
    ]
    # 7 halves in at most 3 steps; the loop lives on.
    assert len(rig.model.calls) <= 1 + 2 * 3


@pytest.mark.parametrize("wrong", [[], [1, 2, 3]])
def test_another_number_of_answers_than_items_is_an_error(wrong: list[int]) -> None:
    rig = Rig(run=lambda items: wrong)
    job = rig.submit(1, 2)
    rig.finish()
    assert [str(answer) for answer in answers(job)] == ["the model failed with InferenceError"] * 2


def test_a_cancelled_job_leaves_the_queue_at_once() -> None:
    rig = Rig(queue_tokens=10)
    gone, kept = rig.submit(1, 2, length=4), rig.submit(3)
    rig.batcher.cancel(gone)
    assert rig.batcher.queued_tokens == rig.log.queued_tokens == 1
    rig.batcher.cancel(gone)
    rig.finish()
    assert rig.model.calls == [[3]]
    assert answers(kept) == [6]
    with pytest.raises(CancelledError):
        gone.future.result()
    assert rig.log.cancelled == ["queue"]


def test_a_job_cancelled_while_the_model_works_on_it_is_dropped_and_its_neighbour_is_not() -> None:
    rig = Rig(batch_tokens=2)
    rig.model.gate.clear()
    gone = rig.submit(1, 2, 3, 4)
    rig.batcher.start()
    assert rig.model.entered.wait(60)
    kept = rig.submit(5)
    rig.batcher.cancel(gone)
    rig.model.gate.set()
    assert answers(kept) == [10]
    assert rig.model.calls == [[1, 2], [5]]
    assert rig.log.cancelled == ["inference"]
    rig.batcher.close()


def test_an_expired_job_fails_unless_it_was_begun() -> None:
    rig = Rig(batch_tokens=1)
    rig.model.gate.clear()
    begun = rig.submit(1, 2)
    rig.batcher.start()
    assert rig.model.entered.wait(60)
    waiting = rig.submit(3)
    rig.batcher.expire(begun)
    rig.batcher.expire(waiting)
    assert rig.batcher.queued_tokens == 1
    rig.model.gate.set()
    assert answers(begun) == [2, 4]
    with pytest.raises(DeadlineError):
        answers(waiting)
    rig.batcher.expire(begun)
    rig.batcher.close()


def test_close_answers_what_was_admitted_and_admits_no_more() -> None:
    rig = Rig()
    job = rig.submit(1)
    rig.batcher.close()
    with pytest.raises(ClosedError):
        rig.submit(2)
    rig.batcher.start()
    assert rig.batcher.join(60)
    assert answers(job) == [2]


def test_abort_fails_what_has_no_answer() -> None:
    rig = Rig(batch_tokens=1)
    rig.model.gate.clear()
    running, waiting = rig.submit(1), rig.submit(2)
    rig.batcher.start()
    assert rig.model.entered.wait(60)
    rig.batcher.abort()
    for job in (running, waiting):
        with pytest.raises(ClosedError):
            answers(job)
    rig.model.gate.set()
    assert rig.batcher.join(60)
    assert rig.batcher.queued_tokens == 0


def test_when_the_thread_dies_every_job_fails_and_somebody_is_told() -> None:
    rig = Rig(batch_tokens=2)
    jobs = [rig.submit(1, DEADLY, 2, 3), rig.submit(4)]
    rig.batcher.start()
    assert rig.deaths.acquire(timeout=60)
    for job in jobs:
        with pytest.raises(ModelDiedError):
            answers(job)
    for call in (rig.submit, lambda: rig.batcher.check_room(1)):
        with pytest.raises(ModelDiedError):
            call()
    assert rig.batcher.join(60)
    assert not rig.deaths.acquire(blocking=False)


def test_a_waiter_gets_its_answer_the_deadline_or_its_cancellation() -> None:
    async def wait() -> None:
        rig = Rig()
        with pytest.raises(DeadlineError):
            await rig.batcher.answer([1], [1], deadline_s=0.0)
        task = asyncio.create_task(rig.batcher.answer([2], [1], deadline_s=60.0))
        await asyncio.sleep(0)
        assert rig.batcher.queued_tokens == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert rig.batcher.queued_tokens == 0
        assert rig.log.cancelled == ["queue"]
        rig.batcher.start()
        assert (await rig.batcher.answer([3], [1], deadline_s=60.0)).answers == [6]
        rig.batcher.close()

    asyncio.run(wait())


def test_an_answer_for_a_loop_that_is_gone_harms_nobody() -> None:
    rig = Rig()

    async def leave() -> None:
        task = asyncio.create_task(rig.batcher.answer([1], [1], deadline_s=60.0))
        await asyncio.sleep(0)
        del task

    asyncio.run(leave())
    job = rig.submit(2)
    rig.finish()
    assert answers(job) == [4]
