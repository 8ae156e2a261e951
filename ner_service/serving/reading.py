"""What requests of every kind go through: items -> windows -> the model's queue -> the model's answer to each item.

Images become pages first, in a thread of theirs. Texts and pages are encoded in a pool of threads beside the model's.
Every item stands alone: its fault is its own, and its neighbours have their answers. Knows no web, no torch, and not
what the answers are.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from ner_service.errors import InferenceError, NerServiceError, TextTooLongError
from ner_service.serving.batcher import DeadlineError, Outcome, QueueFullError
from ner_service.serving.contents import Content, ordered_page, page_of_image
from ner_service.serving.images import ImageAnswer, ImageReader, ImagesOffError
from ner_service.serving.items import ImageItem, Item, PageItem, TextItem
from ner_service.serving.json_text import json_bytes
from ner_service.serving.registry import ServedModel, Vectors, WindowTask
from ner_service.serving.schemas import ModelName, Timing, Usage
from ner_service.serving.settings import Settings
from ner_service.text.reading_order import OrderedPage
from ner_service.types import Page, Window

if TYPE_CHECKING:
    from ner_service.decoding import Candidates

A = TypeVar("A")

_IMAGES_OFF = "found an image, expected a text or a page with words and boxes: this service reads no images (NER_OCR)"

CHARACTERS_A_TOKEN = 8
"""More than tokens of real text have: inputs that fit the model's queue are never too long for the line before it."""

RETRY_AFTER_S = 1.0
"""Seconds that whoever finds the line full is told to wait; encoding is quick."""

_ReadImages = Iterator[Page | NerServiceError]
_NO_IMAGES: Outcome[ImageAnswer] = Outcome(answers=[], queue_s=0.0, inference_s=0.0)


