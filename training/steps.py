"""What wraps a step: optimiser groups, the schedule, the randomness of a step, gradients over processes.

Knows modules and numbers; knows no data and no loss.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.config import OptimizerConfig

NOT_DECAYED = (nn.Embedding, nn.LayerNorm, nn.RMSNorm)


def build_optimizer(encoder: nn.Module, head: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW in four groups: encoder and head by learning rate, weights of linear maps with decay, all else without."""
    groups = []
    for module, lr in ((encoder, config.lr), (head, config.head_lr)):
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
    rest = (progress - config.warmup_fraction) / (1.0 - config.warmup_fraction)
    return 1.0 - rest if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * rest))


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


def sum_over_processes(value: float, accelerator: Accelerator) -> float:
    """The sum of every process's value."""
    total = torch.tensor(value, dtype=torch.float32, device=accelerator.device)
    return value if accelerator.num_processes == 1 else float(accelerator.reduce(total, reduction="sum"))


def _by_decay(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            bare = isinstance(part, NOT_DECAYED) or name.endswith("bias")
            (plain if bare else decayed).append(parameter)
    return decayed, plain
