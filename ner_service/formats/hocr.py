"""hOCR: what an OCR engine read, as HTML, a document a page; no annotation.

A page is an element of class `ocr_page`, a word one of class `ocrx_word`; the `title` of each holds its `bbox`. Words
of no text are left out. A page without a `bbox` is as large as its words need, one whose `bbox` does not begin at 0 is
counted from there; a word's box that reaches over an edge of the page is cut there. A word that does not end before the
next one is refused. Where a word has its characters one by one, it is them and no more; what the engine might have read
instead is no part of it. The id is the page's, or the file's name and the page's number. A file that declares entities
is refused: none is ever expanded or fetched.

Source: kba.github.io/hocr-spec.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

from ner_service.formats.lines import Line, read_whole
from ner_service.formats.pages import Word, clipped, files_of, page_of
from ner_service.types import Box, Document

_BBOX = re.compile(r"(?:^|;)\s*bbox((?:\s+[-+.\w]+){4})\s*(?:;|$)")

Role = Literal["word", "character", "alternative"]

SUFFIXES = (".hocr", ".html", ".htm", ".xhtml")


def read(path: Path) -> Iterator[Document]:
    """The pages of a file, or of each hOCR file of a folder.

    Raises:
        DataError: names the file and line, what was found and what was expected.
    """
    for file in files_of(path, SUFFIXES):
        parser = _Pages(file)
        parser.feed(read_whole(file).text)
        parser.close()
        yield from parser.documents()


class _Pages(HTMLParser):
    """What is known of a file so far: of each page its id, box and words, and of the word that is open its text.

    `roles` are those of the open elements of the word's own tag, the word first; it is empty between words.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.path = path
        self.pages: list[tuple[str | None, Line, Box | None, list[Word]]] = []
        self.roles: list[Role] = []
        self.text: list[str] = []
        self.characters: list[str] = []
        self.opened = self.line()
        self.box: Box | None = None
        self.tag = ""

    def documents(self) -> Iterator[Document]:
        if self.roles:
            raise self.opened.error("found a word that goes on to the end of the file, expected its end")
        for number, (name, line, frame, words) in enumerate(self.pages, start=1):
            left, top, right, bottom = frame or (0.0, 0.0, 0.0, 0.0)
            moved = [(text, (x0 - left, y0 - top, x1 - left, y1 - top)) for text, (x0, y0, x1, y1) in words]
            size = (right - left, bottom - top) if frame else None
            page = page_of(line, clipped(moved, size), size)
            yield Document(text=page.text, id=name or f"{self.path.name}:{number}", page=page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        classes = attributes.get("class", "").split()
        if self.roles:
            if {"ocr_page", "ocrx_word"} & set(classes):
                raise self.opened.error(f"found a word that goes on to line {self.getpos()[0]}, expected its end")
            if tag == self.tag:
                self.roles.append(_role(classes, attributes.get("title", "")))
        elif "ocr_page" in classes:
            self.pages.append((attributes.get("id") or None, self.line(), self.bbox(attributes.get("title", "")), []))
        elif "ocrx_word" in classes:
            self.box = self.bbox(attributes.get("title", ""))
            if self.box is None or not self.pages:
                raise self.line().error("found a word without a bbox or a page, expected both")
            self.roles, self.text, self.characters, self.opened, self.tag = ["word"], [], [], self.line(), tag

    def handle_endtag(self, tag: str) -> None:
        if not self.roles or tag != self.tag:
            return
        self.roles.pop()
        if not self.roles:
            text = "".join(self.characters or self.text).strip()
            if text and self.box is not None:
                self.pages[-1][3].append((text, self.box))

    def handle_data(self, data: str) -> None:
        if not self.roles or "alternative" in self.roles:
            return
        if "character" in self.roles:
            self.characters.append(data)
        else:
            self.text.append(data)

    def handle_decl(self, decl: str) -> None:
        if "[" in decl:
            raise self.line().error("found a document type with declarations of its own, expected none")

    def bbox(self, title: str) -> Box | None:
        """The box that a title tells, None where it tells none."""
        match = _BBOX.search(title)
        if match is None:
            return None
        try:
            x0, y0, x1, y1 = (float(number) for number in match[1].split())
        except ValueError as error:
            raise self.line().error(f"bbox: found {error}, expected four numbers") from None
        return x0, y0, x1, y1

    def line(self) -> Line:
        return Line(self.path, self.getpos()[0], "")


def _role(classes: Sequence[str], title: str) -> Role:
    """What an element inside a word holds: a character that has a place, something else that was weighed, or text."""
    if "ocrx_cinfo" in classes:
        return "character" if "x_bboxes" in title else "alternative"
    return "alternative" if "ocr_symbol" in classes else "word"
