"""FUNSD: a JSON file a page, `{"form": [{"label", "words": [{"text", "box"}], ...}]}`, or a folder of such files.

Every item of the form is a mention of its words, but those labelled "other". Words of no text are left out. The file
does not tell the size of its page; it is taken to be as large as the words need. The words come item by item: in that
order they tell where the mentions are. The id is the file's name.

Source: Jaume et al., FUNSD (arXiv 1905.13538).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ner_service.formats.checks import check_label, expect, in_order, parse_json, take
from ner_service.formats.lines import Line, read_whole
from ner_service.formats.pages import Word, box_of, files_of, page_of
from ner_service.types import Document, Entity, words_to_codepoints

OTHER = "other"
SUFFIXES = (".json",)


def read(path: Path) -> Iterator[Document]:
    """The page of a file, or of each file of a folder.

    Raises:
        DataError: names the file, the place in it, what was found and what was expected.
    """
    for file in files_of(path, SUFFIXES):
        yield _document(read_whole(file))


def _document(whole: Line) -> Document:
    words: list[Word] = []
    mentions = []
    for index, item in enumerate(take(whole, parse_json(whole, dict), "form", list)):
        where = f"form[{index}]"
        record = expect(whole, item, dict, where)
        label = take(whole, record, "label", str, where)
        first = len(words)
        words += _words(whole, take(whole, record, "words", list, where), f"{where}.words")
        if label != OTHER and len(words) > first:
            mentions.append((first, len(words), check_label(whole, label, where)))
    page = page_of(whole, words, None)
    return Document(
        text=page.text,
        entities=in_order(Entity(*words_to_codepoints(page, first, end), label) for first, end, label in mentions),
        id=whole.path.name.removesuffix(".gz").removesuffix(".json"),
        page=page,
    )


def _words(whole: Line, items: list[Any], where: str) -> Iterator[Word]:
    for index, item in enumerate(items):
        record = expect(whole, item, dict, f"{where}[{index}]")
        text = take(whole, record, "text", str, f"{where}[{index}]").strip()
        if text:
            yield text, box_of(whole, record.get("box"), f"{where}[{index}].box")
