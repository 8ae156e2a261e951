"""What requests of every kind go through: texts -> windows -> the model's queue -> the model's answer to each text.

Texts are encoded in a pool of threads beside the model's. Every text stands alone: its fault is its own, and its
neighbours have their answers. Knows no web, no torch, and not what the answers are.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from ner_service.errors import InferenceError, NerServiceError, TextTooLongError
from ner_service.serving.json_text import json_bytes
from ner_service.serving.registry import ServedModel, Vectors, WindowTask
from ner_service.serving.schemas import ModelName, TextItem, Timing, Usage
from ner_service.serving.settings import Settings
from ner_service.types import Window

if TYPE_CHECKING:
    from ner_service.decoding import Candidates

A = TypeVar("A")

_Encoded = list[Window] | NerServiceError


@dataclass(frozen=True, slots=True)
class ReadText(Generic[A]):
    """The windows of a text, and the model's answer to each."""

    windows: list[Window]
    answers: list[A]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Generic[A]):
    """A request's texts as the model read them, each with its own error if it has one, and what that cost."""

    model: ServedModel
    items: list[TextItem]
    texts: list[ReadText[A] | NerServiceError]
    num_tokens: int
    num_windows: int
    queue_s: float
    inference_s: float

    @property
    def model_name(self) -> ModelName:
        return {"name": self.model.manifest.name, "version": self.model.manifest.version}

    @property
    def usage(self) -> Usage:
        num_characters = sum(len(item.text) for item in self.items)
        return {"characters": num_characters, "tokens": self.num_tokens, "windows": self.num_windows}

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
    """Reads the texts of many requests at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="text")

    async def find(
        self, model: ServedModel, items: list[TextItem], cutoffs: tuple[float, ...], *, one_window: bool
    ) -> Reading[Candidates]:
        """The candidates of every window; with `one_window`, a text that needs more is an error.

        Raises:
            QueueFullError, DeadlineError, ClosedError, ModelDiedError: the request as a whole has no answer.
        """
        return cast("Reading[Candidates]", await self._read(model, items, cutoffs, one_window))

    async def embed(self, model: ServedModel, items: list[TextItem]) -> Reading[Vectors]:
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
            num_tokens=reading.num_tokens,
            queue_s=reading.queue_s,
            inference_s=reading.inference_s,
        )

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _read(
        self, model: ServedModel, items: list[TextItem], cutoffs: tuple[float, ...] | None, one_window: bool
    ) -> Reading[Candidates | Vectors]:
        # Overload is refused before anything is done for the request.
        model.batcher.check_room(1)
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(self._threads, self._encode, model, items, one_window)
        tasks = [WindowTask(window.encoding, cutoffs) for text in encoded if isinstance(text, list) for window in text]
        lengths = [len(task.encoding) for task in tasks]
        outcome = await model.batcher.answer(tasks, lengths, self._settings.deadline_s)
        stream = iter(outcome.answers)
        return Reading(
            model=model,
            items=items,
            texts=[_read_text(text, stream) if isinstance(text, list) else text for text in encoded],
            num_tokens=sum(lengths),
            num_windows=len(tasks),
            queue_s=outcome.queue_s,
            inference_s=outcome.inference_s,
        )

    def _encode(self, model: ServedModel, items: list[TextItem], one_window: bool) -> list[_Encoded]:
        return [self._encode_text(model, item.text, one_window) for item in items]

    def _encode_text(self, model: ServedModel, text: str, one_window: bool) -> _Encoded:
        if len(text) > self._settings.max_characters:
            return TextTooLongError(f"found {len(text)} characters, expected at most {self._settings.max_characters}")
        try:
            windows = model.recognizer.encode(text)
        except NerServiceError as error:
            return error
        if one_window and len(windows) > 1:
            limit = model.manifest.window.max_tokens
            return TextTooLongError(f"the text needs {len(windows)} windows, expected one of at most {limit} tokens")
        return windows


def _read_text(windows: list[Window], stream: Iterator[A | InferenceError]) -> ReadText[A] | InferenceError:
    """A text with as many answers as it has windows, or the first error among them."""
    found = [next(stream) for _ in windows]
    answers = [answer for answer in found if not isinstance(answer, InferenceError)]
    errors = [answer for answer in found if isinstance(answer, InferenceError)]
    return errors[0] if errors else ReadText(windows, answers)
