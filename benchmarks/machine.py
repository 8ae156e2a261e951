"""What a measurement was taken on: the processor or the GPU, the day, and torch."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ner_service.recognizer import pick_device


def processor() -> str:
    """The processor's name, where the system tells it, and the vector arithmetic that torch has on it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}), {os.cpu_count()} cores"


def on_gpu() -> bool:
    return pick_device("auto").type == "cuda"


def where() -> dict[str, Any]:
    """The fields `date`, `hardware` and `torch` of a row, for a run of one thread or on a GPU."""
    hardware = f"{torch.cuda.get_device_name()}, {processor()}" if on_gpu() else f"{processor()}, one thread"
    return {"date": datetime.now(UTC).date().isoformat(), "hardware": hardware, "torch": version("torch")}
