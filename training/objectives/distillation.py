"""Distillation: an encoder's hidden states drawn to those of a teacher, layer by layer, on raw texts.

Both read the same tokens, so every state has one to compare with. Knows no label. Shapes: B rows, L tokens, D hidden,
N tokens of a batch.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ner_service.bundle import Bundle
from ner_service.errors import ConfigError
from ner_service.model.batch import Batch, pad
from ner_service.model.config import longest_text
from ner_service.model.encoders import Encoder, build_encoder
from ner_service.model.text_model import TextModel
from ner_service.text.tokenizer import TextTokenizer
from training.config import DistillationConfig
from training.data.loader import batches_of_epoch
from training.data.pieces import check_room, inner_slices
from training.objectives import backward_each, steps_of
from training.preparation import Setup

TEXTS_AT_ONCE = 256
NUM_MEASURED = 128
"""Texts from which the spread of the teacher's states is measured."""

LAST = 2.0
"""The weight of the last layer, which the heads read, beside 1 for each of the others."""


class DistillationObjective:
    """Mean square of (h - t) / s over tokens, dimensions and layers, for hidden states h of the run's encoder and t of
    the teacher, whose standard deviation in that dimension and layer is s. The last layer counts twice.

    Token embeddings that are the teacher's own are left as they are. Nothing is dropped, for the teacher drops nothing:
    with dropout the encoder learns to be right on average, and its last layer stays far off.

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
        teacher = _load(setup.folder / config.teacher, self.tokenizer, self.encoder, config.max_tokens)
        self.teacher = teacher.to(accelerator.device)
        self.layers = _layers(config, self.encoder.num_layers, cast(Encoder, self.teacher).num_layers)
        self.deviations = self._measure(self.texts(0)[:NUM_MEASURED])
        if torch.equal(self.encoder.token_embedding.weight, cast(Encoder, self.teacher).token_embedding.weight):
            self.encoder.token_embedding.requires_grad_(False)
        held_out = [] if setup.corpus.dev else setup.corpus.raw.dev_texts()
        self.dev_batches = self._batches(list(self._pieces(held_out)), seed=0, epoch=0)
        if not (setup.corpus.dev or self.dev_batches):
            raise ConfigError("data.dev_fraction: found no text held out, expected some to measure by; raise it")

    def steps(self, epoch: int) -> list[Sequence[list[array[int]]]]:
        """An epoch's steps.

        Raises:
            ConfigError: the epoch has no text.
        """
        pieces = list(self._pieces(self.texts(epoch)))
        if not pieces:
            raise ConfigError(f"data.texts: found no text in epoch {epoch + 1}, expected some to learn from")
        batches = self._batches(pieces, self.run.seed, epoch)
        return steps_of(batches, self.run.batch.accumulate * self.accelerator.num_processes)

    def count(self, batch: list[array[int]]) -> float:
        """Tokens."""
        return float(self.num_tokens(batch))

    def num_tokens(self, batch: list[array[int]]) -> int:
        return sum(map(len, batch))

    def backward(self, batches: Sequence[list[array[int]]], scale: float) -> float:
        return backward_each(self.loss, batches, scale)

    @torch.no_grad()
    def dev_loss(self) -> float:
        """The mean loss over what is held out."""
        return sum(float(self.loss(batch)) for batch in self.dev_batches) / sum(map(self.count, self.dev_batches))

    def loss(self, batch: list[array[int]]) -> Tensor:
        """The mean over layers and dimensions, summed over tokens."""
        inputs = pad(batch, self.tokenizer.pad_id, self.accelerator.device)
        weights = [1.0] * (len(self.layers) - 1) + [LAST]
        with self.accelerator.autocast(), without_dropout(self.encoder):
            targets = self._targets(inputs)
            states = [state_BLD[inputs.valid_BL()] for state_BLD in self.encoder.states(inputs)][1:]
        losses = [
            weight * ((state_ND - target_ND) / deviation_D).square().mean(-1).sum()
            for weight, state_ND, target_ND, deviation_D in zip(weights, states, targets, self.deviations, strict=True)
        ]
        return torch.stack(losses).sum() / sum(weights)

    @torch.no_grad()
    def _targets(self, inputs: Batch) -> list[Tensor]:
        """The teacher's states [N, D] of the layers that are learnt."""
        states = list(cast(Encoder, self.teacher).states(inputs))
        return [states[layer][inputs.valid_BL()].float() for layer in self.layers]

    def _measure(self, texts: Sequence[str]) -> list[Tensor]:
        """Standard deviations [D] of the teacher's states, a layer each."""
        batches = self._batches(list(self._pieces(texts)), seed=0, epoch=0)
        if not batches:
            raise ConfigError("data.texts: found no text in the first epoch, expected some to learn from")
        inputs = (pad(batch, self.tokenizer.pad_id, self.accelerator.device) for batch in batches)
        found = zip(*map(self._targets, inputs), strict=True)
        return [torch.cat(states).std(0).clamp(min=1e-6) for states in found]

    def _pieces(self, texts: Sequence[str]) -> Iterator[array[int]]:
        """The tokens of texts, each between the special tokens of a text, long texts cut."""
        start_ids, end_ids = self.tokenizer.start_ids, self.tokenizer.end_ids
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            for encoding in self.tokenizer.encode_batch(texts[first : first + TEXTS_AT_ONCE]):
                for inner in inner_slices(len(encoding), self.tokenizer, self.config.max_tokens):
                    yield array("i", [*start_ids, *encoding.token_ids[inner], *end_ids])

    def _batches(self, pieces: Sequence[array[int]], seed: int, epoch: int) -> list[list[array[int]]]:
        return list(batches_of_epoch(pieces, self.config.batch_tokens, seed=seed, epoch=epoch))


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


def _load(folder: Path, tokenizer: TextTokenizer, student: Encoder, max_tokens: int) -> nn.Module:
    """The teacher's encoder, frozen."""
    bundle = Bundle.load(folder)
    name = f"objectives.distillation.teacher: {folder}"
    if bundle.tokenizer.to_json() != tokenizer.to_json():
        raise ConfigError(f"{name}: found another tokenizer, expected that of the run; start both from one import")
    teacher = build_encoder(bundle.manifest.model.encoder)
    longest = longest_text(bundle.manifest.model.encoder)
    if longest is not None and max_tokens > longest:
        raise ConfigError(f"{name}: found one that reads {longest} tokens, expected max_tokens = {max_tokens} or more")
    width = cast(Encoder, teacher).hidden_size
    if width != student.hidden_size:
        raise ConfigError(f"{name}: found hidden states {width} wide, expected {student.hidden_size} as of the run")
    own = {key.removeprefix("encoder."): value for key, value in bundle.weights.items() if key.startswith("encoder.")}
    teacher.load_state_dict(own)
    return teacher.eval().requires_grad_(False)


def _layers(config: DistillationConfig, num_own: int, num_teacher: int) -> tuple[int, ...]:
    """The teacher's layer for each own one, counted from 1."""
    layers = config.layers or tuple((number + 1) * num_teacher // num_own for number in range(num_own))
    if len(layers) != num_own or layers[-1] > num_teacher or layers[0] < 1:
        raise ConfigError(
            f"objectives.distillation.layers: found {list(layers)}, expected one of the teacher's {num_teacher} layers "
            f"for each of {num_own}"
        )
    return layers
