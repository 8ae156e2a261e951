"""ner-service recognize: texts and pages from files and from standard input."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ner_service.recognizer import Recognizer
from ner_service.types import Box, Page, Recognition, RecognizeOptions, codepoints_to_words
from tests.commands import invoke, refusal, results, spans, write_json_lines

TEXTS = (
    "Ada Lovelace wrote to Charles Babbage in London.",
    "李雷和韩梅梅在北京大学读书。",
    "王医生去了广州 😀 London.",
)
PAGE = {"id": "p", "words": ["Ada"], "boxes": [[0, 0, 1, 1]], "page": [9, 9]}


@pytest.fixture(scope="module")
def expected(tiny_bundle_folder: Path) -> dict[str, Recognition]:
    """What the recognizer says of the texts."""
    answers = Recognizer.load(tiny_bundle_folder, "cpu").recognize(TEXTS)
    found = {text: answer for text, answer in zip(TEXTS, answers, strict=True) if isinstance(answer, Recognition)}
    assert sum(len(answer.entities) for answer in found.values()) > 3
    return found


def expected_spans(answer: Recognition) -> list[tuple[int, int, str]]:
    return [(entity.start, entity.end, entity.label) for entity in answer.entities]


def test_pages_are_answered_as_over_http(tiny_bundle_folder: Path, tmp_path: Path) -> None:
    """Words of two columns, sent line by line: the answer is in the client's indices, whichever order was read."""
    words = ["Ada", "王医生", "Lovelace", "去了广州。"]
    boxes: list[Box] = [(0, 0, 30, 10), (200, 0, 230, 10), (0, 12, 80, 22), (200, 12, 260, 22)]
    page = {"words": words, "boxes": boxes, "page": [300, 40]}
    path = tmp_path / "pages.jsonl"
    lines = [{"id": "p", **page}, {"id": "", **page, "order": "given"}, {"text": "Ada Lovelace"}]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    result = invoke("recognize", "-m", tiny_bundle_folder, "--threshold", "0.3", path)
    assert result.exit_code == 0, result.stderr
    recognizer, options = Recognizer.load(tiny_bundle_folder, "cpu"), RecognizeOptions(threshold=0.3)
    answers = results(result.stdout)
    assert [answer["id"] for answer in answers] == ["p", "", f"{path}:3"]
    for answer, order in zip(answers, ((0, 2, 1, 3), (0, 1, 2, 3)), strict=False):
        read = Page(tuple(words), tuple(boxes), (300, 40)).reordered(order)
        [own] = recognizer.recognize([read], options)
        assert isinstance(own, Recognition)
        assert own.entities
        assert (answer["offset_unit"], answer["length"]) == ("word", 4)
        expected = {(e.label, tuple(order[slice(*codepoints_to_words(read, e.start, e.end))])) for e in own.entities}
        assert {(entity["label"], tuple(entity["words"])) for entity in answer["entities"]} == expected
    assert "words" not in answers[2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({**PAGE, "order": "down"}, "order: found 'down', expected 'reading' or 'given'"),
        ({**PAGE, "boxes": []}, "boxes: found 0 boxes, expected 1, one for each word"),
        (
            {**PAGE, "boxes": [[0, 0, 10, 1]]},
            "boxes/0/2: box of word 0: found x1 = 10.0, expected at most 9.0, the page's width",
        ),
        ({**PAGE, "page": [0, 9]}, "page/0: found 0.0, expected a length above 0, at most 1e+09"),
        ({"id": "p", "txt": "Bo"}, "text: missing; found the keys 'id', 'txt', expected 'text', or 'words' of a page"),
        ({"id": "p", "text": 7}, "text: found 7, expected a string"),
        ({"id": [1], "text": "London"}, "id: found [1], expected a string"),
    ],
)
def test_a_faulty_object_is_an_error_of_its_own(
    line: dict[str, Any], reason: str, tiny_bundle_folder: Path, tmp_path: Path, expected: dict[str, Recognition]
) -> None:
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"text": TEXTS[0]}, line, PAGE, {"text": TEXTS[1]}]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    done = {"id": f"{path}:1", "status": "ok"}
    output.write_text(f"{json.dumps(done)}\n", encoding="utf-8")  # of a run that was broken off just before the fault
    for arguments in ([path, "-o", output, "--resume"], [path]):
        result = invoke("recognize", "-m", tiny_bundle_folder, *arguments)
        assert (result.exit_code, result.stderr) == (1, "1 without an answer; the results say why\n")
    first, bad, page, last = results(result.stdout)
    name = line["id"] if isinstance(line["id"], str) else f"{path}:2"
    assert bad == {"id": name, "status": "error", "error": {"code": "invalid_data", "detail": f"{path}:2: {reason}"}}
    assert [spans(first), spans(last)] == [expected_spans(expected[text]) for text in TEXTS[:2]]
    assert (page["status"], page["length"]) == ("ok", 1)
    assert results(output.read_text(encoding="utf-8")) == [done, bad, page, last]


