"""A request's walk: texts -> windows -> the model's queue -> entities -> reply. Knows no web and no torch.

Texts are encoded and decoded in a pool of threads beside the model's. Every text stands alone: its fault is its own
result, and its neighbours have theirs.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ner_service.errors import InferenceError, NerServiceError, TextTooLongError
from ner_service.replies import entity_replies
from ner_service.serving.json_text import json_bytes
from ner_service.serving.metrics import Metrics
from ner_service.serving.problems import item_problem
from ner_service.serving.registry import ServedModel, WindowTask
from ner_service.serving.schemas import ErrorResult, ExtractReply, ExtractRequest, OkResult, TextItem
from ner_service.serving.settings import Settings
from ner_service.text.offsets import OffsetConverter
from ner_service.types import Window

if TYPE_CHECKING:
    from ner_service.decoding import Candidates

_Encoded = list[Window] | NerServiceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """A reply and what it cost."""

    body: bytes
    num_tokens: int
    queue_s: float
    inference_s: float


class Extractor:
    """Answers requests, many at a time."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="text")

    async def extract(self, model: ServedModel, request: ExtractRequest, received_at: float) -> Extraction:
        """Answer a request whose last byte came at `received_at`, by `time.perf_counter`.

        Raises:
            QueueFullError, DeadlineError, ClosedError, ModelDiedError: the request as a whole has no answer.
        """
        # Overload is refused before anything is done for the request.
        model.batcher.check_room(1)
        loop = asyncio.get_running_loop()
        texts = await loop.run_in_executor(self._threads, self._encode, model, request)
        cutoffs = model.recognizer.cutoffs(request.options)
        windows = [window for text in texts if isinstance(text, list) for window in text]
        tasks = [WindowTask(window.encoding, cutoffs) for window in windows]
        lengths = [len(window.encoding) for window in windows]
        outcome = await model.batcher.answer(tasks, lengths, self._settings.deadline_s)
        results = await loop.run_in_executor(self._threads, self._results, model, request, texts, outcome.answers)
        reply: ExtractReply = {
            "model": {"name": model.manifest.name, "version": model.manifest.version},
            "offset_unit": request.offset_unit,
            "results": results,
            "usage": {
                "characters": sum(len(item.text) for item in request.items),
                "tokens": sum(lengths),
                "windows": len(windows),
            },
            "timing_ms": {
                "queue": round(outcome.queue_s * 1000, 3),
                "infer": round(outcome.inference_s * 1000, 3),
                "total": round((time.perf_counter() - received_at) * 1000, 3),
            },
        }
        return Extraction(
            body=await loop.run_in_executor(self._threads, json_bytes, reply),
            num_tokens=sum(lengths),
            queue_s=outcome.queue_s,
            inference_s=outcome.inference_s,
        )

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _encode(self, model: ServedModel, request: ExtractRequest) -> list[_Encoded]:
        return [self._encode_text(model, request, item.text) for item in request.items]

    def _encode_text(self, model: ServedModel, request: ExtractRequest, text: str) -> _Encoded:
        if len(text) > self._settings.max_characters:
            return TextTooLongError(f"found {len(text)} characters, expected at most {self._settings.max_characters}")
        try:
            windows = model.recognizer.encode(text)
        except NerServiceError as error:
            return error
        if request.long_text == "error" and len(windows) > 1:
            limit = model.manifest.window.max_tokens
            return TextTooLongError(f"the text needs {len(windows)} windows, expected one of at most {limit} tokens")
        return windows

    def _results(
        self,
        model: ServedModel,
        request: ExtractRequest,
        texts: Sequence[_Encoded],
        answers: Sequence[Candidates | InferenceError],
    ) -> list[OkResult | ErrorResult]:
        stream = iter(answers)
        return [
            self._result(model, request, item, text, stream) for item, text in zip(request.items, texts, strict=True)
        ]

    def _result(
        self,
        model: ServedModel,
        request: ExtractRequest,
        item: TextItem,
        text: _Encoded,
        answers: Iterator[Candidates | InferenceError],
    ) -> OkResult | ErrorResult:
        """The result of one text, which takes as many answers as it has windows."""
        try:
            if isinstance(text, NerServiceError):
                raise text
            candidates = [next(answers) for _ in text]
            entities = model.recognizer.decode(text, [_require(found) for found in candidates], request.options)
        except NerServiceError as error:
            self._metrics.rejected(error.code)
            return {"id": item.id, "status": "error", "error": item_problem(error)}
        self._metrics.text_done(len(text), [(entity.label, entity.score or 0.0) for entity in entities])
        converter = OffsetConverter(item.text, request.offset_unit)
        return {
            "id": item.id,
            "status": "ok",
            "length": converter.from_codepoint(len(item.text)),
            "windows": len(text),
            "entities": entity_replies(item.text, entities, converter),
        }


def _require(found: Candidates | InferenceError) -> Candidates:
    if isinstance(found, InferenceError):
        raise found
    return found
