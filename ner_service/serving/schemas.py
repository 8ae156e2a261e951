"""JSON -> a valid request, and the shape of every reply. Knows no model and no tensor.

Requests are pydantic models: checked once, here. Replies are typed dictionaries: they are written as bytes without
being checked again, and stand in the OpenAPI file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError
from typing_extensions import TypedDict

from ner_service.replies import OkResult, PageResult
from ner_service.serving.items import TAGS, Inputs, Item, Strict, TextInput, TextInputs, item, text_item
from ner_service.serving.json_text import Constant, InvalidJsonError
from ner_service.serving.problems import FieldFault, InvalidFieldError, ItemProblem, TooLargeError
from ner_service.types import OffsetUnit, OverlapPolicy, RecognizeOptions

_MAX_FAULTS = 100
_MAX_MEMBERS = 1000
"""Labels of a request, or fields of an object in it: more than any needs, and few enough for each to be a fault."""

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class ExtractRequest(Strict):
    """Texts, pages and images, and what to look for in them."""

    inputs: Inputs = Field(description="One text, one object with a text, a page or an image, or a list of them.")
    labels: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None, description="Only these labels, chosen before the overlap policy; null means all."
    )
    threshold: Probability | None = Field(
        default=None, description="Probability that a score must exceed; null means the model's own for each label."
    )
    label_thresholds: dict[str, Probability] = Field(
        default_factory=dict, description="Thresholds of single labels; they go before `threshold`."
    )
    overlap: OverlapPolicy = Field(
        default="all",
        description="all: every entity. nested: none that crosses a better one. flat: none that overlaps a better one. "
        "longest: none that overlaps a longer one.",
    )
    offset_unit: OffsetUnit = Field(
        default="codepoint",
        description="What `start`, `end` and `length` count: code points (Python), UTF-16 units (JavaScript, Java, C#) "
        "or UTF-8 bytes (Go, Rust).",
    )
    long_text: Literal["window", "error"] = Field(
        default="window", description="A text longer than the model's window is read in windows, or is an error."
    )

    @property
    def items(self) -> list[Item]:
        """The inputs in their order, each with its id."""
        return [item(each) for each in (self.inputs if isinstance(self.inputs, list) else [self.inputs])]

    @property
    def pointers(self) -> list[str]:
        """Where in the body each item stands, as a JSON pointer."""
        return (
            [f"/inputs/{index}" for index in range(len(self.inputs))] if isinstance(self.inputs, list) else ["/inputs"]
        )

    @property
    def options(self) -> RecognizeOptions:
        """What the recogniser is asked."""
        return RecognizeOptions(
            labels=None if self.labels is None else frozenset(self.labels),
            threshold=self.threshold,
            label_thresholds=self.label_thresholds,
            overlap=self.overlap,
        )


class EmbedRequest(Strict):
    """Texts whose vectors are asked for."""

    inputs: TextInputs = Field(description="One text, one object with a text and an id, or a list of both.")

    @property
    def items(self) -> list[Item]:
        """The inputs in their order, each with its id."""
        return [text_item(each) for each in (self.inputs if isinstance(self.inputs, list) else [self.inputs])]


class SimilarRequest(Strict):
    """A text, and the candidates that are ranked by how much they are like it."""

    input: TextInput = Field(description="A text, or an object with a text and an id.")
    candidates: list[TextInput] = Field(description="Texts, objects with a text and an id, or both.")
    top_k: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Only so many of the best candidates; null means all."
    )

    @property
    def items(self) -> list[Item]:
        """The text and then the candidates in their order, each with its id."""
        return [text_item(each) for each in (self.input, *self.candidates)]


R = TypeVar("R", bound=Strict)


def parse_extract(value: object, known_labels: Sequence[str], max_inputs: int) -> ExtractRequest:
    """A request for entities from a JSON value.

    Raises:
        TooLargeError: more than `max_inputs` inputs.
        InvalidJsonError: NaN or Infinity outside a page.
        InvalidFieldError: the faults with their pointers; a label that is not in `known_labels` is one.
    """
    request = _parse(ExtractRequest, value, "inputs", max_inputs)
    places = {f"/labels/{index}": label for index, label in enumerate(request.labels or ())}
    places |= {_pointer(("label_thresholds", label)): label for label in request.label_thresholds}
    detail = f"Unknown label; the model knows: {', '.join(known_labels)}"
    unknown = [
        FieldFault(pointer=pointer, detail=detail) for pointer, label in places.items() if label not in known_labels
    ]
    if unknown:
        raise _invalid(unknown)
    return request


def parse_embed(value: object, max_inputs: int) -> EmbedRequest:
    """A request for vectors from a JSON value.

    Raises:
        TooLargeError: more than `max_inputs` inputs.
        InvalidJsonError: NaN or Infinity.
        InvalidFieldError: the faults with their pointers.
    """
    return _parse(EmbedRequest, value, "inputs", max_inputs)


def parse_similar(value: object, max_inputs: int) -> SimilarRequest:
    """A request for a ranking from a JSON value.

    Raises:
        TooLargeError: more than `max_inputs` candidates.
        InvalidJsonError: NaN or Infinity.
        InvalidFieldError: the faults with their pointers.
    """
    return _parse(SimilarRequest, value, "candidates", max_inputs)


def _parse(kind: type[R], value: object, texts: str, max_inputs: int) -> R:
    """A request from a JSON value with at most `max_inputs` items in the list `texts`."""
    found = value.get(texts) if isinstance(value, dict) else None
    if isinstance(found, list) and len(found) > max_inputs:
        detail = f"found {len(found)} {texts}, expected at most {max_inputs}"
        raise TooLargeError(detail, [{"pointer": f"/{texts}", "detail": detail}])
    for pointer, crowd in _crowds(value, texts):
        if len(crowd) > _MAX_MEMBERS:
            raise _invalid([{"pointer": pointer, "detail": f"found {len(crowd)}, expected at most {_MAX_MEMBERS}"}])
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        for fault in faults:
            if isinstance(fault["input"], Constant):
                name = fault["input"].name
                raise InvalidJsonError(f"the body is not JSON: {name} is no JSON number") from None
        raise _invalid([{"pointer": _pointer(fault["loc"]), "detail": fault["msg"]} for fault in faults]) from None


def _crowds(value: object, texts: str) -> Iterator[tuple[str, Sized]]:
    """What has members that may each be a fault, with its pointer: the request, its labels, its items."""
    if not isinstance(value, dict):
        return
    yield "", value
    found, labels = value.get(texts), value.get("labels")
    if isinstance(labels, list):
        yield "/labels", labels
    parts = {f"/{name}": value.get(name) for name in ("label_thresholds", "input", texts)}
    parts |= {f"/{texts}/{index}": each for index, each in enumerate(found if isinstance(found, list) else ())}
    yield from ((pointer, part) for pointer, part in parts.items() if isinstance(part, dict))


def _invalid(faults: list[FieldFault]) -> InvalidFieldError:
    more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    return InvalidFieldError(f"{faults[0]['pointer'] or 'body'}: {faults[0]['detail']}{more}", faults[:_MAX_FAULTS])


def _pointer(location: Sequence[int | str]) -> str:
    """A JSON pointer (RFC 6901) from pydantic's location, whose tags are no part of the body."""
    parts = [str(part) for part in location if part not in TAGS]
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


