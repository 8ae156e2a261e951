"""One run, read top to bottom: a generator that yields after every step and every epoch.

Printing and exporting belong to the caller. A step's data, learning rate and dropout follow from (seed, epoch, step)
alone and `State` holds everything else, so a run that was killed and resumed ends in the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from ner_service.model.text_model import TextModel
from training.evaluation import compare, predict
from training.objectives.spans import SpansObjective
from training.preparation import Setup
from training.state import EpochRecord, State
from training.steps import seed_step, set_learning_rate, sum_gradients, sum_over_processes


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
    """Train from where `state` is to the end of the run, or until dev F1 has not risen for `patience` epochs.

    Batches are dealt out to the processes in turn; a step's gradient is that of all its batches, summed over the
    processes and divided by the count of all their terms, whatever the number of processes.
    """
    run = setup.run
    objective = SpansObjective(setup, state.model, accelerator.device, accelerator.autocast)
    parameters = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    batches_a_step = run.batch.accumulate * accelerator.num_processes
    while state.epoch < run.epochs and not _out_of_patience(state, run.patience):
        state.model.train()
        batches = objective.batches(state.epoch)
        steps = [batches[first : first + batches_a_step] for first in range(0, len(batches), batches_a_step)]
        while state.step < len(steps):
            step = steps[state.step]
            set_learning_rate(state.optimizer, (state.epoch + state.step / len(steps)) / run.epochs, run.optimizer)
            seed_step(run.seed, state.epoch, state.step, accelerator.process_index)
            scale = 1.0 / sum(objective.count(batch) for batch in step)
            own = step[accelerator.process_index :: accelerator.num_processes]
            own_loss = scale * sum(objective.backward(batch, scale) for batch in own)
            loss = sum_over_processes(own_loss, accelerator)
            sum_gradients(parameters, accelerator)
            _update(state, parameters, run.optimizer.clip_norm)
            state.loss_sum += loss
            state.step += 1
            num_tokens = sum(objective.num_tokens(batch) for batch in step)
            yield Progress(epoch=state.epoch, step=state.step, num_steps=len(steps), loss=loss, num_tokens=num_tokens)
        record = _finish_epoch(setup, state, accelerator, len(steps))
        yield Progress(
            epoch=record.epoch, step=len(steps), num_steps=len(steps), loss=record.loss, num_tokens=0, finished=record
        )


def _update(state: State, parameters: list[nn.Parameter], clip_norm: float) -> None:
    nn.utils.clip_grad_norm_(parameters, clip_norm)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)


def _finish_epoch(setup: Setup, state: State, accelerator: Accelerator, num_steps: int) -> EpochRecord:
    """Evaluate on the main process, tell the others, keep the best weights, move on to the next epoch."""
    f1 = [_dev_f1(setup, state.model) if accelerator.is_main_process else 0.0]
    broadcast_object_list(f1)
    record = EpochRecord(epoch=state.epoch, loss=state.loss_sum / num_steps, f1=f1[0])
    if state.best is None or record.f1 > state.best.f1:
        state.best_weights = weights_of(state.model)
    state.history.append(record)
    state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
    return record


def _dev_f1(setup: Setup, model: TextModel) -> float:
    return compare(setup.corpus.dev, predict(setup.recognizer(model), setup.corpus.dev)).micro.f1


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def _out_of_patience(state: State, patience: int | None) -> bool:
    if patience is None or state.best is None:
        return False
    return state.history[-1].epoch - state.best.epoch >= patience
