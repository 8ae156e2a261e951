"""A prepared run -> its accelerator, its objectives and its state before the first step.

The one place that knows every objective.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import nn

from ner_service.errors import ConfigError
from ner_service.model.encoders import Encoder
from ner_service.model.text_model import TextModel
from ner_service.recognizer import pick_device
from training.config import RunConfig, WeightConfig
from training.objectives import Objective, Weighted
from training.preparation import Setup
from training.state import State
from training.steps import Adversarial, AveragedWeights, build_optimizer

LEADING = WeightConfig(weight=1.0)


def accelerator_of(run: RunConfig) -> Accelerator:
    """Device and precision of a run: bf16 where the device computes with it, else fp32.

    A CPU without bf16 arithmetic imitates it, at a tenth of the speed of fp32.
    """
    cpu = pick_device(run.device).type == "cpu"
    mixed = run.precision == "bf16" and (not cpu or cpu_has_bf16())
    return Accelerator(cpu=cpu, mixed_precision="bf16" if mixed else "no")


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bf16 matrices, as oneDNN reports it."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-any-return]


def new_state(setup: Setup, accelerator: Accelerator) -> State:
    """Model, objectives and optimiser of a run, on the accelerator's device.

    Raises:
        ConfigError: an objective asks for what the encoder, the tokenizer or the data cannot give.
    """
    run = setup.run
    model = setup.build_model().to(accelerator.device)
    objectives = build_objectives(setup, model, accelerator)
    extra = nn.ModuleDict({o.name: o.objective.extra for o in objectives if o.objective.extra is not None})
    extra.to(accelerator.device)
    heads = nn.ModuleList([part for name, part in model.named_children() if name != "encoder"])
    optimizer = build_optimizer(model.encoder, nn.ModuleList([*heads, extra]), run.optimizer)
    average = AveragedWeights(model, run.regularisation.ema) if run.regularisation.ema else None
    return State(model=model, objectives=objectives, extra=extra, optimizer=optimizer, average=average)


def build_objectives(setup: Setup, model: TextModel, accelerator: Accelerator) -> tuple[Weighted, ...]:
    """What the run learns: the spans of its documents first, if it has any, then what its configuration names."""
    run, table = setup.run, setup.run.objectives
    built: list[Weighted] = []
    if setup.corpus.train:
        from training.objectives.spans import SpansObjective

        spans: Objective[Any] = SpansObjective(setup, model, accelerator)
        if run.regularisation.fgm:
            embedding = cast(Encoder, model.encoder).token_embedding
            spans = Adversarial(spans, embedding, run.regularisation.fgm, accelerator)
        built.append(Weighted("spans", spans, LEADING))
    if table.univae:
        from training.objectives.univae import UniVAEObjective

        built.append(Weighted("univae", UniVAEObjective(setup, model, accelerator, table.univae), table.univae))
    if table.similarity:
        from training.objectives.similarity import SimilarityObjective

        similarity = SimilarityObjective(setup, model, accelerator, table.similarity)
        built.append(Weighted("similarity", similarity, table.similarity))
    if table.masked_language_model:
        from training.objectives.masked_language_model import MaskedLanguageModelObjective

        masked = MaskedLanguageModelObjective(setup, model, accelerator, table.masked_language_model)
        built.append(Weighted("masked_language_model", masked, table.masked_language_model))
    if table.distillation:
        from training.objectives.distillation import DistillationObjective

        distillation = DistillationObjective(setup, model, accelerator, table.distillation)
        built.append(Weighted("distillation", distillation, table.distillation))
    if not built:
        raise ConfigError("objectives: found none, expected at least one to learn from texts and pairs")
    return tuple(built)
