"""Models by name, each with its batcher and its state. Knows no web and no torch: a model is whatever can do the walk.

warming ──> ready ──> draining
   └──────────┴──────────┴────> dead
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ner_service.errors import BundleError, InferenceError, NerServiceError
from ner_service.serving.batcher import Batcher
from ner_service.serving.metrics import Metrics
from ner_service.serving.problems import NotFoundError, NotReadyError
from ner_service.serving.settings import Settings
from ner_service.text.planning import plan_groups
from ner_service.types import Encoding, Entity, LabelSet, Page, RecognizeOptions, Window

if TYPE_CHECKING:
    from ner_service.bundle import Manifest
    from ner_service.decoding import Candidates

State = Literal["warming", "ready", "draining", "dead"]
Vectors = npt.NDArray[np.float32]

logger = logging.getLogger(__name__)


class Recognizer(Protocol):
    """What serving needs of `ner_service.recognizer.Recognizer`."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def labels(self) -> LabelSet: ...

    @property
    def pads(self) -> bool: ...

    def require_head(self, head: str) -> None: ...

    def encode(self, content: str | Page) -> list[Window]: ...

    def cutoffs(self, options: RecognizeOptions) -> tuple[float, ...]: ...

    def forward(self, encodings: Sequence[Encoding], cutoffs: Sequence[tuple[float, ...]]) -> list[Candidates]: ...

    def decode(
        self, windows: Sequence[Window], candidates: Sequence[Candidates], options: RecognizeOptions
    ) -> tuple[Entity, ...]: ...

    def embed(self, encodings: Sequence[Encoding]) -> Vectors: ...

    def pool(self, vectors_WE: Sequence[Vectors]) -> Vectors: ...


@dataclass(frozen=True, slots=True)
class WindowTask:
    """One window for the model: its encoding, and for each label the logit to exceed; without these, for its vector."""

    encoding: Encoding
    cutoffs: tuple[float, ...] | None


