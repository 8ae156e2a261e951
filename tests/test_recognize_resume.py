"""`--resume`: going on after the results of a run that was broken off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import invoke, refusal, results, spans, write_json_lines

TEXTS = ("Ada Lovelace wrote to Charles Babbage.", "李雷在北京大学读书。", "王医生去了广州 😀 London.")


def many(count: int) -> list[str]:
    return [f"{TEXTS[number % 3]} {number}" for number in range(count)]


def test_a_broken_off_run_goes_on(tiny_bundle_folder: Path, tmp_path: Path) -> None:
    path, whole, output = (
        write_json_lines(tmp_path / "in.jsonl", many(70)),
        tmp_path / "whole.jsonl",
        tmp_path / "out.jsonl",
    )
    assert invoke("recognize", "-m", tiny_bundle_folder, path, "-o", whole).exit_code == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == [f"t{number}" for number in range(70)]
    for kept in (b"", b"".join(lines[:20]), b"".join(lines[:20]) + lines[20][:25], lines[0][:-1], whole.read_bytes()):
        output.write_bytes(kept)
        result = invoke("recognize", "-m", tiny_bundle_folder, path, "-o", output, "--resume")
        assert result.exit_code == 0, result.stderr
        answers = results(output.read_text(encoding="utf-8"))
        assert [answer["id"] for answer in answers] == [f"t{number}" for number in range(70)]
        assert [spans(answer) for answer in answers] == [spans(json.loads(line)) for line in lines]
        assert output.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])


@pytest.mark.parametrize(
    ("numbers", "fault"),
    [
        ((1, 2, 3), "found the result of 't0', expected that of 't1': the inputs have changed"),
        ((0,), "found the result of 't1', expected none: there are fewer inputs"),
    ],
)
def test_results_of_other_inputs_are_not_gone_on_with(
    numbers: tuple[int, ...], fault: str, tiny_bundle_folder: Path, tmp_path: Path
) -> None:
    """Nor are they touched. Twin: of the same inputs they are."""
    path, output = write_json_lines(tmp_path / "in.jsonl", many(4)), tmp_path / "out.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    assert invoke("recognize", "-m", tiny_bundle_folder, path, "-o", output).exit_code == 0
    kept = "".join(output.read_text(encoding="utf-8").splitlines(keepends=True)[:2]) + '{"id"'
    output.write_text(kept, encoding="utf-8")
    path.write_text("".join(lines[number] for number in numbers), encoding="utf-8")
    said = refusal("recognize", "-m", tiny_bundle_folder, path, "-o", output, "--resume")
    assert said == f"{output}:{2 if len(numbers) == 1 else 1}: {fault}"
    assert output.read_text(encoding="utf-8") == kept
    path.write_text("".join(lines), encoding="utf-8")
    assert invoke("recognize", "-m", tiny_bundle_folder, path, "-o", output, "--resume").exit_code == 0


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("minutes of a meeting", "found no valid JSON (Expecting value: line 1 column 1 (char 0)), expected an object"),
        ('{"text": "Bo"}', "found no id and status, expected a result to go on after"),
    ],
)
def test_a_file_of_no_results_is_not_gone_on_with(
    line: str, fault: str, tiny_bundle_folder: Path, tmp_path: Path
) -> None:
    path, output = write_json_lines(tmp_path / "in.jsonl", TEXTS), tmp_path / "out.jsonl"
    output.write_text(f"{line}\n", encoding="utf-8")
    said = refusal("recognize", "-m", tiny_bundle_folder, path, "-o", output, "--resume")
    assert said == f"{output}:1: {fault}"
    assert output.read_text(encoding="utf-8") == f"{line}\n"


def test_without_resume_the_results_start_anew(tiny_bundle_folder: Path, tmp_path: Path) -> None:
    path, output = write_json_lines(tmp_path / "in.jsonl", TEXTS), tmp_path / "out.jsonl"
    for _ in range(2):
        assert invoke("recognize", "-m", tiny_bundle_folder, path, "-o", output).exit_code == 0
        assert len(output.read_text(encoding="utf-8").splitlines()) == 3


def test_resume_needs_an_output(tiny_bundle_folder: Path) -> None:
    said = refusal("recognize", "-m", tiny_bundle_folder, "--resume", stdin="x")
    assert said == "--resume: found no --output, expected the file to go on with"
