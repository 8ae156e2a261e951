"""One run, read top to bottom: a generator that yields after every step and every epoch.

Printing and exporting belong to the caller. A step's data, learning rate and dropout follow from (seed, epoch, step)
alone and `State` holds everything else, so a run that was killed and resumed ends in the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from ner_service.errors import ConfigError
from training.evaluation import compare, predict
from training.objectives import MeasuredObjective, Weighted
from training.preparation import Setup
from training.state import EpochRecord, State
from training.steps import average_over_processes, seed_step, set_learning_rate, sum_gradients, sum_over_processes

Measure: TypeAlias = tuple[dict[str, float], float | None]
"""What was measured on what is held out, and the one number made of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is. `loss` is that of the last step; `finished` is set on the report after an epoch's evaluation."""

    epoch: int
    step: int
    num_steps: int
    loss: float
    num_tokens: int
    finished: EpochRecord | None = None


def train(setup: Setup, state: State, accelerator: Accelerator) -> Iterator[Progress]:
    """Train from where `state` is to the end of the run, or until `patience` measures in a row brought no better score.

    One objective leads: its batches make the steps of an epoch. That is the spans where there are documents, else the
    one with the largest weight, of equals the one with the most steps. The others' batches are taken in their order, as
    many as there are steps, and again from the first where they run out. A step's batches are dealt out to the
    processes in turn; an objective's gradient is that of all its batches, summed over the processes and divided by the
    count of all their terms, whatever the number of processes.

    Raises:
        ConfigError: an epoch's loss or dev score is not a finite number.
    """
    run = setup.run
    parameters = list(state.parameters())
    while state.epoch < run.epochs and not _out_of_patience(state, run.patience):
        state.model.train()
        plans = [weighted.objective.steps(state.epoch) for weighted in state.objectives]
        num_steps = len(plans[0]) if setup.corpus.train else _steps_of_heaviest(state, plans)
        while state.step < num_steps:
            progress = (state.epoch + state.step / num_steps) / run.epochs
            set_learning_rate(state.optimizer, progress, run.optimizer)
            seed_step(run.seed, state.epoch, state.step, accelerator.process_index)
            loss, num_tokens = 0.0, 0
            for weighted, plan in zip(state.objectives, plans, strict=True):
                step = plan[state.step % len(plan)]
                loss += _learn(weighted, step, progress, state, accelerator)
                num_tokens += sum(weighted.objective.num_tokens(batch) for batch in step)
            sum_gradients(parameters, accelerator)
            _update(state, parameters, run.optimizer.clip_norm)
            state.loss_sum += loss
            state.step += 1
            yield Progress(epoch=state.epoch, step=state.step, num_steps=num_steps, loss=loss, num_tokens=num_tokens)
        record = _finish_epoch(setup, state, accelerator, num_steps)
        yield Progress(
            epoch=record.epoch, step=num_steps, num_steps=num_steps, loss=record.loss, num_tokens=0, finished=record
        )


def _steps_of_heaviest(state: State, plans: Sequence[Sequence[Any]]) -> int:
    weights = [weighted.weight.weight for weighted in state.objectives]
    _, num_steps = max(zip(weights, map(len, plans), strict=True))
    return num_steps


def _learn(weighted: Weighted, step: Sequence[Any], progress: float, state: State, accelerator: Accelerator) -> float:
    """Add one objective's gradient of a step; its weighted mean loss over all processes."""
    objective, weight = weighted.objective, weighted.weight.at(progress)
    count = sum(objective.count(batch) for batch in step)
    own = step[accelerator.process_index :: accelerator.num_processes]
    mean = sum_over_processes(1.0 / count * objective.backward(own, weight / count), accelerator)
    state.loss_sums[weighted.name] = state.loss_sums.get(weighted.name, 0.0) + mean
    return weight * mean


def _update(state: State, parameters: list[nn.Parameter], clip_norm: float) -> None:
    nn.utils.clip_grad_norm_(parameters, clip_norm)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    if state.average is not None:
        state.average.update(state.model)


def _finish_epoch(setup: Setup, state: State, accelerator: Accelerator, num_steps: int) -> EpochRecord:
    """Evaluate on the main process, tell the others, keep the best weights, move on to the next epoch."""
    _share_buffers(state, accelerator)
    due = (state.epoch + 1) % setup.run.evaluate_every == 0 or state.epoch + 1 == setup.run.epochs
    with state.average.applied(state.model) if state.average else nullcontext():
        nothing: Measure = ({}, None)
        measured = [_measure(setup, state) if due and accelerator.is_main_process else nothing]
        broadcast_object_list(measured)
        dev, score = measured[0]
        record = EpochRecord(
            epoch=state.epoch,
            loss=state.loss_sum / num_steps,
            losses={name: total / num_steps for name, total in state.loss_sums.items()},
            dev=dev,
            score=score,
        )
        _check_finite(record)
        state.history.append(record)
        if state.best is record:
            state.best_weights = weights_of(state.model)
    state.epoch, state.step, state.loss_sum, state.loss_sums = state.epoch + 1, 0, 0.0, {}
    return record


def _share_buffers(state: State, accelerator: Accelerator) -> None:
    """Every process saw other batches: the statistics that it kept of them (batch norms) become the mean of all."""
    names = {name for name, _ in state.model.named_buffers()}
    for tensors in (state.model.state_dict(), state.average.weights if state.average else {}):
        kept = [tensor for name, tensor in tensors.items() if name in names and tensor.is_floating_point()]
        average_over_processes(kept, accelerator)


def _check_finite(record: EpochRecord) -> None:
    if not (math.isfinite(record.loss) and math.isfinite(record.score or 0.0)):
        raise ConfigError(
            f"epoch {record.epoch + 1}: found the losses {dict(record.losses)} and, on what is held out, "
            f"{dict(record.dev)}, expected finite numbers; try a lower learning rate"
        )


def _measure(setup: Setup, state: State) -> Measure:
    """F1 on the dev documents, where there are some; else every objective's loss on what it holds out."""
    if setup.corpus.dev:
        f1 = compare(setup.corpus.dev, predict(setup.recognizer(state.model), setup.corpus.dev)).micro.f1
        return {"f1": f1}, f1
    state.model.eval()
    # Only the spans cannot measure themselves, and where they are learnt there are dev documents.
    objectives = {weighted.name: cast(MeasuredObjective[Any], weighted.objective) for weighted in state.objectives}
    dev = {name: objective.dev_loss() for name, objective in objectives.items()}
    total = sum(weighted.weight.weight * dev[weighted.name] for weighted in state.objectives)
    return dev, -total


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def _out_of_patience(state: State, patience: int | None) -> bool:
    if patience is None or state.best is None:
        return False
    since = state.history[state.best.epoch + 1 :]
    return sum(record.score is not None for record in since) >= patience