class ErrorResult(TypedDict):
    """Why a text or a page has no answer; its neighbours have theirs."""

    id: str | None
    status: Literal["error"]
    error: ItemProblem


class ModelName(TypedDict):
    """Which model answered."""

    name: str
    version: str


class Usage(TypedDict):
    """What the request amounted to. Characters of a page are those of its words and a space between each two.

    Tokens are those that the model read: those of overlaps count twice.
    """

    characters: int
    tokens: int
    windows: int


class Timing(TypedDict):
    """Milliseconds: waiting for the model, in the model, and from the request's last byte to the reply's first."""

    queue: float
    infer: float
    total: float


class ExtractReply(TypedDict):
    """One result for each input, in the order of the inputs."""

    model: ModelName
    offset_unit: OffsetUnit
    results: list[PageResult | OkResult | ErrorResult]
    usage: Usage
    timing_ms: Timing


class EmbeddingResult(TypedDict):
    """A text's unit vector; of a text longer than the model's window, the direction of the mean of its windows'."""

    id: str | None
    status: Literal["ok"]
    windows: int
    embedding: list[float]


class EmbedReply(TypedDict):
    """One result for each input, in the order of the inputs."""

    model: ModelName
    results: list[EmbeddingResult | ErrorResult]
    usage: Usage
    timing_ms: Timing


class ComparedInput(TypedDict):
    """The text that the candidates were compared with."""

    id: str | None
    windows: int


class RankedResult(TypedDict):
    """A candidate: its place among the candidates that were sent, and the cosine of its vector and the input's."""

    index: int
    id: str | None
    status: Literal["ok"]
    windows: int
    score: float


class UnrankedResult(ErrorResult):
    """Why a candidate has no score; the others are ranked without it."""

    index: int


class SimilarReply(TypedDict):
    """Candidates, the best score first and equal ones in the order they came; behind them all that have no score."""

    model: ModelName
    input: ComparedInput
    results: list[RankedResult | UnrankedResult]
    usage: Usage
    timing_ms: Timing


class ModelSummary(ModelName):
    """A model in the list of models."""

    default: bool


class ModelList(TypedDict):
    """Every model that is served."""

    models: list[ModelSummary]


class WindowReply(TypedDict):
    """How a long text is read, in tokens. An entity of up to `longest_entity_tokens` is found wherever one ends."""

    max_tokens: int
    overlap_tokens: int
    longest_entity_tokens: int


class CalibrationReply(TypedDict):
    """probability = sigma(slope * logit + intercept)."""

    slope: float
    intercept: float


class LimitsReply(TypedDict):
    """What a request may ask for, and how long it may take."""

    max_inputs: int
    max_characters: int
    max_words: int
    max_body_bytes: int
    max_candidates: int
    queue_tokens: int
    deadline_s: float
    body_timeout_s: float
    grace_s: float
    max_image_pixels: int
    queue_images: int


class ModelCard(ModelSummary):
    """What a model is, finds and was measured at."""

    description: str
    licence: str | None
    inputs: list[Literal["text", "page", "image"]]
    heads: dict[str, dict[str, object]]
    labels: list[str]
    thresholds: dict[str, float]
    calibration: dict[str, CalibrationReply] | None
    window: WindowReply
    limits: LimitsReply
    metrics: dict[str, object]
    data_sha256: str | None
    digest: str


class HealthReply(TypedDict):
    """The service is live or ready."""

    status: Literal["live", "ready"]
