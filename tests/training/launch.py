"""Starts a module in several CPU processes, by a GPU's launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# `--cpu` alone starts a single process unless MPI is at hand.
OPTIONS = ("--multi_gpu", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")
ADDRESS = ("--main_process_ip=127.0.0.1", "--main_process_port=0")


def launch(num_processes: int, module: str, *arguments: str) -> None:
    """Run `python -m module arguments` that many times at once, joined by Gloo; fail if any of them fails."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *OPTIONS, *ADDRESS]
    command = [*launcher, f"--num_processes={num_processes}", "--module", module, *arguments]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
