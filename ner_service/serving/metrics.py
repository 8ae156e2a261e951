"""What Prometheus reads. Names, buckets and nothing else: knows no request and no model.

Every app has a registry of its own, so that several can live in one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from ner_service.errors import NerServiceError
from ner_service.serving.batcher import Stage

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKENS = tuple(float(2**power) for power in range(4, 17))
_SEQUENCES = tuple(float(2**power) for power in range(11))
_WORDS = tuple(float(2**power) for power in range(3, 15))
_RATIOS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_SCORES = tuple(tenth / 10 for tenth in range(1, 11))


class Metrics:
    """Everything that is counted. It is the batcher's `Observer`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self._requests = Counter("ner_requests", "Requests answered.", ["route", "code"], registry=own)
        self._request_s = Histogram(
            "ner_request_duration_seconds",
            "From a request's head to its reply's end.",
            ["route"],
            buckets=_SECONDS,
            registry=own,
        )
        self._queue_s = Histogram(
            "ner_queue_duration_seconds", "From admission to the model.", buckets=_SECONDS, registry=own
        )
        self._queue_tokens = Gauge("ner_queue_tokens", "Tokens that wait for the model.", registry=own)
        self._batch_tokens = Histogram("ner_batch_tokens", "Tokens of a batch.", buckets=_TOKENS, registry=own)
        self._batch_sequences = Histogram(
            "ner_batch_sequences", "Windows of a batch.", buckets=_SEQUENCES, registry=own
        )
        self._padding = Histogram(
            "ner_batch_padding_ratio", "Share of padding in what the model read.", buckets=_RATIOS, registry=own
        )
        self._inference_s = Histogram(
            "ner_inference_duration_seconds", "The model's time for a batch.", buckets=_SECONDS, registry=own
        )
        self._windows = Histogram("ner_text_windows", "Windows of a text or a page.", buckets=_SEQUENCES, registry=own)
        self._rejected = Counter(
            "ner_rejected", "Requests and texts refused, by the error's code.", ["reason"], registry=own
        )
        self._cancelled = Counter("ner_cancelled", "Jobs whose client had gone.", ["stage"], registry=own)
        self._entities = Counter("ner_entities", "Entities found.", ["label"], registry=own)
        self._scores = Histogram(
            "ner_entity_score", "Probabilities of entities.", ["label"], buckets=_SCORES, registry=own
        )
        self._page_words = Histogram("ner_page_words", "Words of a page answered.", buckets=_WORDS, registry=own)
        self._queue_images = Gauge("ner_queue_images", "Images that wait to be read.", registry=own)
        self._image_s = Histogram(
            "ner_image_duration_seconds", "The time to read the words of an image.", buckets=_SECONDS, registry=own
        )
        self._embeddings = Counter("ner_embeddings", "Vectors of texts made.", registry=own)
        # A series that begins with its first event hides that event from whoever asks for an increase.
        for stage in get_args(Stage):
            self._cancelled.labels(stage)
        for reason in _codes(NerServiceError):
            self._rejected.labels(reason)
        self._model = Info("ner_model", "The model that is served.", registry=own)

    def exposition(self) -> bytes:
        """The state in Prometheus' text format."""
        return generate_latest(self.registry)

    def model_served(self, digest: str, precision: str) -> None:
        self._model.info({"digest": digest, "precision": precision})

    def request_done(self, route: str, status: int, duration_s: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._request_s.labels(route).observe(duration_s)

    def rejected(self, reason: str) -> None:
        self._rejected.labels(reason).inc()

    def text_done(self, num_windows: int, entities: Iterable[tuple[str, float]]) -> None:
        """A text or a page was answered; its entities as (label, score)."""
        self._windows.observe(num_windows)
        for label, score in entities:
            self._entities.labels(label).inc()
            self._scores.labels(label).observe(score)

    def page_done(self, num_words: int) -> None:
        """The text that was answered is a page."""
        self._page_words.observe(num_words)

    def images_queued(self, num_images: int) -> None:
        self._queue_images.set(num_images)

    def image_read(self, duration_s: float) -> None:
        self._image_s.observe(duration_s)

    def vector_made(self, num_windows: int) -> None:
        """A text has its vector."""
        self._windows.observe(num_windows)
        self._embeddings.inc()

    def padded(self, ratio: float) -> None:
        self._padding.observe(ratio)

    def queue_changed(self, queued_tokens: int) -> None:
        self._queue_tokens.set(queued_tokens)

    def job_started(self, queue_s: float) -> None:
        self._queue_s.observe(queue_s)

    def job_cancelled(self, stage: Stage) -> None:
        self._cancelled.labels(stage).inc()

    def batch_done(self, lengths: Sequence[int], inference_s: float) -> None:
        self._batch_tokens.observe(sum(lengths))
        self._batch_sequences.observe(len(lengths))
        self._inference_s.observe(inference_s)


def _codes(kind: type[NerServiceError]) -> Iterator[str]:
    """The codes of an error and of all its kinds."""
    yield kind.code
    for narrower in kind.__subclasses__():
        yield from _codes(narrower)
