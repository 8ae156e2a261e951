"""Requests for vectors, and for rankings by them: texts as they were read -> vectors -> reply.

Knows no web and no torch. Shapes: E embedding width.
"""

from __future__ import annotations

import numpy as np

from ner_service.errors import NerServiceError
from ner_service.serving.items import Item
from ner_service.serving.metrics import Metrics
from ner_service.serving.problems import item_problem
from ner_service.serving.reading import Answer, Reader, Reading, ReadItem
from ner_service.serving.registry import ServedModel, Vectors
from ner_service.serving.schemas import (
    EmbeddingResult,
    EmbedReply,
    EmbedRequest,
    ErrorResult,
    RankedResult,
    SimilarReply,
    SimilarRequest,
    UnrankedResult,
)

# An eighth decimal of a number of at most 1 is about what single precision holds.
_DECIMALS = 8


class Embedder:
    """Answers requests for vectors and for rankings, many at a time."""

    def __init__(self, reader: Reader, metrics: Metrics) -> None:
        self._reader = reader
        self._metrics = metrics

    async def embed(self, model: ServedModel, request: EmbedRequest, received_at: float) -> Answer:
        """Answer a request whose last byte came at `received_at`, by `time.perf_counter`.

        Raises:
            QueueFullError, DeadlineError, ClosedError, ModelDiedError: the request as a whole has no answer.
        """
        reading = await self._reader.embed(model, request.items)
        return await self._reader.answer(reading, lambda: self._embed_reply(reading, received_at))

    async def rank(self, model: ServedModel, request: SimilarRequest, received_at: float) -> Answer:
        """Answer a request whose last byte came at `received_at`, by `time.perf_counter`.

        Raises:
            QueueFullError, DeadlineError, ClosedError, ModelDiedError: the request as a whole has no answer.
            InvalidTextError, TextTooLongError, InferenceError: the text to compare with has no vector.
        """
        reading = await self._reader.embed(model, request.items)
        return await self._reader.answer(reading, lambda: self._similar_reply(request, reading, received_at))

    def _embed_reply(self, reading: Reading[Vectors], received_at: float) -> EmbedReply:
        return {
            "model": reading.model_name,
            "results": [
                self._embedding(reading.model, item, text)
                for item, text in zip(reading.items, reading.found, strict=True)
            ],
            "usage": reading.usage,
            "timing_ms": reading.timing(received_at),
        }

    def _embedding(
        self, model: ServedModel, item: Item, text: ReadItem[Vectors] | NerServiceError
    ) -> EmbeddingResult | ErrorResult:
        if isinstance(text, NerServiceError):
            return self._error(item, text)
        vector_E = self._vector(model, text).astype(np.float64)
        return {
            "id": item.id,
            "status": "ok",
            "windows": len(text.windows),
            "embedding": vector_E.round(_DECIMALS).tolist(),
        }

    def _similar_reply(self, request: SimilarRequest, reading: Reading[Vectors], received_at: float) -> SimilarReply:
        model, (item, *candidates), (text, *others) = reading.model, reading.items, reading.found
        if isinstance(text, NerServiceError):
            raise text
        vector_E = self._vector(model, text)
        ranked: list[RankedResult] = []
        unranked: list[UnrankedResult] = []
        for index, (candidate, other) in enumerate(zip(candidates, others, strict=True)):
            if isinstance(other, NerServiceError):
                unranked.append({"index": index, **self._error(candidate, other)})
                continue
            score = round(float(vector_E @ self._vector(model, other)), 6)
            windows = len(other.windows)
            ranked.append({"index": index, "id": candidate.id, "status": "ok", "windows": windows, "score": score})
        ranked.sort(key=lambda result: result["score"], reverse=True)
        return {
            "model": reading.model_name,
            "input": {"id": item.id, "windows": len(text.windows)},
            "results": [*ranked[: request.top_k], *unranked],
            "usage": reading.usage,
            "timing_ms": reading.timing(received_at),
        }

    def _vector(self, model: ServedModel, text: ReadItem[Vectors]) -> Vectors:
        self._metrics.vector_made(len(text.windows))
        return model.recognizer.pool(text.answers)

    def _error(self, item: Item, error: NerServiceError) -> ErrorResult:
        self._metrics.rejected(error.code)
        return {"id": item.id, "status": "error", "error": item_problem(error)}
