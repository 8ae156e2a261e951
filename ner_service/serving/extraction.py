"""A request for entities: its texts and pages as they were read -> entities -> reply. Knows no web and no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ner_service.errors import NerServiceError
from ner_service.replies import OkResult, PageResult, page_result, text_result
from ner_service.serving.items import ImageItem, Item
from ner_service.serving.metrics import Metrics
from ner_service.serving.problems import item_problem
from ner_service.serving.reading import Answer, Reader, Reading, ReadItem
from ner_service.serving.registry import ServedModel
from ner_service.serving.schemas import ErrorResult, ExtractReply, ExtractRequest

if TYPE_CHECKING:
    from ner_service.decoding import Candidates


class Extractor:
    """Answers requests for entities, many at a time."""

    def __init__(self, reader: Reader, metrics: Metrics) -> None:
        self._reader = reader
        self._metrics = metrics

    async def extract(self, model: ServedModel, request: ExtractRequest, received_at: float) -> Answer:
        """Answer a request whose last byte came at `received_at`, by `time.perf_counter`.

        Raises:
            QueueFullError, DeadlineError, ClosedError, ModelDiedError: the request as a whole has no answer.
        """
        cutoffs = model.recognizer.cutoffs(request.options)
        one_window = request.long_text == "error"
        reading = await self._reader.find(model, request.items, cutoffs, one_window=one_window)
        return await self._reader.answer(reading, lambda: self._reply(request, reading, received_at))

    def _reply(self, request: ExtractRequest, reading: Reading[Candidates], received_at: float) -> ExtractReply:
        return {
            "model": reading.model_name,
            "offset_unit": request.offset_unit,
            "results": [
                self._result(reading.model, request, pointer, item, found)
                for pointer, item, found in zip(request.pointers, reading.items, reading.found, strict=True)
            ],
            "usage": reading.usage,
            "timing_ms": reading.timing(received_at),
        }

    def _result(
        self,
        model: ServedModel,
        request: ExtractRequest,
        pointer: str,
        item: Item,
        found: ReadItem[Candidates] | NerServiceError,
    ) -> OkResult | PageResult | ErrorResult:
        try:
            if isinstance(found, NerServiceError):
                raise found
            entities = model.recognizer.decode(found.windows, found.answers, request.options)
        except NerServiceError as error:
            self._metrics.rejected(error.code)
            return {"id": item.id, "status": "error", "error": item_problem(error, pointer)}
        self._metrics.text_done(len(found.windows), [(entity.label, entity.score or 0.0) for entity in entities])
        if isinstance(found.content, str):
            return text_result(item.id, found.content, len(found.windows), entities, request.offset_unit)
        page = found.content.page
        self._metrics.page_done(len(page.words))
        result = page_result(item.id, found.content, len(found.windows), entities)
        if isinstance(item, ImageItem):
            result |= {"words": list(page.words), "boxes": list(page.boxes), "page": page.size}
        return result
