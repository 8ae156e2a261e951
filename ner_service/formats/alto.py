"""ALTO XML: what an OCR engine read, a document a page; no annotation.

Words are the `String` elements, in the order of the file; those of no text are left out. A page without a size is as
large as its words need; a box that reaches over an edge of the page is cut there. The id is the page's, or the file's
name and the page's number. A file that declares entities is refused: none is ever expanded or fetched.

Source: loc.gov/standards/alto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.parsers import expat

from ner_service.formats.lines import Line, read_bytes
from ner_service.formats.pages import Word, clipped, files_of, page_of
from ner_service.types import Document

SUFFIXES = (".xml", ".alto")


def read(path: Path) -> Iterator[Document]:
    """The pages of a file, or of each XML file of a folder.

    Raises:
        DataError: names the file and line, what was found and what was expected.
    """
    for file in files_of(path, SUFFIXES):
        yield from _Pages(file).read()


class _Pages:
    """What is known of a file so far: its finished pages, the words of the one that is open, and its attributes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.documents: list[Document] = []
        self.words: list[Word] = []
        self.attributes: Mapping[str, str] = {}
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.EntityDeclHandler = self.refuse_entity
        self.parser.StartDoctypeDeclHandler = self.refuse_elsewhere

    def read(self) -> list[Document]:
        try:
            self.parser.Parse(read_bytes(self.path), True)
        except expat.ExpatError as error:
            raise Line(self.path, error.lineno, "").error(f"found no XML ({error}), expected ALTO") from None
        except (LookupError, ValueError) as error:
            raise self.line().error(f"found an encoding that is not read ({error}), expected UTF-8") from None
        return self.documents

    def start(self, name: str, attributes: dict[str, str]) -> None:
        match name.rpartition(" ")[2]:
            case "Page":
                self.words, self.attributes = [], attributes
            case "String":
                self.add_word(attributes)

    def end(self, name: str) -> None:
        if name.rpartition(" ")[2] != "Page":
            return
        sized = "WIDTH" in self.attributes and "HEIGHT" in self.attributes
        size = (self.number(self.attributes, "WIDTH"), self.number(self.attributes, "HEIGHT")) if sized else None
        page = page_of(self.line(), clipped(self.words, size), size)
        name = self.attributes.get("ID") or f"{self.path.name}:{len(self.documents) + 1}"
        self.documents.append(Document(text=page.text, id=name, page=page))

    def add_word(self, attributes: Mapping[str, str]) -> None:
        if text := attributes.get("CONTENT", "").strip():
            x, y, width, height = (self.number(attributes, key) for key in ("HPOS", "VPOS", "WIDTH", "HEIGHT"))
            self.words.append((text, (x, y, x + width, y + height)))

    def number(self, attributes: Mapping[str, str], key: str) -> float:
        try:
            return float(attributes[key])
        except (KeyError, ValueError):
            raise self.line().error(f"{key}: found {attributes.get(key)!r}, expected a number") from None

    def line(self) -> Line:
        return Line(self.path, self.parser.CurrentLineNumber, "")

    def refuse_entity(self, name: str, *declaration: object) -> None:
        raise self.line().error(f"found a declaration of the entity {name!r}, expected none")

    def refuse_elsewhere(self, name: str, system_id: str | None, *declaration: object) -> None:
        """Of a document type that stands elsewhere, expat leaves every entity of an attribute out without a word."""
        if system_id is not None:
            raise self.line().error(f"found a document type that stands elsewhere, {system_id!r}, expected none")
