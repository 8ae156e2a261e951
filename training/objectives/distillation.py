"""Distillation: an encoder's hidden states drawn to those of a teacher, layer by layer, on raw texts.

Each reads a text as its own tokenizer cuts it; what is compared are the parts of the text that both have whole. Knows
no label. Shapes: B rows, L tokens, D hidden, N tokens of a batch, P parts of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ner_service.bundle import Bundle
from ner_service.errors import ConfigError
from ner_service.model.batch import pad
from ner_service.model.config import longest_text
from ner_service.model.encoders import Encoder, build_encoder
from ner_service.model.text_model import TextModel
from ner_service.text.tokenizer import TextTokenizer
from training.config import DistillationConfig
from training.data.alignment import ALONE, Passage, Reading, passages_of
from training.data.loader import batches_of_epoch
from training.data.pieces import check_room
from training.objectives import backward_each, steps_of
from training.preparation import Setup

NUM_MEASURED = 128
"""Texts from which the spread of the teacher's states is measured."""

LAST = 2.0
"""The weight of the last layer, which the heads read, beside 1 for each of the others."""


class DistillationObjective:
    """Mean square of (h - t) / s over parts, dimensions and layers: h and t are the means of the hidden states of a
    part's tokens, of the run's encoder and of the teacher, and s is the standard deviation of t in that dimension and
    layer. The last layer counts twice.

    So a teacher that reads words in pieces teaches a run that reads them by the character. Under one tokenizer a part
    is a token. Token embeddings that are the teacher's own are left as they are. Nothing is dropped, for the teacher
    drops nothing: with dropout the encoder learns to be right on average, and its last layer stays far off.

    Source: after Jiao et al., TinyBERT (arXiv 1909.10351), whose hidden states go through a map of their own.

    Raises:
        BundleError: the teacher cannot be trusted or understood.
        ConfigError: teacher and encoder do not fit each other, or nothing is held out to measure by.
    """

    extra: nn.Module | None = None

    def __init__(self, setup: Setup, model: TextModel, accelerator: Accelerator, config: DistillationConfig) -> None:
        self.run = setup.run
        self.texts = setup.corpus.raw.texts
        self.tokenizer = setup.tokenizer
        self.encoder = cast(Encoder, model.encoder)
        self.accelerator = accelerator
        self.config = config
        check_room(config.max_tokens, self.tokenizer, "objectives.distillation")
        teacher, self.teacher_tokenizer, self.teacher_limit = _load(
            setup.folder / config.teacher, self.encoder, config.max_tokens
        )
        self.teacher = teacher.to(accelerator.device)
        self.layers = _layers(config, self.encoder.num_layers, cast(Encoder, self.teacher).num_layers)
        self.deviations = self._measure(self.texts(0)[:NUM_MEASURED])
        if torch.equal(self.encoder.token_embedding.weight, cast(Encoder, self.teacher).token_embedding.weight):
            self.encoder.token_embedding.requires_grad_(False)
        held_out = [] if setup.corpus.dev else setup.corpus.raw.dev_texts()
        self.dev_batches = self._batches(list(self._passages(held_out)), seed=0, epoch=0)
        if not (setup.corpus.dev or self.dev_batches):
            raise ConfigError("data.dev_fraction: found no text held out, expected some to measure by; raise it")

    def steps(self, epoch: int) -> list[Sequence[list[Passage]]]:
        """An epoch's steps.

        Raises:
            ConfigError: the epoch has no text.
        """
        passages = list(self._passages(self.texts(epoch)))
        if not passages:
            raise ConfigError(f"data.texts: found no text in epoch {epoch + 1}, expected some to learn from")
        batches = self._batches(passages, self.run.seed, epoch)
        return steps_of(batches, self.run.batch.accumulate * self.accelerator.num_processes)

    def count(self, batch: list[Passage]) -> float:
        """Parts."""
        return float(sum(passage.own.num_parts for passage in batch))

    def num_tokens(self, batch: list[Passage]) -> int:
        return sum(len(passage.own.token_ids) for passage in batch)

    def backward(self, batches: Sequence[list[Passage]], scale: float) -> float:
        return backward_each(self.loss, batches, scale)

    @torch.no_grad()
    def dev_loss(self) -> float:
        """The mean loss over what is held out."""
        return sum(float(self.loss(batch)) for batch in self.dev_batches) / sum(map(self.count, self.dev_batches))

    def loss(self, batch: list[Passage]) -> Tensor:
        """The mean over layers and dimensions, summed over parts."""
        weights = [1.0] * (len(self.layers) - 1) + [LAST]
        losses = [
            weight * ((state_PD - target_PD) / deviation_D).square().mean(-1).sum()
            for weight, state_PD, target_PD, deviation_D in zip(
                weights, self.states(batch), self.targets(batch), self.deviations, strict=True
            )
        ]
        return torch.stack(losses).sum() / sum(weights)

    def states(self, batch: list[Passage]) -> list[Tensor]:
        """What the run's encoder makes of each part, [P, D] a layer."""
        with self.accelerator.autocast(), without_dropout(self.encoder):
            return _part_means(self.encoder, self.tokenizer.pad_id, [passage.own for passage in batch])[1:]

    @torch.no_grad()
    def targets(self, batch: list[Passage]) -> list[Tensor]:
        """What the teacher makes of each part, [P, D] a layer that is learnt."""
        with self.accelerator.autocast():
            readings = [passage.other for passage in batch]
            states = _part_means(cast(Encoder, self.teacher), self.teacher_tokenizer.pad_id, readings)
        return [states[layer] for layer in self.layers]

    def _measure(self, texts: Sequence[str]) -> list[Tensor]:
        """Standard deviations [D] of what the teacher makes of parts, a layer each."""
        batches = self._batches(list(self._passages(texts)), seed=0, epoch=0)
        if not batches:
            raise ConfigError("data.texts: found no text in the first epoch, expected some to learn from")
        found = zip(*map(self.targets, batches), strict=True)
        return [torch.cat(states).std(0).clamp(min=1e-6) for states in found]

    def _passages(self, texts: Sequence[str]) -> Iterator[Passage]:
        return passages_of(texts, self.tokenizer, self.teacher_tokenizer, self.config.max_tokens, self.teacher_limit)

    def _batches(self, passages: Sequence[Passage], seed: int, epoch: int) -> list[list[Passage]]:
        return list(batches_of_epoch(passages, self.config.batch_tokens, seed=seed, epoch=epoch))


