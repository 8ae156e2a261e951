"""ALTO XML, on pages of our own."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ner_service.errors import DataError
from ner_service.formats import read_documents
from ner_service.types import Document

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
WORDS = """
<TextLine><String CONTENT="Fr&#252;hling" HPOS="10" VPOS="5" WIDTH="40.5" HEIGHT="10"/><SP/>
<String CONTENT="&lt;1899&gt;" HPOS="60" VPOS="5" WIDTH="30" HEIGHT="10"/>
<String CONTENT=" " HPOS="95" VPOS="5" WIDTH="1" HEIGHT="10"/></TextLine>"""
SPACE = 'xmlns="http://www.loc.gov/standards/alto/ns-v4#"'


def alto(*pages: str, attributes: str = SPACE) -> str:
    return f"{HEAD}<alto {attributes}>\n<Layout>{''.join(pages)}</Layout></alto>"


def page(words: str = WORDS, attributes: str = 'ID="P1" WIDTH="200" HEIGHT="100"') -> str:
    return f"<Page {attributes}><PrintSpace>{words}</PrintSpace></Page>"


def read(folder: Path, content: str | bytes, format: str = "auto") -> list[Document]:
    path = folder / "scan.xml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_documents(path, format))


def test_strings_are_words(tmp_path: Path) -> None:
    [document] = read(tmp_path, alto(page()))
    assert document.text == "Frühling <1899>"
    assert document.id == "P1"
    assert document.page is not None
    assert document.page.boxes == ((10, 5, 50.5, 15), (60, 5, 90, 15))
    assert document.page.size == (200, 100)


def test_a_string_of_no_text_needs_no_place(tmp_path: Path) -> None:
    [document] = read(tmp_path, alto(page(f"{WORDS}<String CONTENT=' '/>")))
    assert document.text == "Frühling <1899>"


@pytest.mark.parametrize("attributes", ["", 'xmlns:x="y"', SPACE])
def test_pages_without_a_name_or_a_size(tmp_path: Path, attributes: str) -> None:
    documents = read(tmp_path, alto(page(attributes=""), page(words=""), attributes=attributes))
    assert [document.id for document in documents] == ["scan.xml:1", "P1"]
    assert [document.text for document in documents] == ["Frühling <1899>", ""]
    assert [document.page and document.page.size for document in documents] == [(90, 15), (200, 100)]


@pytest.mark.parametrize("format", ["auto", "alto"])
@pytest.mark.parametrize("encoding", ["ISO-8859-1", "UTF-16", "UTF-8-SIG"])
def test_other_encodings_and_gzip(tmp_path: Path, encoding: str, format: str) -> None:
    declared = encoding.removesuffix("-SIG")
    lines = alto(page(WORDS.replace("&#252;", "ü"))).replace("UTF-8", declared).replace("\n", " ")
    assert [document.text for document in read(tmp_path, lines.encode(encoding), format)] == ["Frühling <1899>"]
    assert read(tmp_path, gzip.compress(alto(page()).encode())) == read(tmp_path, alto(page()))


@pytest.mark.parametrize("encoding", ["gbk", "shift_jis", "nonsense"])
@pytest.mark.parametrize("format", ["auto", "alto"])
def test_an_encoding_that_is_not_read_is_named(tmp_path: Path, encoding: str, format: str) -> None:
    with pytest.raises(DataError, match=r"scan\.xml:1: found an encoding that is not read \(.*\), expected UTF-8"):
        read(tmp_path, alto(page()).replace("UTF-8", encoding), format)


def test_a_box_that_reaches_over_an_edge_is_cut_there(tmp_path: Path) -> None:
    words = "<String CONTENT='a' HPOS='-0.5' VPOS='90' WIDTH='201' HEIGHT='10.001'/>"
    [document] = read(tmp_path, alto(page(words)))
    assert document.page is not None
    assert document.page.boxes == ((0, 90, 200, 100),)


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (alto(page("<String CONTENT='a' HPOS='1' VPOS='1' WIDTH='1'/>")), "3: HEIGHT: found None, expected a number"),
        (
            alto(page("<String CONTENT='a' HPOS='1' VPOS='1' WIDTH='1' HEIGHT='x'/>")),
            "3: HEIGHT: found 'x', expected a number",
        ),
        (
            alto(page("\n<String CONTENT='a' HPOS='201' VPOS='1' WIDTH='2' HEIGHT='1'/>")),
            "4: boxes/0/0: box of word 0: found x0 = 201.0, expected at most 200.0",
        ),
        (
            alto(page("<String CONTENT='a' HPOS='1' VPOS='1' WIDTH='inf' HEIGHT='1'/>")),
            "3: boxes/0/2: box of word 0: found x1 = inf, expected a finite number",
        ),
        (alto(page()).replace("</Layout>", ""), r"6: found no XML \(mismatched tag.*\), expected ALTO"),
        (alto(page()).replace("</alto>", ""), r"found no XML \(no element found.*\), expected ALTO"),
    ],
)
def test_faults_name_the_line(tmp_path: Path, content: str, detail: str) -> None:
    with pytest.raises(DataError, match=rf"scan\.xml:.*{detail}"):
        read(tmp_path, content, "alto")


@pytest.mark.parametrize(
    "declaration",
    [
        '<!ENTITY a "b">',
        '<!ENTITY a "b"><!ENTITY c "&a;&a;">',
        '<!ENTITY a SYSTEM "file:///etc/hostname">',
        '<!ENTITY % a SYSTEM "http://localhost/x">',
    ],
)
def test_entities_are_refused(tmp_path: Path, declaration: str) -> None:
    content = alto(page()).replace("<alto", f"<!DOCTYPE alto [{declaration}]>\n<alto")
    with pytest.raises(DataError, match=r"scan\.xml:2: found a declaration of the entity 'a', expected none"):
        read(tmp_path, content, "alto")


@pytest.mark.parametrize("kind", ['SYSTEM "gone.dtd"', 'PUBLIC "-//x" "gone.dtd"'])
def test_a_document_type_that_stands_elsewhere_is_refused(tmp_path: Path, kind: str) -> None:
    """What it may declare would be left out of words: `caf&eacute;` would be read as `caf`."""
    content = alto(page()).replace("<alto", f"<!DOCTYPE alto {kind}>\n<alto")
    with pytest.raises(DataError, match=r"scan\.xml:2: found a document type that stands elsewhere, 'gone.dtd'"):
        read(tmp_path, content, "alto")
    assert len(read(tmp_path, alto(page()).replace("<alto", "<!DOCTYPE alto>\n<alto"))) == 1


def test_no_alto_and_no_hocr_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"scan\.xml:1: found '<note/>', expected ALTO XML or hOCR"):
        read(tmp_path, "<note/>\n")
