"""hOCR, on pages of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ner_service.errors import DataError
from ner_service.formats import read_documents
from ner_service.types import Document

HEAD = '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" "xhtml1.dtd">\n<html><body>\n'
WORDS = """<span class='ocr_line' title="bbox 10 5 90 15">
<span class='ocrx_word' title='bbox 10 5 50 15; x_wconf 91'><strong>Caf&eacute;<span> &amp; Bar</span></strong></span>
<span class='ocrx_word bold' title='x_wconf 90;bbox 60 5 90 15'>1899</span>
<span class='ocrx_word' title='bbox 95 5 96 15'> </span>
</span>"""


def hocr(*pages: str) -> str:
    return f"{HEAD}{''.join(pages)}</body></html>"


def page(words: str = WORDS, attributes: str = "id='p1' title='image \"a.png\"; bbox 0 0 200 100; ppageno 0'") -> str:
    return f"<div class='ocr_page' {attributes}>{words}</div>\n"


def read(folder: Path, content: str, format: str = "auto") -> list[Document]:
    path = folder / "scan.hocr"
    path.write_text(content, encoding="utf-8")
    return list(read_documents(path, format))


def test_words_of_a_page(tmp_path: Path) -> None:
    [document] = read(tmp_path, hocr(page()))
    assert document.text == "Café & Bar 1899"
    assert document.id == "p1"
    assert document.page is not None
    assert document.page.words == ("Café & Bar", "1899")
    assert document.page.boxes == ((10, 5, 50, 15), (60, 5, 90, 15))
    assert document.page.size == (200, 100)


CHARACTERS = """<span class='ocrx_word' title='bbox 10 5 50 15'>
       <span class='ocrx_cinfo' title='x_bboxes 10 5 20 15; x_conf 99'>A</span>
       <span class='ocrx_cinfo' title='x_bboxes 20 5 30 15; x_conf 98'>&amp;</span>
       <span class='ocrx_cinfo' title='x_bboxes 30 5 50 15; x_conf 97'>B</span>
</span>"""
ALTERNATIVES = """<span class='ocrx_word' title='bbox 10 5 50 15'>{}
       <span class='ocr_symbol' id='s_1' title='x_confs 91'>
        <span class='ocrx_cinfo' id='c_1' title='x_confs 91.2'>A</span>
        <span class='ocrx_cinfo' id='c_2' title='x_confs 4.7'>4</span>
       </span>
</span>"""


@pytest.mark.parametrize(
    "word", [CHARACTERS, ALTERNATIVES.format("A&amp;B"), ALTERNATIVES.format(CHARACTERS.replace("ocrx_word", ""))]
)
def test_a_word_is_its_characters_without_what_else_they_might_have_been(tmp_path: Path, word: str) -> None:
    """As Tesseract writes them: each character with its place, and what the engine weighed beside them."""
    [document] = read(tmp_path, hocr(page(word)))
    assert document.page is not None
    assert document.page.words == ("A&B",)


def test_a_page_that_does_not_begin_at_0_and_one_without_a_box(tmp_path: Path) -> None:
    moved, bare = read(tmp_path, hocr(page(attributes="title='bbox 10 5 100 100'"), page(attributes="")))
    assert moved.page is not None
    assert moved.page.boxes[1] == (50, 0, 80, 10)
    assert moved.page.size == (90, 95)
    assert bare.page is not None
    assert bare.page.size == (90, 15)
    assert [moved.id, bare.id] == ["scan.hocr:1", "scan.hocr:2"]


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (WORDS, "2: found a word without a bbox or a page, expected both"),
        (page("\n<b class='ocrx_word'>a</b>"), "4: found a word without a bbox or a page, expected both"),
        (page("<b class='ocrx_word' title='bbox 1 2 x 4'>a</b>"), "3: bbox: found could not convert .*, expected four"),
        (page("<b class='ocrx_word' title='bbox 201 2 202 4'>a</b>"), "3: boxes/0/0: .* expected at most 200.0"),
        (
            page("<b class='ocrx_word' title='bbox 1 2 3 4'>a\n<b class='ocrx_word' title='bbox 1 2 3 4'>b</b>"),
            "3: found a word that goes on to line 4, expected its end",
        ),
        (
            page("<i class='ocrx_word' title='bbox 1 2 3 4'>a") + page(),
            "3: found a word that goes on to line 4, expected its end",
        ),
        (
            page("\n<i class='ocrx_word' title='bbox 1 2 3 4'>a"),
            "4: found a word that goes on to the end of the file, expected its end",
        ),
    ],
)
def test_faults_name_the_line(tmp_path: Path, content: str, detail: str) -> None:
    with pytest.raises(DataError, match=rf"scan\.hocr:{detail}"):
        read(tmp_path, HEAD + content if content is not WORDS else f"<html>{content}", "hocr")


def test_a_box_that_reaches_over_an_edge_is_cut_there(tmp_path: Path) -> None:
    words = "<b class='ocrx_word' title='bbox 9 5 101 15'>a</b>"
    [document] = read(tmp_path, hocr(page(words, "title='bbox 10 5 100 100'")))
    assert document.page is not None
    assert document.page.boxes == ((0, 0, 90, 10),)


def test_a_page_of_html_alone_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"scan\.hocr:1: found '<!DOCTYPE .*, expected ALTO XML or hOCR"):
        read(tmp_path, hocr())


def test_entities_are_refused(tmp_path: Path) -> None:
    content = hocr(page()).replace("<!DOCTYPE html PUBLIC", '<!DOCTYPE html [<!ENTITY a "b">] PUBLIC')
    with pytest.raises(DataError, match=r"scan\.hocr:1: found a document type with declarations of its own"):
        read(tmp_path, content)
