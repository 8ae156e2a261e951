"""A document's entities as cells of token spans, and the entities for which there is no cell.

Documents are cut into windows exactly as in serving, so training sees what the service will see. Knows no tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ner_service.text.layout import windows_of
from ner_service.text.tokenizer import TextTokenizer
from ner_service.types import Document, Encoding, Entity, LabelSet, Window, WindowLimits


@dataclass(frozen=True, slots=True)
class Example:
    """A window with its gold cells (label index, first token, last token) and the labels that it is annotated for.

    `flat` says that spans of another label inside a gold one were not looked for.
    """

    encoding: Encoding
    cells: tuple[tuple[int, int, int], ...]
    annotated: tuple[bool, ...]
    flat: bool = False

    def __len__(self) -> int:
        return len(self.encoding)


@dataclass(frozen=True, slots=True)
class Unrepresentable:
    """A gold entity that the model cannot predict, and why: it stays in the denominator of recall."""

    document: Document
    entity: Entity
    reason: str


def examples_of(
    document: Document, tokenizer: TextTokenizer, limits: WindowLimits, labels: LabelSet
) -> tuple[list[Example], list[Unrepresentable]]:
    """The windows of a document as examples, and the entities that fit in none of them."""
    windows = windows_of(document.content, tokenizer, limits)
    annotated = tuple(document.annotated is None or label in document.annotated for label in labels)
    entities = [entity for entity in document.entities if entity.label in labels]
    placed: set[Entity] = set()
    examples = []
    for window in windows:
        cells = _cells(window, entities, labels)
        placed.update(cells)
        examples.append(Example(window.encoding, tuple(sorted(set(cells.values()))), annotated, document.flat))
    lost = [Unrepresentable(document, e, _reason(e, windows)) for e in entities if e not in placed]
    torn = [entity for entity in document.scattered if entity.label in labels]
    lost += [Unrepresentable(document, entity, "its words do not follow each other") for entity in torn]
    return examples, lost


def encode_documents(
    documents: Iterable[Document], tokenizer: TextTokenizer, limits: WindowLimits, labels: LabelSet
) -> tuple[list[Example], list[Unrepresentable]]:
    """The examples of all documents, and all entities that no cell fits."""
    examples: list[Example] = []
    lost: list[Unrepresentable] = []
    for document in documents:
        own, own_lost = examples_of(document, tokenizer, limits, labels)
        examples += own
        lost += own_lost
    return examples, lost


def _cells(window: Window, entities: Iterable[Entity], labels: LabelSet) -> dict[Entity, tuple[int, int, int]]:
    first = {start: i for i, (start, end) in reversed(list(enumerate(window.encoding.offsets))) if start < end}
    last = {end: i for i, (start, end) in enumerate(window.encoding.offsets) if start < end}
    cells = {}
    for entity in entities:
        start, end = entity.start - window.start, entity.end - window.start
        if start in first and end in last and first[start] <= last[end]:
            cells[entity] = (labels.index(entity.label), first[start], last[end])
    return cells


def _reason(entity: Entity, windows: Sequence[Window]) -> str:
    around = [window for window in windows if window.start <= entity.start and entity.end <= window.end]
    if not around:
        return "no window holds it whole"
    offsets = [
        (start + window.start, end + window.start)
        for window in around
        for start, end in window.encoding.offsets
        if start < end
    ]
    if all(start != entity.start for start, _ in offsets):
        return "no token starts where it starts"
    return "no token ends where it ends"
