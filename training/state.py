"""What a run has come to, and its snapshot on disk: all that a resumed run needs, written whole or not at all."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ner_service.errors import ConfigError
from ner_service.model.text_model import TextModel


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """What an epoch came to: the mean loss of its steps, and F1 on the dev documents at the model's thresholds."""

    epoch: int
    loss: float
    f1: float


@dataclass(slots=True, kw_only=True)
class State:
    """Model and optimiser, the place in the run, and the best weights so far."""

    model: TextModel
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    history: list[EpochRecord] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best(self) -> EpochRecord | None:
        """The epoch with the highest F1, the first of equals."""
        return max(self.history, key=lambda record: (record.f1, -record.epoch), default=None)

    def save(self, path: Path, fingerprint: str) -> None:
        """Write a snapshot; `fingerprint` says which run it belongs to."""
        value = {
            "fingerprint": fingerprint,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "history": [asdict(record) for record in self.history],
            "best_weights": self.best_weights,
        }
        scratch = path.with_name(f".{path.name}.part")
        with scratch.open("wb") as file:
            torch.save(value, file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)

    def restore(self, path: Path, fingerprint: str) -> None:
        """Take up the run where a snapshot left it.

        Raises:
            ConfigError: the snapshot is of another configuration or of other data.
        """
        value = torch.load(path, map_location="cpu", weights_only=True)
        if value["fingerprint"] != fingerprint:
            raise ConfigError(f"{path}: belongs to another configuration or to other data; expected the same run")
        self.model.load_state_dict(value["model"])
        self.optimizer.load_state_dict(value["optimizer"])
        self.epoch, self.step, self.loss_sum = value["epoch"], value["step"], value["loss_sum"]
        self.history = [EpochRecord(**record) for record in value["history"]]
        self.best_weights = value["best_weights"]
