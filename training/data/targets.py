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

    Inside the mentions of a flat document spans of another label were not looked for: `covered` has the tokens of each
    that lie in the window (label index, first, last), and whether they are all of it or the window or the boundary of
    a token cuts it. A label that is none of the run's has the index -1.
    """

    encoding: Encoding
    cells: tuple[tuple[int, int, int], ...]
    annotated: tuple[bool, ...]
    covered: tuple[tuple[int, int, int, bool], ...] = ()

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
        covered = _covered(window, document.entities, labels) if document.flat else ()
        examples.append(Example(window.encoding, tuple(sorted(set(cells.values()))), annotated, covered))
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


def _covered(window: Window, entities: Iterable[Entity], labels: LabelSet) -> tuple[tuple[int, int, int, bool], ...]:
    offsets = window.encoding.offsets
    found = []
    for entity in entities:
        mention = entity.start - window.start, entity.end - window.start
        inside = [i for i, (start, end) in enumerate(offsets) if mention[0] <= start < end <= mention[1]]
        if inside:
            whole = (offsets[inside[0]][0], offsets[inside[-1]][1]) == mention
            label = labels.index(entity.label) if entity.label in labels else -1
            found.append((label, inside[0], inside[-1], whole))
    return tuple(found)


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
