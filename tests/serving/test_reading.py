"""Inputs on their way to the model's queue: nobody waits for a thread, and no thread works for nobody."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ner_service.serving import reading
from ner_service.serving.batcher import DeadlineError, Outcome, QueueFullError
from ner_service.serving.items import PageItem, TextItem
from ner_service.serving.json_text import parse_json
from ner_service.serving.reading import Reader
from ner_service.serving.settings import Settings
from ner_service.types import Page, Window
from tests.serving.conftest import Service
from tests.serving.fakes import FakeRecognizer

ITEMS = [TextItem(text=text) for text in ("Ada", "Bob", "Cleo")]
DEADLINE_S = 0.05


class Held:
    """A reader whose threads stop at every text until `go` is set; `encoded` are the texts they came to."""

    def __init__(
        self, service: Service, monkeypatch: pytest.MonkeyPatch, deadline_s: float, queue_tokens: int = 1000
    ) -> None:
        self.encoded: list[str | Page] = []
        self.entered = asyncio.Event()
        self.go = threading.Event()
        self.loop = asyncio.get_running_loop()
        settings = Settings(model=Path("unused"), deadline_s=deadline_s, queue_tokens=queue_tokens)
        self.reader = Reader(settings, None)
        encode = FakeRecognizer.encode

        def held(recognizer: FakeRecognizer, content: str | Page) -> list[Window]:
            self.encoded.append(content)
            self.loop.call_soon_threadsafe(self.entered.set)
            assert self.go.wait(120)
            return encode(recognizer, content)

        monkeypatch.setattr(FakeRecognizer, "encode", held)
        self.task = asyncio.ensure_future(self.reader.find(service.model, ITEMS, (0.0,) * 3, one_window=False))

    def finish(self) -> None:
        self.go.set()
        self.reader._threads.shutdown()


def test_what_is_not_encoded_at_the_deadline_is_left(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> list[str | Page]:
        held = Held(service, monkeypatch, DEADLINE_S)
        await held.entered.wait()
        # A timer that is set later for the same time goes off later: the deadline has come by then.
        held.loop.call_later(DEADLINE_S, held.go.set)
        with pytest.raises(DeadlineError, match="at the deadline 1 of 3 inputs were ready for the model"):
            await held.task
        held.finish()
        return held.encoded

    assert asyncio.run(ask()) == ["Ada"]


def test_what_is_not_encoded_when_the_client_goes_is_left(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> list[str | Page]:
        held = Held(service, monkeypatch, 600.0)
        await held.entered.wait()
        held.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held.task
        held.finish()
        return held.encoded

    assert asyncio.run(ask()) == ["Ada"]


def test_the_wait_for_a_thread_is_part_of_the_deadline(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's queue has what is left of it."""
    waits: list[float] = []
    answer = service.model.batcher.answer

    async def spy(items: Any, lengths: Any, deadline_s: float) -> Outcome[Any]:
        waits.append(deadline_s)
        return await answer(items, lengths, deadline_s)

    monkeypatch.setattr(service.model.batcher, "answer", spy)

    async def ask() -> None:
        reader = Reader(Settings(model=Path("unused"), deadline_s=600.0), None)
        go = threading.Event()
        loop = asyncio.get_running_loop()
        for _ in range(reader._threads._max_workers):
            reader._threads.submit(go.wait, 120)
        loop.call_later(0.2, go.set)
        await reader.find(service.model, ITEMS, (0.0,) * 3, one_window=False)
        reader._threads.shutdown()

    asyncio.run(ask())
    [wait_s] = waits
    assert 480 < wait_s <= 599.9


@pytest.mark.parametrize(("more", "fits"), [(TextItem(text="1234567"), False), (TextItem(text="123456"), True)])
def test_what_waits_for_a_thread_is_bounded(
    service: Service, monkeypatch: pytest.MonkeyPatch, more: TextItem, fits: bool
) -> None:
    """Beside the 10 that are in line no more than 9 fit; what comes alone always does."""
    monkeypatch.setattr(reading, "CHARACTERS_A_TOKEN", 1)

    async def ask() -> None:
        held = Held(service, monkeypatch, 600.0, queue_tokens=19)
        await held.entered.wait()
        page = PageItem(words=["Ada", 7], boxes=[], page=[1, 1])
        late = asyncio.ensure_future(held.reader.find(service.model, [more, page], (0.0,) * 3, one_window=False))
        await asyncio.sleep(0)
        held.go.set()
        if fits:
            await late
        else:
            said = "10 characters do not fit beside 10 waiting ones, the limit is 19"
            with pytest.raises(QueueFullError, match=said):
                await late
        await held.task
        long = TextItem(text="x" * 40)
        assert len((await held.reader.find(service.model, [long], (0.0,) * 3, one_window=False)).found) == 1
        held.finish()

    asyncio.run(ask())


def test_whoever_waits_has_every_input_encoded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin of the two above."""

    async def ask() -> list[str | Page]:
        held = Held(service, monkeypatch, 600.0)
        held.go.set()
        assert len((await held.task).found) == 3
        held.finish()
        return held.encoded

    assert asyncio.run(ask()) == ["Ada", "Bob", "Cleo"]


@pytest.mark.parametrize(("num_words", "beside"), [(10, False), (20_000, True)])
def test_a_long_body_is_parsed_beside_the_loop(
    service: Service, monkeypatch: pytest.MonkeyPatch, num_words: int, beside: bool
) -> None:
    threads: list[bool] = []

    def spy(body: bytes) -> object:
        threads.append(_is_beside_the_loop())
        return parse_json(body)

    monkeypatch.setattr("ner_service.serving.routes.parse_json", spy)
    page = {"words": ["Ada"] * num_words, "boxes": [[0, 0, 1, 1]] * num_words, "page": [1, 1]}
    (result,) = service.post("/v1/extract", {"inputs": page}).json()["results"]
    assert result["status"] == ("error" if num_words > 10_000 else "ok")
    assert threads == [beside]


def test_a_parser_in_a_thread_lets_others_in_at_every_number() -> None:
    """The interpreter gives way between Python's own instructions alone, and all else of the parser is C."""
    boxes = [[1, 2.5, 3, 4e1]] * 50
    calls = _python_calls(lambda: parse_json(json.dumps(boxes).encode()))
    assert calls >= 4 * len(boxes)
    assert parse_json(json.dumps(boxes).encode()) == boxes


def _is_beside_the_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def _python_calls(do: Callable[[], object]) -> int:
    calls = 0

    def count(_: FrameType, event: str, __: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        do()
    finally:
        sys.setprofile(before)
    return calls
