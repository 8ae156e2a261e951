from __future__ import annotations

import gzip
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ner_service.errors import ConfigError, DataError
from ner_service.formats import FORMATS, READ_ONLY, read_documents, write_documents
from ner_service.types import Document, Entity
from tests.strategies import documents, flat_documents

CONLL = [format for format in FORMATS if format.startswith("conll")]


def written_and_read(batch: Sequence[Document], format: str) -> list[Document]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gz"
        write_documents(batch, path, format)
        return list(read_documents(path, format))


@given(batch=st.lists(documents(), min_size=1, max_size=4), format=st.sampled_from(["jsonl", "cluener", "cmeee"]))
def test_round_trip_of_any_documents(batch: list[Document], format: str) -> None:
    assert written_and_read(batch, format) == batch


@given(batch=st.lists(flat_documents(), min_size=1, max_size=4), format=st.sampled_from(CONLL))
def test_round_trip_of_flat_documents(batch: list[Document], format: str) -> None:
    assert written_and_read(batch, format) == batch


def test_another_scheme_reads_other_documents(tmp_path: Path) -> None:
    """The must-fail twin: a round trip through the wrong scheme is noticed."""
    batch = [Document("北京大学", (Entity(0, 2, "place"), Entity(2, 4, "group")))]
    path = tmp_path / "a.conll"
    write_documents(batch, path, "conll-bioes")
    for format in ("conll-bio", "conll-iob1", "conll-bilou"):
        with pytest.raises(DataError, match="found the tag 'E-place'"):
            list(read_documents(path, format))


@pytest.mark.parametrize(
    ("content", "format"),
    [
        ('{"text": "a", "entities": []}', "jsonl"),
        ('{"text": "a", "entities": [{"start": 0, "end": 1, "label": "x"}], "label": 3}', "jsonl"),
        ('{"text": "a", "label": {}}', "cluener"),
        ('[{"text": "a", "entities": []}]', "cmeee"),
        ('{"text": "a", "entities": [{"start_idx": 0, "end_idx": 0, "type": "x"}]}', "cmeee"),
        ("a|||0 0 x|||", "cmeee"),
        ("a O\nb O\n", "conll-bio"),
        ("a B-x\nE-mail I-x\n", "conll-bio"),
        ("# text = an E-mail\nan O\nE-mail O\n", "conll-bio"),
        ("[ O\na B-x\n", "conll-bio"),
        ("a S-x\n", "conll-bioes"),
        ("a B-x\nb M-x\nc E-x\n", "conll-bmes"),
        ("a U-x\n", "conll-bilou"),
        ("# text = a\n1\ta\tB-x\t-\t-\n", "conll-bio"),
    ],
)
def test_the_format_is_told_by_the_content(tmp_path: Path, content: str, format: str) -> None:
    path = tmp_path / "data"
    path.write_bytes(gzip.compress(content.encode()))
    assert list(read_documents(path)) == list(read_documents(path, format))


@pytest.mark.parametrize("content", ["plain words of a text", "T1\tDRUG 0 3\tabc", "3"])
def test_other_content_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(content)
    with pytest.raises(DataError, match=r"a\.txt:1: found .*, expected JSON, text with"):
        list(read_documents(path))


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
@pytest.mark.parametrize("format", ["auto", *(format for format in FORMATS if format not in READ_ONLY)])
def test_a_file_without_a_document_is_refused(tmp_path: Path, content: str, format: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(content, "utf-8")
    with pytest.raises(DataError, match="found no document, expected at least one"):
        list(read_documents(path, format))


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    with pytest.raises(ConfigError, match="format: found 'xml', expected one of jsonl, cluener"):
        list(read_documents(path, "xml"))
    with pytest.raises(ConfigError, match="format: found 'xml'"):
        write_documents([], path, "xml")
    assert path.read_text() == "x"
