from __future__ import annotations

from pathlib import Path

import pytest

from ner_service.errors import DataError
from ner_service.formats import conll
from ner_service.formats.tags import BIO, BIOES, BMES, TagScheme
from ner_service.types import Document, Entity


def read(tmp_path: Path, content: str, scheme: TagScheme = BIO) -> list[Document]:
    path = tmp_path / "a.conll"
    path.write_bytes(content.encode("utf-8"))
    return list(conll.read(path, scheme))


def test_words_are_joined_with_spaces(tmp_path: Path) -> None:
    content = (
        "-DOCSTART- -X- O O\r\n\r\nAnn NNP I-NP B-PER\r\nLee NNP I-NP I-PER\r\nsings VBZ I-VP O\r\n\r\n\r\nYes UH O O"
    )
    assert read(tmp_path, content) == [Document("Ann Lee sings", (Entity(0, 7, "PER"),)), Document("Yes")]


def test_chinese_is_joined_directly(tmp_path: Path) -> None:
    content = "北 B-LOC\n京 E-LOC\n的 O\niPhone S-THING\nPro O\n很 O\n好 O"
    assert read(tmp_path, content, BIOES) == [
        Document("北京的iPhone Pro很好", (Entity(0, 2, "LOC"), Entity(3, 9, "THING")))
    ]


def test_single_characters_are_joined_directly(tmp_path: Path) -> None:
    [document] = read(tmp_path, "A B-ORG\nP M-ORG\nP E-ORG\n北 O", BMES)
    assert document == Document("APP北", (Entity(0, 3, "ORG"),))


def test_places_in_words_are_no_text(tmp_path: Path) -> None:
    """As in the files of Weibo NER: 0 for the first character of a word, 1 for the next."""
    content = "在0\tO\n嘉0\tB-LOC\n鱼1\tI-LOC\n20\tO\n01\tO\n52\tO\n\n好0\tO\n"
    assert read(tmp_path, content) == [Document("在嘉鱼205", (Entity(1, 3, "LOC"),)), Document("好")]
    assert read(tmp_path, content + "!\tO\n")[1] == Document("好0 !")


def test_a_text_comment_gives_text_and_offsets(tmp_path: Path) -> None:
    comments = "# newdoc id = d\n# sent_id = s1\n# text = Ann's  dog.\n"
    rows = "1\tAnn\tB-PER\t-\t-\n2\t's\tO\t-\t-\n3\tdog\tO\t-\t-\n4\t.\tO\t-\t-\n"
    assert read(tmp_path, comments + rows) == [Document("Ann's  dog.", (Entity(0, 3, "PER"),), "s1")]


def test_tokens_that_do_not_spell_the_comment_are_joined(tmp_path: Path) -> None:
    assert read(tmp_path, "# text = du coin\nde O\nle O\ncoin O\n") == [Document("de le coin")]


def test_comments_belong_to_their_sentence(tmp_path: Path) -> None:
    assert read(tmp_path, "# text = a\n\na O\nb O\n") == [Document("ab")]


def test_hash_signs_that_are_tokens(tmp_path: Path) -> None:
    assert read(tmp_path, "#\tO\n#tag\tB-x\n") == [Document("# #tag", (Entity(2, 6, "x"),))]
    assert read(tmp_path, "# a remark\n# O\n#tag B-x\n") == [Document("# #tag", (Entity(2, 6, "x"),))]


def test_a_number_as_token_of_four_columns(tmp_path: Path) -> None:
    assert read(tmp_path, "1 CD B-NP O\nman NN I-NP O") == [Document("1 man")]


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("a O\nb\n", 2, "found 'b', expected a token and its tag"),
        ("a O\nb I-x\n", 2, "found I-x after O, expected B-x first"),
        ("a O\n\n\nb Z-x\n", 4, "found the tag 'Z-x', expected O or B-LABEL or I-LABEL"),
        ("a\tO\n\tO\n", 2, "expected a token and its tag"),
    ],
)
def test_faults(tmp_path: Path, content: str, line: int, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert caught.value.line == line


def test_written_form(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    conll.write([Document("安 in New York。", (Entity(0, 1, "PER"), Entity(5, 13, "LOC")), "7")], path, BIOES)
    rows = ["安\tS-PER", "in\tO", "New\tB-LOC", "York\tE-LOC", "。\tO"]
    assert path.read_text("utf-8") == "\n".join(["# sent_id = 7", "# text = 安 in New York。", *rows, "", ""])


def test_a_word_is_cut_where_an_entity_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    conll.write([Document("Berlinreise", (Entity(0, 6, "LOC"),))], path, BIO)
    assert path.read_text("utf-8").splitlines()[1:] == ["Berlin\tB-LOC", "reise\tO", ""]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            Document("a b", (Entity(0, 3, "x"), Entity(0, 1, "y"))),
            "on top of another, expected entities that do not overlap",
        ),
        (Document("a b", (Entity(0, 2, "x"),)), "expected a span without whitespace at its ends"),
        (Document("a\nb"), "text: found 'a.nb', expected no tab or line end"),
        (Document("a", (Entity(0, 1, "x\ty"),)), "label: found"),
        (Document("a", id="1\n2"), "sent_id: found"),
        (Document("a\ud800"), r"found a lone surrogate U\+D800 at character 1"),
        (Document("  "), "expected at least one token"),
        (Document("a", annotated=frozenset()), "found partial annotation"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, document: Document, message: str) -> None:
    path = tmp_path / "a.conll"
    with pytest.raises(DataError, match=f"document 1: .*{message}"):
        conll.write([document], path, BIO)
    assert not path.exists()
