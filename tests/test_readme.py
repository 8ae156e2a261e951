"""README, docs and recipes tell the truth: of the tree, of the starter's answer, and of what the command lines take."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from ner_service.cli import app as service
from ner_service.recognizer import Recognizer
from ner_service.replies import EntityReply, entity_replies
from ner_service.text.offsets import OffsetConverter
from training.cli import app as train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
STARTER = ROOT / "models" / "starter"


def tree_of_readme() -> set[str]:
    """Paths of the files that the tree names: a line is `name  what`, two spaces deeper in each folder."""
    block = README.split("## The tree")[1].split("```")[1]
    folders: list[str] = []
    files: set[str] = set()
    for line in block.strip("\n").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name)
        else:
            files.add("".join(folders) + name)
    return files


def tree_on_disk() -> set[str]:
    found = set()
    for room in ("ner_service", "training", "benchmarks"):
        for path in (ROOT / room).rglob("*"):
            hidden = "__pycache__" in path.parts or any(part.endswith(".egg-info") for part in path.parts)
            if path.is_file() and not hidden and path.suffix in (".py", ".toml", ".js", ".html", ".css"):
                found.add(path.relative_to(ROOT).as_posix())
    return {path for path in found if not path.endswith("__init__.py") or "import" in (ROOT / path).read_text("utf-8")}


def test_the_tree_names_every_file_and_no_other() -> None:
    assert tree_of_readme() == tree_on_disk()


def example() -> tuple[list[str], list[list[dict[str, object]]]]:
    texts = json.loads(re.search(r"""-d '(\{"inputs".*\})'""", README)[1])["inputs"]  # type: ignore[index]
    answer = json.loads(README.split("```json")[1].split("```")[0])
    return texts, [result["entities"] for result in answer["results"]]


def test_the_answer_is_the_starters() -> None:
    texts, expected = example()
    found: list[list[EntityReply]] = []
    for text, answer in zip(texts, Recognizer.load(STARTER, "cpu").recognize(texts), strict=True):
        assert not isinstance(answer, Exception)
        found.append(entity_replies(text, answer.entities, OffsetConverter(text, "codepoint")))
    for shown, real in zip(expected, found, strict=True):
        assert [{**entity, "score": None} for entity in shown] == [{**entity, "score": None} for entity in real]
        assert [entity["score"] for entity in shown] == pytest.approx([entity["score"] for entity in real], abs=2e-3)


def test_the_example_shows_nesting_and_chinese() -> None:
    texts, expected = example()
    assert any(entity["parent"] is not None for entities in expected for entity in entities)
    assert any("\u4e00" <= character <= "\u9fff" for text in texts for character in text)


def shown_commands() -> list[str]:
    """Every line that calls `ner-service` or `ner-train`, in a block of README and docs or a comment of a recipe."""
    pages = (ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("training/recipes/**/*.toml"))
    whole = "\n".join(re.sub(r"\\\n#?", " ", page.read_text(encoding="utf-8")) for page in pages)
    return sorted(set(re.findall(r"^(?:#? +)?(ner-(?:service|train) .*)", whole, re.MULTILINE)))


def take(line: str) -> None:
    """Parse a command line as its program does, without running it; raises where that would refuse it."""
    name, *arguments = shlex.split(line, comments=True)
    command = get_command({"ner-service": service, "ner-train": train}[name])
    while isinstance(command, TyperGroup):
        command = command.commands[arguments.pop(0)]
    command.make_context(name, arguments)


@pytest.mark.parametrize("line", shown_commands())
def test_a_command_that_is_shown_is_taken(line: str) -> None:
    take(line)


@pytest.mark.parametrize("line", ["ner-train evaluate BUNDLE DATA --nope", "ner-service serve --port many"])
def test_one_that_is_wrong_is_not(line: str) -> None:
    with pytest.raises(Exception, match=r"No such option|valid integer"):
        take(line)