class ServedModel:
    """A recogniser with a thread and a queue of its own.

    Args:
        recognizer: the loaded model.
        settings: sizes of batch and queue.
        metrics: is told what the model does.
        on_death: called once, from any thread, when the model can answer no more.

    Raises:
        BundleError: the model has no head that is served.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        settings: Settings,
        metrics: Metrics,
        on_death: Callable[[], None],
    ) -> None:
        self.recognizer = recognizer
        self.manifest = recognizer.manifest
        heads = self.manifest.model.heads
        if not (heads.spans or heads.embedding):
            raise BundleError(f"{self.manifest.name!r} has no head to serve, expected `spans` or `embedding`")
        self._batch_tokens = settings.batch_tokens
        self._metrics = metrics
        self._on_death = on_death
        self._state: State = "warming"
        self._lock = threading.Lock()
        self.batcher: Batcher[WindowTask, Candidates | Vectors] = Batcher(
            self._answer,
            batch_tokens=settings.batch_tokens,
            queue_tokens=settings.queue_tokens,
            max_wait_s=settings.deadline_s,
            observer=metrics,
            on_death=self._die,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return self.manifest.files["model.safetensors"].sha256

    @property
    def state(self) -> State:
        return self._state

    def require_ready(self) -> None:
        """Refuse work that cannot be done now.

        Raises:
            NotReadyError: the model is not ready.
        """
        if self._state != "ready":
            raise NotReadyError(f"the model {self.manifest.name!r} is {self._state}, not ready")

    def warm_up(self) -> None:
        """Start the thread and read texts of many lengths, up to a full batch; ready if that went well, else dead.

        Every head reads every length. A batch too large for the device's memory is found before the first request: the
        full one is read for entities, which take the most, where the model finds any.
        """
        self.batcher.start()
        try:
            kinds = self._kinds()
            for cutoffs in kinds:
                longest = self._read_lengths(cutoffs)
            self._read([WindowTask(longest, kinds[0])] * max(1, self._batch_tokens // len(longest)))
        except NerServiceError as error:
            if self._state == "warming":
                logger.critical("the self-test failed: %s", error)
                self._die()
        else:
            self._become("ready", "warming")

    def drain(self) -> None:
        """Take no new requests; those that were taken are finished."""
        self._become("draining", "warming", "ready")

    def _kinds(self) -> list[tuple[float, ...] | None]:
        """The kinds of tasks, by their cut-offs: some where the model finds entities, None where it makes vectors."""
        heads = self.manifest.model.heads
        spans = [self.recognizer.cutoffs(RecognizeOptions())] if heads.spans else []
        return [*spans, None] if heads.embedding else [*spans]

    def _read_lengths(self, cutoffs: tuple[float, ...] | None) -> Encoding:
        """Read texts of many lengths, each alone; the longest."""
        most = self.manifest.window.max_tokens
        for text in ("a", *("a " * 2**power for power in range(1, (most - 1).bit_length())), "a " * most):
            encoding = self.recognizer.encode(text)[0].encoding
            self._read([WindowTask(encoding, cutoffs)])
        return encoding

    def _read(self, tasks: Sequence[WindowTask]) -> None:
        job = self.batcher.submit(tasks, [len(task.encoding) for task in tasks])
        for answer in job.future.result().answers:
            if isinstance(answer, InferenceError):
                raise answer

    def _answer(self, tasks: Sequence[WindowTask]) -> list[Candidates | Vectors]:
        found: dict[int, Candidates | Vectors] = {}
        num_read = 0
        for group in self._groups(tasks):
            answers = self._answer_group([tasks[index] for index in group])
            if len(answers) != len(group):
                raise InferenceError(f"the model gave {len(answers)} answers to {len(group)} windows")
            found.update(zip(group, answers, strict=True))
            lengths = [len(tasks[index].encoding) for index in group]
            num_read += len(group) * max(lengths) if self.recognizer.pads else sum(lengths)
        self._metrics.padded(1.0 - sum(len(task.encoding) for task in tasks) / num_read)
        return [found[index] for index in range(len(tasks))]

    def _groups(self, tasks: Sequence[WindowTask]) -> Iterator[list[int]]:
        """Indices of tasks that are read together: for one head, and of like length."""
        for is_embedding in (False, True):
            indices = [index for index, task in enumerate(tasks) if (task.cutoffs is None) == is_embedding]
            lengths = [len(tasks[index].encoding) for index in indices]
            for group in plan_groups(lengths, self._batch_tokens, padded=self.recognizer.pads):
                yield [indices[place] for place in group]

    def _answer_group(self, tasks: Sequence[WindowTask]) -> Sequence[Candidates] | Vectors:
        encodings = [task.encoding for task in tasks]
        cutoffs = [task.cutoffs for task in tasks if task.cutoffs is not None]
        return self.recognizer.forward(encodings, cutoffs) if cutoffs else self.recognizer.embed(encodings)

    def _become(self, state: State, *previous: State) -> None:
        with self._lock:
            if self._state in previous:
                self._state = state

    def _die(self) -> None:
        self._become("dead", "warming", "ready", "draining")
        self._on_death()


class Registry:
    """The models that are served."""

    def __init__(self, default: ServedModel) -> None:
        self.default = default
        self._models = {default.manifest.name: default}

    @property
    def models(self) -> list[ServedModel]:
        return list(self._models.values())

    def get(self, name: str, version: str | None = None) -> ServedModel:
        """A model by name, and by version if one is asked for.

        Raises:
            NotFoundError: names what is served.
        """
        model = self._models.get(name)
        if model is None:
            raise NotFoundError(f"unknown model; this service has: {', '.join(self._models)}")
        if version is not None and version != model.manifest.version:
            raise NotFoundError(f"unknown version of {name!r}; this service has: {model.manifest.version}")
        return model

    def warm_up(self) -> None:
        for model in self.models:
            model.warm_up()

    def drain(self) -> None:
        for model in self.models:
            model.drain()

    def abort(self) -> None:
        """Fail whatever is not answered yet."""
        for model in self.models:
            model.batcher.abort()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of every model's thread after `abort`, at most so long for each; whether all came."""
        return all(model.batcher.join(timeout_s) for model in self.models)
