"""The helps of both programs are what users read: a change of theirs is seen in a golden file (`make golden`)."""

from __future__ import annotations

import pytest

from tests.golden import HELP, PROGRAMS, help_of


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_the_golden_one(program: str) -> None:
    assert help_of(program) == (HELP / f"{program}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_tells_every_verb_and_option(program: str) -> None:
    text = help_of(program)
    verbs = {
        "ner-service": ("serve", "recognize", "inspect"),
        "ner-train": (
            "init",
            "import",
            "train",
            "pretrain",
            "evaluate",
            "calibrate",
            "export",
            "augment",
            "pseudo-label",
            "similar",
        ),
    }
    assert all(f"$ {program} {verb} --help\n" in text for verb in verbs[program])
    assert max(map(len, text.splitlines())) <= 100