def test_a_text_with_words_is_a_text(
    tiny_bundle_folder: Path, tmp_path: Path, expected: dict[str, Recognition]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"text": TEXTS[0], "words": TEXTS[0].split(), "page": 3, "ordr": 1}), encoding="utf-8")
    [answer] = results(invoke("recognize", "-m", tiny_bundle_folder, path).stdout)
    assert spans(answer) == expected_spans(expected[TEXTS[0]])


def test_what_engines_write_is_read_page_by_page(tiny_bundle_folder: Path, tmp_path: Path) -> None:
    """Whatever the name, the encoding and `--lines`; each answer is that of the same page as JSON."""
    hocr, alto, web = tmp_path / "scan.hocr", tmp_path / "page.xml", tmp_path / "web.html"
    words = (
        "<span class='ocrx_word' title='bbox 0 0 30 10'>Ada</span> <i class='ocrx_word' title='bbox 40 0 90 10'>Bo</i>"
    )
    page = f"<html><body><div class='ocr_page' id='h1' title='bbox 0 0 99 50'>{words}</div><div class='ocr_page'></div>"
    hocr.write_text(page, encoding="utf-8")
    strings = "<String CONTENT='Zoë' HPOS='0' VPOS='0' WIDTH='30' HEIGHT='10'/>"
    content = f"<alto><Page ID='a1' WIDTH='99' HEIGHT='50'>{strings}</Page></alto>"
    alto.write_text(f"<?xml version='1.0' encoding='UTF-16'?>{content}", encoding="utf-16")
    web.write_text("<html>Ada Lovelace</html>", encoding="utf-8")
    lines = [
        {"id": f"{hocr}:1", "words": ["Ada", "Bo"], "boxes": [[0, 0, 30, 10], [40, 0, 90, 10]], "page": [99, 50]},
        {"id": f"{hocr}:2", "words": [], "boxes": [], "page": [1, 1]},
        {"id": f"{alto}:1", "words": ["Zoë"], "boxes": [[0, 0, 30, 10]], "page": [99, 50]},
    ]
    path = tmp_path / "pages.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    model = ("recognize", "-m", tiny_bundle_folder, "--threshold", "0.3")
    result = invoke(*model, hocr, alto, web)
    assert result.exit_code == 0, result.stderr
    *pages, text = results(result.stdout)
    assert pages == results(invoke(*model, path).stdout)
    assert [page["length"] for page in pages] == [2, 0, 1]
    assert pages[0]["entities"]
    assert (text["id"], text["length"]) == (str(web), 25)
    assert results(invoke(*model, "--lines", hocr, alto).stdout) == pages
    whole, form = tmp_path / "page.json", tmp_path / "form.json"
    whole.write_text(json.dumps(lines[0], indent=2), encoding="utf-8")
    items = [{"text": text, "box": box} for text, box in zip(lines[0]["words"], lines[0]["boxes"], strict=True)]
    form.write_text(json.dumps({"form": [{"label": "other", "words": items}]}, indent=2), encoding="utf-8")
    same, found = results(invoke(*model, "--lines", whole, form).stdout)
    assert same == pages[0]
    assert (found["id"], found["length"]) == (f"{form}:1", 2)