@dataclass(frozen=True, slots=True)
class ReadItem(Generic[A]):
    """What the model read, the windows of it, and the model's answer to each."""

    content: Content
    windows: list[Window]
    answers: list[A]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """What an item holds, and its windows; the error in the place of what there is not."""

    content: Content | NerServiceError
    windows: list[Window] | NerServiceError

    @property
    def num_characters(self) -> int:
        match self.content:
            case str():
                return len(self.content)
            case OrderedPage():
                return len(self.content.page.text)
            case _:
                return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Generic[A]):
    """A request's items as the model read them, each with its own error if it has one, and what that cost."""

    model: ServedModel
    items: Sequence[Item]
    found: list[ReadItem[A] | NerServiceError]
    usage: Usage
    queue_s: float
    inference_s: float

    @property
    def model_name(self) -> ModelName:
        return {"name": self.model.manifest.name, "version": self.model.manifest.version}

    def timing(self, received_at: float) -> Timing:
        """Of a request whose last byte came at `received_at`, by `time.perf_counter`, and which is answered now."""
        return {
            "queue": round(self.queue_s * 1000, 3),
            "infer": round(self.inference_s * 1000, 3),
            "total": round((time.perf_counter() - received_at) * 1000, 3),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A reply, and what it cost."""

    body: bytes
    num_tokens: int
    queue_s: float
    inference_s: float


class Reader:
    """Reads the items of many requests at a time; those that are images only if it is given who reads them."""

    def __init__(self, settings: Settings, images: ImageReader | None) -> None:
        self._settings = settings
        self._images = images
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="text")
        self._most_characters = CHARACTERS_A_TOKEN * settings.queue_tokens
        self._characters_in_line = 0

    async def find(
        self, model: ServedModel, items: Sequence[Item], cutoffs: tuple[float, ...], *, one_window: bool
    ) -> Reading[Candidates]:
        """The candidates of every window; with `one_window`, an item that needs more is an error.

        Raises:
            QueueFullError, DeadlineError, ClosedError, ModelDiedError: the request as a whole has no answer.
        """
        return cast("Reading[Candidates]", await self._read(model, items, cutoffs, one_window))

    async def embed(self, model: ServedModel, items: Sequence[Item]) -> Reading[Vectors]:
        """The unit vector of every window.

        Raises:
            QueueFullError, DeadlineError, ClosedError, ModelDiedError: the request as a whole has no answer.
        """
        return cast("Reading[Vectors]", await self._read(model, items, None, False))

    async def answer(self, reading: Reading[A], write: Callable[[], object]) -> Answer:
        """The reply to a reading: what `write` gives, as JSON."""
        loop = asyncio.get_running_loop()
        return Answer(
            body=await loop.run_in_executor(self._threads, lambda: json_bytes(write())),
            num_tokens=reading.usage["tokens"],
            queue_s=reading.queue_s,
            inference_s=reading.inference_s,
        )

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _read(
        self, model: ServedModel, items: Sequence[Item], cutoffs: tuple[float, ...] | None, one_window: bool
    ) -> Reading[Candidates | Vectors]:
        # Overload is refused before anything is done for the request.
        model.batcher.check_room(1)
        images = await self._read_images(items)
        # One deadline bounds all the waiting of a request; what is worked on for it does not count.
        wait_s = self._settings.deadline_s - images.queue_s
        encoded, waited_s = await self._encode(model, items, iter(images.answers), one_window, wait_s)
        windows = [window for each in encoded if isinstance(each.windows, list) for window in each.windows]
        lengths = [len(window.encoding) for window in windows]
        tasks = [WindowTask(window.encoding, cutoffs) for window in windows]
        outcome = await model.batcher.answer(tasks, lengths, wait_s - waited_s)
        stream = iter(outcome.answers)
        num_characters = sum(each.num_characters for each in encoded)
        return Reading(
            model=model,
            items=items,
            found=[_read_item(each, stream) for each in encoded],
            usage={"characters": num_characters, "tokens": sum(lengths), "windows": len(windows)},
            queue_s=outcome.queue_s,
            inference_s=outcome.inference_s,
        )

    async def _read_images(self, items: Sequence[Item]) -> Outcome[ImageAnswer]:
        """The page or the error of every image among the items, in their order."""
        images = [item.image for item in items if isinstance(item, ImageItem)]
        if self._images is None or not images:
            return _NO_IMAGES
        return await self._images.read(images)

    async def _encode(
        self, model: ServedModel, items: Sequence[Item], images: _ReadImages, one_window: bool, wait_s: float
    ) -> tuple[list[_Encoded], float]:
        """Every item's windows, and the seconds that the first waited for a thread.

        An item that was begun is finished: the rest is left when the client or the time goes.

        Raises:
            QueueFullError: too much is being encoded, or waits for that, already.
            DeadlineError: not all were begun within `wait_s`.
        """
        loop = asyncio.get_running_loop()
        given_up = threading.Event()
        timer = loop.call_later(wait_s, given_up.set)
        admitted_at = time.monotonic()

        def encode() -> tuple[list[_Encoded], float]:
            waited_s = time.monotonic() - admitted_at
            encoded = [self._encode_item(model, item, images, one_window) for item in items if not given_up.is_set()]
            return encoded, waited_s

        try:
            with self._in_line(sum(map(_num_characters, items))):
                encoded, waited_s = await loop.run_in_executor(self._threads, encode)
        finally:
            timer.cancel()
            given_up.set()
        if len(encoded) < len(items):
            raise DeadlineError(f"at the deadline {len(encoded)} of {len(items)} inputs were ready for the model")
        return encoded, waited_s

    @contextmanager
    def _in_line(self, num_characters: int) -> Iterator[None]:
        """Bounds what the threads are given, as the batcher bounds what the model is; what comes alone always fits."""
        before = self._characters_in_line
        if before and before + num_characters > self._most_characters:
            raise QueueFullError(num_characters, before, self._most_characters, RETRY_AFTER_S, "characters")
        self._characters_in_line += num_characters
        try:
            yield
        finally:
            self._characters_in_line -= num_characters

    def _encode_item(self, model: ServedModel, item: Item, images: _ReadImages, one_window: bool) -> _Encoded:
        content: Content | NerServiceError
        try:
            content = self._content(item, images)
        except NerServiceError as error:
            return _Encoded(error, error)
        try:
            return _Encoded(content, self._windows(model, content, one_window))
        except NerServiceError as error:
            return _Encoded(content, error)

    def _content(self, item: Item, images: _ReadImages) -> Content:
        match item:
            case TextItem():
                return item.text
            case PageItem():
                return ordered_page(item, self._settings.max_words)
            case ImageItem():
                if self._images is None:
                    raise ImagesOffError(_IMAGES_OFF)
                page = next(images)
                if isinstance(page, NerServiceError):
                    raise page
                return page_of_image(page, self._settings.max_words)

    def _windows(self, model: ServedModel, content: Content, one_window: bool) -> list[Window]:
        read = content if isinstance(content, str) else content.page
        num_characters = len(read if isinstance(read, str) else read.text)
        if num_characters > self._settings.max_characters:
            raise TextTooLongError(
                f"found {num_characters} characters, expected at most {self._settings.max_characters}"
            )
        windows = model.recognizer.encode(read)
        if one_window and len(windows) > 1:
            limit = model.manifest.window.max_tokens
            raise TextTooLongError(f"found a need of {len(windows)} windows, expected one of at most {limit} tokens")
        return windows


def _num_characters(item: Item) -> int:
    """Of what is to be encoded; the words of a page have not been looked at yet, and those of an image are few."""
    match item:
        case TextItem():
            return len(item.text)
        case PageItem(words=list() as words):
            return sum(len(word) for word in words if isinstance(word, str))
        case _:
            return 0


def _read_item(encoded: _Encoded, stream: Iterator[A | InferenceError]) -> ReadItem[A] | NerServiceError:
    """An item with as many answers as it has windows, or the first error among them."""
    content, windows = encoded.content, encoded.windows
    if isinstance(content, NerServiceError):
        return content
    if isinstance(windows, NerServiceError):
        return windows
    found = [next(stream) for _ in windows]
    answers = [answer for answer in found if not isinstance(answer, InferenceError)]
    errors = [answer for answer in found if isinstance(answer, InferenceError)]
    return errors[0] if errors else ReadItem(content, windows, answers)
