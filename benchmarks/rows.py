"""Results as rows, a line of JSON each, and the runs that make them: some at a time, until the time is over.

Knows no benchmark. A row is a frozen dataclass; its lists are read as tuples.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING, TypeVar

from ner_service.records import structure

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row")
Run = TypeVar("Run", bound=Hashable)


def read_rows(kind: type[Row], path: Path) -> list[Row]:
    """The rows of a file, none where there is no file.

    Raises:
        ConfigError: a line that is no such row.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [structure(kind, json.loads(line), f"{path.name}:{number}") for number, line in enumerate(lines, start=1)]


def append_row(path: Path, row: DataclassInstance) -> None:
    """Write a row behind the others, its fields in their order."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def run_planned(
    plan: Callable[[], Iterable[Run]], execute: Callable[[Run], None], *, jobs: int, minutes: float
) -> None:
    """Execute what is planned, `jobs` at a time; none is begun after so many minutes.

    The plan is asked before every run, for what is still to do may hang on what has been done: where nothing is left
    while a run is at work, it is asked again when that is over. No run is begun twice.
    """
    until_s = time.monotonic() + 60 * minutes
    begun: set[Run] = set()
    at_work: set[Run] = set()
    changed = Condition()

    def begin() -> Run | None:
        with changed:
            while time.monotonic() < until_s:
                run = next((run for run in plan() if run not in begun), None)
                if run is not None:
                    begun.add(run)
                    at_work.add(run)
                    return run
                if not at_work:
                    break
                changed.wait()
        return None

    def work() -> None:
        while (run := begin()) is not None:
            try:
                execute(run)
            finally:
                with changed:
                    at_work.discard(run)
                    changed.notify_all()

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(work) for _ in range(jobs)]:
            future.result()


def spread(values: Sequence[float]) -> str:
    """Mean, standard deviation and number of seeds, as tables show them."""
    deviation = f"({statistics.stdev(values):.4f}) of {len(values)}" if len(values) > 1 else "(one seed)"
    return f"{statistics.fmean(values):.4f} {deviation}"
