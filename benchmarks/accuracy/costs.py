"""What a training run costs in time and memory, by what says most about it on this machine.

    python -m benchmarks.accuracy.costs MODULE [ARGUMENT ...]

On a CPU that is the processor time of the process, which other work disturbs least, and its largest resident size. On a
GPU both would tell of the host alone, so there it is the time on the wall and the most memory that torch had allocated
on the GPU; only the process itself knows that. The command runs a module in its own process and adds a line that says
it to what the module writes.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from benchmarks.machine import on_gpu
from benchmarks.processes import run_module

Clock = Literal["cpu", "wall"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Seconds by a clock and the most memory: with "cpu" the processor's and the process's, with "wall" the GPU's."""

    seconds: float
    peak_mib: float
    clock: Clock


def run_measured(module: str, arguments: Sequence[str]) -> tuple[str, Cost]:
    """What a module wrote to its standard output, run to its end in a process of its own, and what it cost.

    Raises:
        SystemExit: it ended with another code than 0.
    """
    if not on_gpu():
        finished = run_module(module, arguments)
        return finished.output, Cost(seconds=finished.cpu_s, peak_mib=finished.peak_mib, clock="cpu")
    output = run_module("benchmarks.accuracy.costs", [module, *arguments]).output
    written, _, cost = output.removesuffix("\n").rpartition("\n")
    return written, Cost(**json.loads(cost))


def main() -> None:
    """Run a module as `python -m` does and say what it cost."""
    module = sys.argv[1]
    del sys.argv[0]  # the module sees its own arguments
    started_s = time.monotonic()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise
    seconds = round(time.monotonic() - started_s, 1)
    peak_mib = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    print(json.dumps(asdict(Cost(seconds=seconds, peak_mib=peak_mib, clock="wall"))))


if __name__ == "__main__":
    main()
