"""Modules as processes: what they write, and what becomes of a failure."""

from __future__ import annotations

import re
import sys

import pytest

from benchmarks.processes import run_module


def test_a_process_gives_its_output_and_what_it_took() -> None:
    finished = run_module("calendar", ["2026", "1"])
    assert "January 2026" in finished.output
    assert finished.cpu_s >= 0.0
    assert finished.peak_mib > 1.0  # an interpreter alone takes some ten


def test_another_exit_code_ends_with_the_command() -> None:
    command = f"{sys.executable} -m json.tool nowhere.json"
    with pytest.raises(SystemExit, match=rf"^{re.escape(command)}: exit code [1-9]"):
        run_module("json.tool", ["nowhere.json"])
