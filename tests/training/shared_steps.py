"""Trains a run and writes the gradient of its first step and its last weights: in one process or, started by
`accelerate launch`, in several. The dropout of a batch of documents follows from the batch, wherever it is read.

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
from training.data.targets import Example
from training.loop import weights_of
from training.objectives.spans import SpansObjective
from training.state import State


def record_steps(folder: Path, output: Path, *settings: str) -> None:
    """Write a file of tensors for each process: `OUTPUT/0.pt`, `OUTPUT/1.pt`."""
    torch.set_num_threads(1)
    setup = small_setup(folder, *NO_DROPOUT, *settings)
    accelerator = Accelerator(cpu=True)
    state = new_state(setup, Accelerator(cpu=True))
    gradients: dict[str, torch.Tensor] = {}
    buffers: dict[str, torch.Tensor] = {}
    update = loop._update

    def recorded(state: State, parameters: list[nn.Parameter], clip_norm: float) -> None:
        if not gradients:
            gradients.update({n: p.grad.clone() for n, p in state.model.named_parameters() if p.grad is not None})
        buffers.update({n: b.clone() for n, b in state.model.named_buffers() if b.is_floating_point()})
        update(state, parameters, clip_norm)

    def seeded(objective: SpansObjective, batch: list[Example]) -> torch.Tensor:
        torch.manual_seed(sum(sum(example.encoding.token_ids) for example in batch))
        return loss(objective, batch)

    loss = SpansObjective.loss
    loop._update, SpansObjective.loss = recorded, seeded  # type: ignore[assignment, method-assign]
    try:
        reports = list(loop.train(setup, state, accelerator))
    finally:
        loop._update, SpansObjective.loss = update, loss  # type: ignore[method-assign]
    output.mkdir(exist_ok=True)
    value = {
        "num_processes": accelerator.num_processes,
        "steps": [report.num_steps for report in reports],
        "losses": [report.loss for report in reports],
        "f1": [record.score for record in state.history],
        "gradients": gradients,
        "weights": weights_of(state.model),
        "average": state.average.weights if state.average else {},
        "last_buffers": buffers,
    }
    torch.save(value, output / f"{accelerator.process_index}.pt")
    accelerator.end_training()


if __name__ == "__main__":
    record_steps(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
