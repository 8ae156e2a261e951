"""Trains a run in processes that are killed with SIGKILL and resumed, and beside it the same run left alone.

    python -m tests.training.killed_run VERB RUN FOLDER [option of ner-train VERB ...]

Writes FOLDER/whole, FOLDER/killed and FOLDER/seed (the run with another seed) and prints as JSON how each process
ended. Processes are forked from one that has imported everything and computed nothing: an import takes seconds.
"""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from training import loop
from training.cli import app, runs

Hook = Callable[[], None]
ALWAYS_S = -1.0


def main(verb: str, run: str, folder: Path, *options: str) -> None:
    arguments = [verb, run, *options, "-o"]
    killed = [*arguments, str(folder / "killed"), "--resume"]
    ends = [
        _process([*arguments, str(folder / "whole")], _nothing),
        _process([*arguments, str(folder / "seed"), "--set", "seed=7"], _nothing),
        _process(killed, _kill_in_step(1), ALWAYS_S),
        _process(killed, _kill_in_step(3), ALWAYS_S),
        _process(killed, _kill_in_snapshot(2), ALWAYS_S),
        _process(killed, _kill_in_step(3), math.inf),
        _process(killed, _nothing, math.inf),
    ]
    print(json.dumps(ends))


def _process(arguments: list[str], hook: Hook, snapshot_every_s: float = math.inf) -> int:
    """Run ner-train in a process of its own; its exit code, or minus the signal that ended it."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            runs.SNAPSHOT_EVERY_S = snapshot_every_s
            hook()
            app(arguments, standalone_mode=False)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _nothing() -> None:
    pass


def _kill_in_step(number: int) -> Hook:
    """SIGKILL when the gradient of the process's `number`-th step stands, before the weights are moved."""

    def hook() -> None:
        update = loop._update
        calls = 0

        def counted(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            update(*arguments)

        loop._update = counted  # type: ignore[assignment]

    return hook


def _kill_in_snapshot(number: int) -> Hook:
    """SIGKILL when half of the process's `number`-th snapshot is written."""

    def hook() -> None:
        save = torch.save
        calls = 0

        def counted(value: object, file: Any) -> None:
            nonlocal calls
            calls += 1
            if calls < number:
                save(value, file)
                return
            whole = io.BytesIO()
            save(value, whole)
            file.write(whole.getvalue()[: whole.tell() // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        torch.save = counted  # type: ignore[assignment]

    return hook


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
