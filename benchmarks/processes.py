"""A module of the project run as a process of its own, with what it cost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a process wrote to its standard output, its processor time, and its largest resident size."""

    output: str
    cpu_s: float
    peak_mib: float


def run_module(module: str, arguments: Sequence[str]) -> Finished:
    """Run `python -m module`, on one thread, to its end.

    Raises:
        SystemExit: it ended with another code than 0.
    """
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return Finished(
        output=output, cpu_s=round(used.ru_utime + used.ru_stime, 1), peak_mib=round(used.ru_maxrss / 1024, 1)
    )
