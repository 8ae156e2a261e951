"""Rows as files, and plans of runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Barrier, Event

import pytest

from benchmarks.ablation import RESULTS
from benchmarks.ablation import Row as AblationRow
from benchmarks.rows import append_row, read_rows, run_planned, spread
from ner_service.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    name: str
    f1: float
    settings: tuple[str, ...]
    rule: str | None


def row(name: str, f1: float = 0.5) -> Row:
    return Row(name=name, f1=f1, settings=("lr=1", "名=2"), rule=None)


def test_a_row_is_a_line_with_its_fields_in_order(tmp_path: Path) -> None:
    append_row(tmp_path / "rows.jsonl", row("北京"))
    append_row(tmp_path / "rows.jsonl", row("second"))
    first, second = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert first == '{"name": "北京", "f1": 0.5, "settings": ["lr=1", "名=2"], "rule": null}'
    assert second.startswith('{"name": "second"')
    assert read_rows(Row, tmp_path / "rows.jsonl") == [row("北京"), row("second")]


def test_no_file_is_no_rows(tmp_path: Path) -> None:
    assert read_rows(Row, tmp_path / "rows.jsonl") == []


def test_a_line_of_another_benchmark_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"name": "a", "f1": 1.0, "settings": [], "rule": null, "cpu_s": 1}\n')
    with pytest.raises(ConfigError, match=r"rows\.jsonl:1.*cpu_s"):
        read_rows(Row, tmp_path / "rows.jsonl")


def test_committed_rows_read_and_written_again_are_the_same_bytes(tmp_path: Path) -> None:
    for each in read_rows(AblationRow, RESULTS):
        append_row(tmp_path / "rows.jsonl", each)
    assert (tmp_path / "rows.jsonl").read_bytes() == RESULTS.read_bytes()


def test_every_planned_run_is_executed_once_in_order() -> None:
    executed: list[int] = []
    run_planned(lambda: range(5), executed.append, jobs=1, minutes=10.0)
    assert executed == [0, 1, 2, 3, 4]


def test_jobs_run_at_a_time_and_share_the_plan() -> None:
    """Two runs that wait for each other end only where both have been begun."""
    both = Barrier(2, timeout=60)
    executed: list[int] = []

    def execute(run: int) -> None:
        both.wait()
        executed.append(run)

    run_planned(lambda: range(4), execute, jobs=2, minutes=10.0)
    assert sorted(executed) == [0, 1, 2, 3]


def test_the_plan_may_grow_by_what_has_been_done() -> None:
    executed: list[str] = []
    run_planned(lambda: ["first", *(["second"] if executed else [])], executed.append, jobs=1, minutes=10.0)
    assert executed == ["first", "second"]


def test_a_job_without_a_run_waits_for_what_the_others_make_possible() -> None:
    """The plan has nothing more until the first run is over; then two runs wait for each other."""
    both = Barrier(2, timeout=60)
    asked: list[None] = []
    asked_twice = Event()
    executed: list[str] = []

    def plan() -> list[str]:
        asked.append(None)
        if len(asked) == 2:
            asked_twice.set()
        return ["second", "third"] if executed else ["first"]

    def execute(run: str) -> None:
        if run == "first":
            assert asked_twice.wait(60)
        else:
            both.wait()
        executed.append(run)

    run_planned(plan, execute, jobs=2, minutes=10.0)
    assert executed[0] == "first"
    assert sorted(executed[1:]) == ["second", "third"]


def test_no_run_is_begun_after_the_time() -> None:
    executed: list[int] = []
    run_planned(lambda: range(5), executed.append, jobs=2, minutes=-1.0)
    assert executed == []


def test_a_run_that_fails_is_raised() -> None:
    def execute(run: int) -> None:
        raise ConfigError(f"run {run}")

    with pytest.raises(ConfigError, match="run 0"):
        run_planned(lambda: range(2), execute, jobs=1, minutes=10.0)


def test_the_spread_is_the_sample_deviation() -> None:
    assert spread([0.1, 0.2, 0.3]) == "0.2000 (0.1000) of 3"
    assert spread([0.25]) == "0.2500 (one seed)"
