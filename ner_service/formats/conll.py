"""CoNLL: one token a line with its tag, an empty line between sentences.

A row is `token ... tag`, or `number token tag ...` (Universal NER), separated by tabs, else by spaces. A comment
`# text = ...` before the first row gives the text, `# sent_id = ...` its id. Tokens that do not spell such a text are
joined: directly if all are single characters or a neighbour is Chinese or Japanese, else with a space. Where every
token of a file ends with a number and the first with 0, it is its place in a word, as in Weibo NER, and no part of the
text. Knows no tag scheme: one is passed in.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ner_service.formats.checks import check_entity, check_writable, in_order, refuse
from ner_service.formats.lines import Line, read_lines, write_lines
from ner_service.formats.tags import TagError, TagScheme, is_tag
from ner_service.types import Document, Entity

_COMMENT = re.compile(r"# ([\w:.]+) = (.*)", re.DOTALL)
_TEXT, _ID = "text", "sent_id"
_PLACED = re.compile(r"(.\D*)([0-9]+)")
# Ideographs, kana and their punctuation, full-width forms: written without spaces between words.
_UNSPACED = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]")


@dataclass(frozen=True, slots=True)
class _Sentence:
    lines: list[Line] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    comments: dict[str, str] = field(default_factory=dict)


def read(path: Path, scheme: TagScheme) -> Iterator[Document]:
    """The sentences of a file as documents; "-DOCSTART-" rows and other comments are skipped.

    Raises:
        DataError: names the line, what was found and what was expected.
    """
    placed = _has_places(path)
    sentence = _Sentence()
    for line in read_lines(path):
        if line.text.strip():
            _add(sentence, line, placed)
        else:
            if sentence.lines:
                yield _document(sentence, scheme)
            sentence = _Sentence()
    if sentence.lines:
        yield _document(sentence, scheme)


def write(documents: Iterable[Document], path: Path, scheme: TagScheme) -> None:
    """Write documents as sentences, each with its text as a comment; scores and metadata are left out.

    Raises:
        DataError: names a document that cannot be written so: overlapping entities, a span with whitespace at its
            ends, a text with line ends or of whitespace only, a label with a tab or a line end.
    """
    write_lines(path, (row for index, document in enumerate(documents) for row in _rows(path, index, document, scheme)))


def split_row(row: str) -> tuple[str, str]:
    """Token and tag of a row; the tag is empty where there is one column only."""
    columns = row.split("\t") if "\t" in row else row.split()
    if len(columns) < 2:
        return row, ""
    numbered = len(columns) > 2 and columns[0].isdecimal() and is_tag(columns[2]) and not is_tag(columns[-1])
    return (columns[1], columns[2]) if numbered else (columns[0], columns[-1])


def _has_places(path: Path) -> bool:
    """Whether each token of a file is followed by its place in a word, counted from 0."""
    rows = (_PLACED.fullmatch(split_row(line.text)[0]) for line in read_lines(path) if line.text.strip())
    first = next(rows, None)
    return first is not None and first[2] == "0" and all(rows)


def _add(sentence: _Sentence, line: Line, placed: bool) -> None:
    token, tag = split_row(line.text)
    if not sentence.lines and line.text.startswith("#"):
        if comment := _COMMENT.fullmatch(line.text):
            sentence.comments[comment[1]] = comment[2]
            return
        if "\t" not in line.text and not is_tag(tag):
            return
    if token == "-DOCSTART-":
        return
    if not token or token != token.strip() or not tag:
        raise line.error(f"found {line.text[:60]!r}, expected a token and its tag")
    place = _PLACED.fullmatch(token) if placed else None
    sentence.lines.append(line)
    sentence.tokens.append(place[1] if place else token)
    sentence.tags.append(tag)


def _document(sentence: _Sentence, scheme: TagScheme) -> Document:
    text = sentence.comments.get(_TEXT, "")
    offsets = _align(sentence.tokens, text)
    if offsets is None:
        text, offsets = _join(sentence.tokens)
    try:
        entities = in_order(
            check_entity(sentence.lines[first], text, Entity(offsets[first][0], offsets[last][1], label), "tag")
            for first, last, label in scheme.spans(sentence.tags)
        )
    except TagError as error:
        raise sentence.lines[error.index].error(str(error)) from None
    return Document(text=text, entities=entities, id=sentence.comments.get(_ID))


def _align(tokens: Sequence[str], text: str) -> list[tuple[int, int]] | None:
    """Offsets of the tokens in a text that they spell but for whitespace; None where they do not."""
    offsets = []
    position = 0
    for token in tokens:
        while text[position : position + 1].isspace():
            position += 1
        if not text.startswith(token, position):
            return None
        offsets.append((position, position + len(token)))
        position += len(token)
    return None if text[position:].strip() else offsets


def _join(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The text that the tokens make, and their offsets in it."""
    directly = all(len(token) == 1 for token in tokens)
    parts: list[str] = []
    offsets = []
    position = 0
    for token in tokens:
        if parts and not (directly or _UNSPACED.match(parts[-1][-1]) or _UNSPACED.match(token)):
            parts.append(" ")
            position += 1
        parts.append(token)
        offsets.append((position, position + len(token)))
        position += len(token)
    return "".join(parts), offsets