@contextmanager
def without_dropout(encoder: Encoder) -> Iterator[None]:
    """The encoder as it is when it serves."""
    module = cast(nn.Module, encoder)
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _part_means(encoder: Encoder, pad_id: int, readings: Sequence[Reading]) -> list[Tensor]:
    """The mean state of the tokens of each part, [P, D], of the embeddings and of every layer."""
    device = encoder.token_embedding.weight.device
    inputs = pad([reading.token_ids for reading in readings], pad_id, device)
    numbers: list[int] = []
    num_parts = 0
    for reading in readings:
        numbers += [part if part == ALONE else num_parts + part for part in reading.parts]
        num_parts += reading.num_parts
    part_N = torch.tensor(numbers, device=device)
    shared_N = part_N != ALONE
    part_N = part_N[shared_N]
    size_P = torch.bincount(part_N)
    means = []
    for state_BLD in encoder.states(inputs):
        state_ND = state_BLD[inputs.valid_BL()][shared_N].float()
        sum_PD = state_ND.new_zeros(num_parts, state_ND.shape[1]).index_add(0, part_N, state_ND)
        means.append(sum_PD / size_P[:, None])
    return means


def _load(folder: Path, student: Encoder, max_tokens: int) -> tuple[nn.Module, TextTokenizer, int | None]:
    """The teacher's encoder, frozen, its tokenizer, and how many tokens it reads if there is a limit."""
    bundle = Bundle.load(folder)
    name = f"objectives.distillation.teacher: {folder}"
    teacher = build_encoder(bundle.manifest.model.encoder)
    longest = longest_text(bundle.manifest.model.encoder)
    if longest is not None and max_tokens > longest:
        raise ConfigError(f"{name}: found one that reads {longest} tokens, expected max_tokens = {max_tokens} or more")
    width = cast(Encoder, teacher).hidden_size
    if width != student.hidden_size:
        raise ConfigError(f"{name}: found hidden states {width} wide, expected {student.hidden_size} as of the run")
    own = {key.removeprefix("encoder."): value for key, value in bundle.weights.items() if key.startswith("encoder.")}
    teacher.load_state_dict(own)
    return teacher.eval().requires_grad_(False), bundle.tokenizer, longest


def _layers(config: DistillationConfig, num_own: int, num_teacher: int) -> tuple[int, ...]:
    """The teacher's layer for each own one, counted from 1."""
    layers = config.layers or tuple((number + 1) * num_teacher // num_own for number in range(num_own))
    if len(layers) != num_own or layers[-1] > num_teacher or layers[0] < 1:
        raise ConfigError(
            f"objectives.distillation.layers: found {list(layers)}, expected one of the teacher's {num_teacher} layers "
            f"for each of {num_own}"
        )
    return layers
