"""What wraps a step: optimiser groups, the schedule, randomness, gradients over processes, FGM, averaged weights.

Knows modules and numbers; knows no data and no loss.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.config import OptimizerConfig
from training.objectives import Objective

T = TypeVar("T")


def build_optimizer(encoder: nn.Module, heads: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW in four groups: encoder and heads by learning rate, weights of linear maps with decay, all else without."""
    groups = []
    for module, lr in ((encoder, config.lr), (heads, config.head_lr)):
        decayed, plain = _by_decay(module)
        groups.append({"params": decayed, "lr": lr, "weight_decay": config.weight_decay})
        groups.append({"params": plain, "lr": lr, "weight_decay": 0.0})
    for group in groups:
        group["peak_lr"] = group["lr"]
    return torch.optim.AdamW(groups, eps=1e-8, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, progress: float, config: OptimizerConfig) -> None:
    """Learning rates at `progress` of the run, 0 to 1: a linear climb over the warm-up, then down to 0."""
    factor = schedule_factor(progress, config)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def schedule_factor(progress: float, config: OptimizerConfig) -> float:
    """The share of the peak learning rate, 0 to 1, at `progress` of the run."""
    if progress < config.warmup_fraction:
        return progress / config.warmup_fraction
    return 1.0 - (progress - config.warmup_fraction) / (1.0 - config.warmup_fraction)


def seed_step(seed: int, epoch: int, step: int, process: int) -> None:
    """Make the randomness of a step (dropout) depend on nothing but its place, so that a resumed run repeats it."""
    torch.manual_seed(random.Random(f"{seed} {epoch} {step} {process}").getrandbits(63))


def sum_gradients(parameters: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Replace every gradient by its sum over all processes, in one exchange."""
    if accelerator.num_processes == 1:
        return
    tensors = list(parameters)
    for tensor in tensors:
        if tensor.grad is None:
            tensor.grad = torch.zeros_like(tensor)
    flat = torch.cat([tensor.grad.flatten() for tensor in tensors if tensor.grad is not None])
    total = accelerator.reduce(flat, reduction="sum")
    for tensor, part in zip(tensors, total.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.grad = part.view_as(tensor)


def average_over_processes(tensors: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Replace every tensor's values by their mean over all processes."""
    if accelerator.num_processes > 1:
        for tensor in tensors:
            tensor.copy_(accelerator.reduce(tensor, reduction="mean"))


class Adversarial(Generic[T]):
    """An objective whose every step is learnt twice: as it is, and after the token embeddings were moved against it.

    The embeddings E move by epsilon * g / |g| for the gradient g of the whole step, and back.

    Source: Miyato et al., FGM (arXiv 1605.07725); kexue.fm/archives/7234.
    """

    def __init__(
        self, objective: Objective[T], embedding: nn.Embedding, epsilon: float, accelerator: Accelerator
    ) -> None:
        self.objective = objective
        self.extra = objective.extra
        self.steps, self.count, self.num_tokens = objective.steps, objective.count, objective.num_tokens
        self.embedding = embedding
        self.epsilon = epsilon
        self.accelerator = accelerator

    def backward(self, batches: Sequence[T], scale: float) -> float:
        """The gradient of both passes; the loss of the first."""
        weight = self.embedding.weight
        before = torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        summed = self.objective.backward(batches, scale)
        own = torch.zeros_like(weight) if weight.grad is None else weight.grad - before
        gradient = own if self.accelerator.num_processes == 1 else self.accelerator.reduce(own, reduction="sum")
        kept = weight.detach().clone()
        weight.data.add_(gradient * (self.epsilon / gradient.norm().clamp(min=1e-12)))
        self.objective.backward(batches, scale)
        weight.data.copy_(kept)
        return summed


class AveragedWeights:
    """The exponential moving average of a model's floating-point weights and buffers; the others are copied.

    The share that stays is min(decay, (1 + n) / (10 + n)) after n updates, so that the average of a short run is not
    its random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        stays = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, 1.0 - stays)
            else:
                self.weights[name].copy_(tensor)
        self.num_updates += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within, the model has the averaged weights."""
        current = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(current)


def sum_over_processes(value: float, accelerator: Accelerator) -> float:
    """The sum of every process's value."""
    total = torch.tensor(value, dtype=torch.float32, device=accelerator.device)
    return value if accelerator.num_processes == 1 else float(accelerator.reduce(total, reduction="sum"))


def _by_decay(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            bare = isinstance(part, nn.Embedding) or parameter.ndim < 2
            (plain if bare else decayed).append(parameter)
    return decayed, plain
