"""What a run has come to, and its snapshot on disk: all that a resumed run needs, written whole or not at all."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ner_service.errors import ConfigError, writing
from ner_service.model.text_model import TextModel
from training.objectives import Weighted
from training.steps import AveragedWeights

SHOWN = 5
"""Differences of two runs that a message names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """What an epoch came to.

    `loss` is the mean weighted loss of its steps, `losses` the unweighted ones by objective. `dev` is what was measured
    on what is held out: F1 at the model's thresholds, or losses by objective; `score` makes one number of it, the
    higher the better. After an epoch without a measure `dev` is empty and `score` None.
    """

    epoch: int
    loss: float
    losses: Mapping[str, float]
    dev: Mapping[str, float]
    score: float | None


@dataclass(slots=True, kw_only=True)
class State:
    """Model, objectives and optimiser, the place in the run, and the best weights so far.

    `extra` are the objectives' parameters that are not the model's; `average` is set where weights are averaged.
    """

    model: TextModel
    objectives: tuple[Weighted, ...]
    extra: nn.ModuleDict
    optimizer: torch.optim.Optimizer
    average: AveragedWeights | None = None
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_sums: dict[str, float] = field(default_factory=dict)
    history: list[EpochRecord] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best(self) -> EpochRecord | None:
        """The measured epoch with the highest score, the first of equals."""
        measured = [record for record in self.history if record.score is not None]
        return max(measured, key=lambda record: (record.score, -record.epoch), default=None)

    def parameters(self) -> Iterable[nn.Parameter]:
        """All that is trained."""
        modules: tuple[nn.Module, ...] = (self.model, self.extra)
        return (parameter for module in modules for parameter in module.parameters() if parameter.requires_grad)

    def save(self, path: Path, identity: Mapping[str, object]) -> None:
        """Write a snapshot; `identity` says which run it belongs to."""
        value = {
            "identity": identity,
            "model": self.model.state_dict(),
            "extra": self.extra.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average and {"weights": self.average.weights, "num_updates": self.average.num_updates},
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "loss_sums": self.loss_sums,
            "history": [asdict(record) for record in self.history],
            "best_weights": self.best_weights,
        }
        scratch = path.with_name(f".{path.name}.part")
        with writing(path), scratch.open("wb") as file:
            try:
                torch.save(value, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # torch puts a message of its own over the file's
                    raise error.__context__ from None
                raise
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)

    def restore(self, path: Path, identity: Mapping[str, object]) -> None:
        """Take up the run where a snapshot left it.

        Raises:
            ConfigError: the snapshot is damaged, or of another run; names what of it is another.
        """
        _check_whole(path)
        value = torch.load(path, map_location="cpu", weights_only=True)
        if others := list(_differences(value.get("identity"), identity)):
            raise ConfigError(f"{path}: belongs to another run, expected this one; {'; '.join(others[:SHOWN])}")
        self.model.load_state_dict(value["model"])
        self.extra.load_state_dict(value["extra"])
        self.optimizer.load_state_dict(value["optimizer"])
        if self.average is not None:
            self.average.num_updates = value["average"]["num_updates"]
            for name, tensor in value["average"]["weights"].items():
                self.average.weights[name].copy_(tensor)
        self.epoch, self.step = value["epoch"], value["step"]
        self.loss_sum, self.loss_sums = value["loss_sum"], value["loss_sums"]
        self.history = [EpochRecord(**record) for record in value["history"]]
        self.best_weights = value["best_weights"]


def _differences(there: object, here: object, name: str = "") -> Iterator[str]:
    """What is not the same in a snapshot and in a run, by the names of the run's keys."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in dict.fromkeys((*there, *here)):
            yield from _differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield f"{name}: found {there!r} there, {here!r} here"


def _check_whole(path: Path) -> None:
    """A snapshot is a zip archive with a checksum of each part."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        damaged = str(error)
    if damaged is not None:
        raise ConfigError(f"{path}: damaged ({damaged}); expected a snapshot of ner-train. Delete it to start anew")
