"""Trains a run and writes the gradient of its first step and its last weights: in one process or, started by
`accelerate launch`, in several.

    python -m tests.training.shared_steps FOLDER OUTPUT [setting ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from tests.training.runs import NO_DROPOUT, small_setup
from training import loop
from training.assembly import new_state
from training.loop import weights_of
from training.state import State


def record_steps(folder: Path, output: Path, *settings: str) -> None:
    """Write a file of tensors for each process: `OUTPUT/0.pt`, `OUTPUT/1.pt`."""
    torch.set_num_threads(1)
    setup = small_setup(folder, *NO_DROPOUT, *settings)
    accelerator = Accelerator(cpu=True)
    state = new_state(setup, Accelerator(cpu=True))
    gradients: dict[str, torch.Tensor] = {}
    update = loop._update

    def recorded(state: State, parameters: list[nn.Parameter], clip_norm: float) -> None:
        if not gradients:
            gradients.update({n: p.grad.clone() for n, p in state.model.named_parameters() if p.grad is not None})
        update(state, parameters, clip_norm)

    loop._update = recorded
    try:
        reports = list(loop.train(setup, state, accelerator))
    finally:
        loop._update = update
    output.mkdir(exist_ok=True)
    value = {
        "num_processes": accelerator.num_processes,
        "steps": [report.num_steps for report in reports],
        "losses": [report.loss for report in reports],
        "f1": [record.score for record in state.history],
        "gradients": gradients,
        "weights": weights_of(state.model),
    }
    torch.save(value, output / f"{accelerator.process_index}.pt")
    accelerator.end_training()


if __name__ == "__main__":
    record_steps(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
