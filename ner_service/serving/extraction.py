"""A request for entities: its texts as they were read -> entities -> reply. Knows no web and no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ner_service.errors import NerServiceError
from ner_service.replies import entity_replies
from ner_service.serving.metrics import Metrics
from ner_service.serving.problems import item_problem
from ner_service.serving.reading import Answer, Reader, Reading, ReadText
from ner_service.serving.registry import ServedModel
from ner_service.serving.schemas import ErrorResult, ExtractReply, ExtractRequest, OkResult, TextItem
from ner_service.text.offsets import OffsetConverter

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
                self._result(reading.model, request, item, text)
                for item, text in zip(reading.items, reading.texts, strict=True)
            ],
            "usage": reading.usage,
            "timing_ms": reading.timing(received_at),
        }

    def _result(
        self, model: ServedModel, request: ExtractRequest, item: TextItem, text: ReadText[Candidates] | NerServiceError
    ) -> OkResult | ErrorResult:
        try:
            if isinstance(text, NerServiceError):
                raise text
            entities = model.recognizer.decode(text.windows, text.answers, request.options)
        except NerServiceError as error:
            self._metrics.rejected(error.code)
            return {"id": item.id, "status": "error", "error": item_problem(error)}
        self._metrics.text_done(len(text.windows), [(entity.label, entity.score or 0.0) for entity in entities])
        converter = OffsetConverter(item.text, request.offset_unit)
        return {
            "id": item.id,
            "status": "ok",
            "length": converter.from_codepoint(len(item.text)),
            "windows": len(text.windows),
            "entities": entity_replies(item.text, entities, converter),
        }