def _rows(path: Path, index: int, document: Document, scheme: TagScheme) -> Iterator[str]:
    check_writable(path, index, document)
    for name, value, unwanted in [
        (_ID, document.id or "", "\r\n"),
        (_TEXT, document.text, "\r\n"),
        *(("label", entity.label, "\t\r\n") for entity in document.entities),
    ]:
        if any(character in value for character in unwanted):
            raise refuse(path, index, f"{name}: found {value[:60]!r}, expected no tab or line end")
    offsets = _tokenize(document)
    if not offsets:
        raise refuse(path, index, f"found the text {document.text[:60]!r}, expected at least one token")
    if document.id is not None:
        yield f"# {_ID} = {document.id}"
    yield f"# {_TEXT} = {document.text}"
    for (start, end), tag in zip(offsets, _tags(path, index, document, offsets, scheme), strict=True):
        yield f"{document.text[start:end]}\t{tag}"
    yield ""


def _tokenize(document: Document) -> list[tuple[int, int]]:
    """Words, and each ideograph and symbol alone, cut at the ends of entities too."""
    text = document.text
    cuts = {offset for entity in document.entities for offset in (entity.start, entity.end)}
    offsets: list[tuple[int, int]] = []
    for position, character in enumerate(text):
        if character.isspace():
            continue
        adjoins = offsets and offsets[-1][1] == position and position not in cuts
        if adjoins and (_is_mark(character) or (_is_spelled(character) and _is_spelled(text[position - 1]))):
            offsets[-1] = (offsets[-1][0], position + 1)
        else:
            offsets.append((position, position + 1))
    return offsets


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def _is_spelled(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" and not _UNSPACED.match(character)


def _tags(
    path: Path, index: int, document: Document, offsets: Sequence[tuple[int, int]], scheme: TagScheme
) -> list[str]:
    tags = ["O"] * len(offsets)
    starts = {start: token for token, (start, _) in enumerate(offsets)}
    ends = {end: token for token, (_, end) in enumerate(offsets)}
    for entity in document.entities:
        if entity.start not in starts or entity.end not in ends:
            raise refuse(path, index, f"found {entity}, expected a span without whitespace at its ends")
        first, last = starts[entity.start], ends[entity.end]
        if any(tag != "O" for tag in tags[first : last + 1]):
            raise refuse(path, index, f"found {entity} on top of another, expected entities that do not overlap")
        tags[first : last + 1] = scheme.tags(last - first + 1, entity.label)
    return tags