def test_a_json_file_without_an_object_is_refused(tiny_bundle_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "pages.json"
    path.write_text("[\n1]", encoding="utf-8")
    assert refusal("recognize", "-m", tiny_bundle_folder, path) == f"{path}: the file: found [1], expected an object"


def test_standard_input_is_one_text(tiny_bundle_folder: Path, expected: dict[str, Recognition]) -> None:
    result = invoke("recognize", "-m", tiny_bundle_folder, stdin=TEXTS[0])
    assert result.exit_code == 0, result.stderr
    [answer] = results(result.stdout)
    own = expected[TEXTS[0]]
    assert (answer["id"], answer["status"], answer["length"]) == (None, "ok", len(TEXTS[0]))
    assert answer["windows"] == own.num_windows
    assert spans(answer) == expected_spans(own)
    for entity, known in zip(answer["entities"], own.entities, strict=True):
        assert entity["text"] == TEXTS[0][entity["start"] : entity["end"]]
        assert entity["score"] == pytest.approx(known.score, abs=1e-5)


def test_line_ends_of_standard_input_are_characters(tiny_bundle_folder: Path) -> None:
    content = b"London\r\nLondon\n"
    [answer] = results(invoke("recognize", "-m", tiny_bundle_folder, stdin=content).stdout)
    assert answer["length"] == 15


def test_every_line_a_text(tiny_bundle_folder: Path, expected: dict[str, Recognition]) -> None:
    content = "\r\n".join([TEXTS[0], "", TEXTS[1]])
    answers = results(invoke("recognize", "-m", tiny_bundle_folder, "--lines", stdin=content).stdout)
    assert [answer["length"] for answer in answers] == [len(TEXTS[0]), 0, len(TEXTS[1])]
    assert [spans(answer) for answer in answers] == [
        expected_spans(expected[TEXTS[0]]),
        [],
        expected_spans(expected[TEXTS[1]]),
    ]


def test_files_in_order(tiny_bundle_folder: Path, tmp_path: Path, expected: dict[str, Recognition]) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_bytes(b"\xef\xbb\xbf" + TEXTS[0].encode())
    two.write_text(f"{TEXTS[1]}\n{TEXTS[2]}\n", encoding="utf-8")
    lines = write_json_lines(tmp_path / "three.jsonl", TEXTS)
    zipped = tmp_path / "four.jsonl.gz"
    zipped.write_bytes(gzip.compress(lines.read_bytes()))
    result = invoke("recognize", "-m", tiny_bundle_folder, two, one, lines, zipped)
    assert result.exit_code == 0, result.stderr
    answers = results(result.stdout)
    assert [answer["id"] for answer in answers] == [str(two), str(one), *["t0", "t1", "t2"] * 2]
    assert spans(answers[1]) == expected_spans(expected[TEXTS[0]])
    assert answers[2:5] == answers[5:8]
    by_line = results(invoke("recognize", "-m", tiny_bundle_folder, "--lines", two).stdout)
    assert [answer["id"] for answer in by_line] == [f"{two}:1", f"{two}:2"]
    assert [spans(answer) for answer in by_line] == [expected_spans(expected[text]) for text in TEXTS[1:]]


def test_a_text_that_is_not_unicode_is_an_error_of_its_own(
    tiny_bundle_folder: Path, tmp_path: Path, expected: dict[str, Recognition]
) -> None:
    path = write_json_lines(tmp_path / "in.jsonl", [TEXTS[0], "Bo \ud800", TEXTS[1]])
    result = invoke("recognize", "-m", tiny_bundle_folder, path)
    assert result.exit_code == 1
    assert result.stderr == "1 without an answer; the results say why\n"
    first, bad, last = results(result.stdout)
    assert bad == {
        "id": "t1",
        "status": "error",
        "error": {
            "code": "invalid_text",
            "detail": "found a lone surrogate U+D800 at character 3, expected Unicode text",
        },
    }
    assert [spans(first), spans(last)] == [expected_spans(expected[text]) for text in TEXTS[:2]]


@pytest.mark.parametrize("unit", ["codepoint", "utf16", "utf8"])
def test_offset_units(tiny_bundle_folder: Path, unit: str) -> None:
    text = TEXTS[2]
    codec = {"codepoint": "utf-32-le", "utf16": "utf-16-le", "utf8": "utf-8"}[unit]
    size = {"codepoint": 4, "utf16": 2, "utf8": 1}[unit]
    options = ("--offset-unit", unit, "--threshold", "0")  # every span
    [answer] = results(invoke("recognize", "-m", tiny_bundle_folder, *options, stdin=text).stdout)
    content = text.encode(codec)
    assert answer["length"] == len(content) // size
    assert any("London" in entity["text"] for entity in answer["entities"])
    for entity in answer["entities"]:
        assert content[entity["start"] * size : entity["end"] * size].decode(codec) == entity["text"]


@pytest.mark.parametrize(
    ("text", "arguments", "options"),
    [
        (TEXTS[0], ["--label", "PER", "--label", "LOC"], RecognizeOptions(labels=frozenset({"PER", "LOC"}))),
        (TEXTS[0], ["--threshold", "0.3"], RecognizeOptions(threshold=0.3)),
        (TEXTS[1], ["--threshold", "0.7"], RecognizeOptions(threshold=0.7)),
        (TEXTS[0], ["--overlap", "flat"], RecognizeOptions(overlap="flat")),
    ],
)
def test_labels_thresholds_and_overlap(
    tiny_bundle_folder: Path,
    text: str,
    arguments: list[str],
    options: RecognizeOptions,
    expected: dict[str, Recognition],
) -> None:
    [own] = Recognizer.load(tiny_bundle_folder, "cpu").recognize([text], options)
    assert isinstance(own, Recognition)
    [answer] = results(invoke("recognize", "-m", tiny_bundle_folder, *arguments, stdin=text).stdout)
    assert spans(answer) == expected_spans(own) != expected_spans(expected[text])


def test_an_unknown_label_is_refused_before_results_are_touched(tiny_bundle_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("kept\n", encoding="utf-8")
    said = refusal("recognize", "-m", tiny_bundle_folder, "--label", "SHIP", "-o", output, stdin="x")
    assert said == "unknown label 'SHIP'; the model knows: PER, ORG, LOC"
    assert output.read_text(encoding="utf-8") == "kept\n"


def test_no_input_is_written_over(tiny_bundle_folder: Path, tmp_path: Path) -> None:
    """By whatever name, with and without `--resume`."""
    path, link = write_json_lines(tmp_path / "in.jsonl", TEXTS), tmp_path / "link.jsonl"
    link.symlink_to(path)
    before = path.read_bytes()
    for output in (path, link, tmp_path / "nowhere" / ".." / "in.jsonl"):
        for more in ((), ("--resume",)):
            said = refusal("recognize", "-m", tiny_bundle_folder, path, "-o", output, *more)
            assert said == f"--output: found {output}, which is read as well; expected another file"
    assert path.read_bytes() == before


def test_a_missing_input_is_refused_before_results_are_touched(tiny_bundle_folder: Path, tmp_path: Path) -> None:
    """Even the last of several."""
    path, output = write_json_lines(tmp_path / "in.jsonl", TEXTS), tmp_path / "out.jsonl"
    output.write_text("kept\n", encoding="utf-8")
    for missing, reason in ((tmp_path / "im.jsonl", "No such file or directory"), (tmp_path, "Is a directory")):
        said = refusal("recognize", "-m", tiny_bundle_folder, path, missing, "-o", output)
        assert said == f"{missing}: cannot be read: {reason}"
    assert output.read_text(encoding="utf-8") == "kept\n"


def test_a_full_disk_is_named(tiny_bundle_folder: Path) -> None:
    said = refusal("recognize", "-m", tiny_bundle_folder, "-o", "/dev/full", stdin="Bo Larsen")
    assert said == "/dev/full: No space left on device"


def test_files_that_cannot_be_read_or_written(tiny_bundle_folder: Path, tmp_path: Path) -> None:
    model = ("recognize", "-m", tiny_bundle_folder)
    missing = tmp_path / "no" / "file"
    assert refusal(*model, missing) == f"{missing}: cannot be read: No such file or directory"
    assert refusal(*model, "-o", missing, stdin="x") == f"{missing}: No such file or directory"
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Zoë".encode("latin-1"))
    assert refusal(*model, latin) == f"{latin}: found byte 0xEB at position 2, expected UTF-8"
    said = refusal(*model, "--lines", stdin=b"Bo\nZo\xeb\n")
    assert said == "standard input:2: found byte 0xEB at position 2, expected UTF-8"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("London", "found no valid JSON (Expecting value: line 1 column 1 (char 0)), expected an object"),
        ("[]", "the line: found [], expected an object"),
    ],
)
def test_a_bad_line_names_file_line_and_reason(
    tiny_bundle_folder: Path, tmp_path: Path, line: str, reason: str
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(f'{{"text": "Bo", "id": 7}}\n\n{line}\n', encoding="utf-8")
    assert refusal("recognize", "-m", tiny_bundle_folder, path) == f"{path}:3: {reason}"
