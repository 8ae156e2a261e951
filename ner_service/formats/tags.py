"""Tag schemes of CoNLL files: tags -> spans of tokens -> tags. A scheme is a tiny class; knows no file and no text.

A span is (first token, last token, label), both inclusive. A tag that may not follow the one before is refused, never
repaired: a wrong scheme would shift entities without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

Span = tuple[int, int, str]


class TagError(Exception):
    """A tag that the scheme does not allow where it stands."""

    def __init__(self, index: int, detail: str) -> None:
        super().__init__(detail)
        self.index = index


class TagScheme(Protocol):
    """Turns the tags of a sentence into spans, and a span into tags."""

    def spans(self, tags: Sequence[str]) -> Iterator[Span]:
        """The spans of a sentence, from left to right.

        Raises:
            TagError: a tag that the scheme does not allow.
        """
        ...

    def tags(self, num_tokens: int, label: str) -> list[str]:
        """The tags of a span of so many tokens."""
        ...


@dataclass(frozen=True, slots=True)
class InsideTags:
    """B-, I-, O. IOB2 begins every entity with B-; IOB1 only one that follows another of its label, and reads both."""

    must_begin: bool = True

    def spans(self, tags: Sequence[str]) -> Iterator[Span]:
        first, label = 0, ""
        for index, (mark, following) in enumerate(_parsed(tags, "BI")):
            if mark == "I" and following == label:
                continue
            if mark == "I" and self.must_begin:
                found = f"found {tags[index]} after {_before(tags, index)}, expected B-{following} first"
                raise TagError(index, f"{found}, or the format conll-iob1 where such an I- begins an entity")
            if label:
                yield first, index - 1, label
            first, label = index, following
        if label:
            yield first, len(tags) - 1, label

    def tags(self, num_tokens: int, label: str) -> list[str]:
        return [f"B-{label}", *[f"I-{label}"] * (num_tokens - 1)]


@dataclass(frozen=True, slots=True)
class BracketTags:
    """Tags that also mark the last token of an entity and an entity of one token, with the letters of the dialect."""

    inside: str = "I"
    last: str = "E"
    single: str = "S"

    def spans(self, tags: Sequence[str]) -> Iterator[Span]:
        first, label = 0, ""
        for index, (mark, following) in enumerate(_parsed(tags, f"B{self.inside}{self.last}{self.single}")):
            continues = mark in (self.inside, self.last)
            if continues != bool(label) or (continues and following != label):
                expected = f"{self.inside}-{label} or {self.last}-{label}" if label else f"B, {self.single} or O"
                raise TagError(index, f"found {tags[index]} after {_before(tags, index)}, expected {expected}")
            if mark == "B":
                first, label = index, following
            elif mark == self.single:
                yield index, index, following
            elif mark == self.last:
                yield first, index, label
                label = ""
        if label:
            detail = f"found the end of the sentence after {tags[-1]}, expected {self.last}-{label} before it"
            raise TagError(len(tags) - 1, detail)

    def tags(self, num_tokens: int, label: str) -> list[str]:
        if num_tokens == 1:
            return [f"{self.single}-{label}"]
        return [f"B-{label}", *[f"{self.inside}-{label}"] * (num_tokens - 2), f"{self.last}-{label}"]


BIO = InsideTags()
IOB1 = InsideTags(must_begin=False)
BIOES = BracketTags()
BMES = BracketTags(inside="M")
BILOU = BracketTags(last="L", single="U")


def is_tag(text: str) -> bool:
    """Whether a column looks like a tag of any scheme."""
    return text == "O" or (text[:1] in tuple("BIEMSLU") and text[1:2] == "-" and len(text) > 2)


def _parsed(tags: Sequence[str], marks: str) -> Iterator[tuple[str, str]]:
    """Mark and label of every tag; ("O", "") outside."""
    for index, tag in enumerate(tags):
        mark, _, label = tag.partition("-")
        if tag == "O":
            yield "O", ""
        elif label and len(mark) == 1 and mark in marks:
            yield mark, label
        else:
            expected = " or ".join(["O", *(f"{mark}-LABEL" for mark in marks)])
            raise TagError(index, f"found the tag {tag!r}, expected {expected}")


def _before(tags: Sequence[str], index: int) -> str:
    return tags[index - 1] if index else "the start of the sentence"
