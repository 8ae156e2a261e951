"""RoFormer-Sim: three stages of learning vectors of sentences, and writing each of two similar ones from the other.

A row is a source and its target under UniLM's mask. Position 0 sees the source alone, so its vector is that of the
source, whatever is written after it; where nothing is to be written, a row is its source alone. A step is one batch of
pairs, dealt out in chunks; its loss is

    contrast       -log of the share e^(scale cos) that a row's partner has among all other rows of the batch, mean
    distillation   100 times the squared difference of the cosines of any two rows and of a teacher's, mean
    supervised     -log probability of a pair's label from [u; v; |u - v|], mean

and, but for the last, plus `generation` times the mean -log probability of a target token. Labels are of two kinds,
similarity and inference: a batch is of one, the kinds take turns, and a pair's label is among those of its kind.

Source: kexue.fm/archives/8454 (RoFormer-Sim); github.com/ZhuiyiTechnology/simbert and roformer-sim.
Knows no file.

Shapes: N rows, L tokens, D hidden, E and F widths of the vectors, M targets, V vocabulary, P pairs, C classes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from ner_service.errors import ConfigError
from ner_service.model.batch import Batch, pad, pad_pairs
from ner_service.model.encoders import Encoder, walked
from ner_service.model.initialisation import initialise
from ner_service.model.text_model import TextModel
from training.config import SimilarityConfig
from training.data.pairs import Pair, in_turn, pair_batches
from training.gradient_cache import Encoded, cached_backward
from training.losses import cosine_distillation, pair_contrast
from training.objectives.similarity.rows import INFERENCE_CLASSES, SIMILARITY_CLASSES, Chunk, PairReader, class_of
from training.objectives.similarity.source import PairSource
from training.objectives.similarity.teacher import Teacher
from training.preparation import Setup

DISTILLATION_WEIGHT = 100.0


class Steps(Sequence[list[Chunk]]):
    """The chunks of each batch, made when they are asked for: an epoch's token ids are never held at once."""

    def __init__(self, batches: Sequence[list[Pair]], chunks: Callable[[list[Pair]], list[Chunk]]) -> None:
        self._batches = batches
        self._chunks = chunks

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        return self._chunks(self._batches[index])


class SimilarityObjective:
    """Trains encoder, embedding and language model on pairs of sentences.

    Raises:
        ConfigError: sentences are to be written by an encoder that attends under no other mask than its own, or the
            tokenizer lacks what the configuration asks for.
        BundleError, MissingHeadError: the teacher cannot be loaded or makes no vectors.
    """

    extra: nn.Module | None = None

    def __init__(self, setup: Setup, model: TextModel, accelerator: Accelerator, config: SimilarityConfig) -> None:
        assert model.embedding is not None
        supervised = config.stage == "supervised"
        self.writes = config.writes
        if self.writes:
            walked(cast(Encoder, model.encoder), "objectives.similarity.generation")
        self.model = model
        self.encoder = cast(Encoder, model.encoder)
        self.embedding = model.embedding
        self.accelerator = accelerator
        self.config = config
        self.seed = setup.run.seed
        self.source = PairSource(setup.corpus.raw, config)
        self.pad_id = setup.tokenizer.pad_id
        noise = 0.0 if supervised else config.noise
        self.reader = PairReader(setup.tokenizer, noise=noise, max_tokens=config.max_tokens, writes=self.writes)
        self.teacher = Teacher(setup.folder / config.teacher, accelerator.device) if config.teacher else None
        if supervised:
            num_classes = len(SIMILARITY_CLASSES) + len(INFERENCE_CLASSES)
            self.extra = nn.Linear(3 * config.size, num_classes, bias=False).apply(initialise)
        if not setup.corpus.dev:
            self._dev_steps()

    def steps(self, epoch: int) -> Steps:
        """The batches of an epoch, each in chunks; every process has one if there are enough pairs.

        Raises:
            ConfigError: there is no batch.
        """
        return self._steps(self.source.epoch(epoch), f"{self.seed} {epoch}", f"in epoch {epoch}")

    def count(self, batch: Chunk) -> float:
        """Its share: the counts of a step are 1 together, for the loss of a step is a mean over it."""
        return batch.share

    def num_tokens(self, batch: Chunk) -> int:
        return batch.num_tokens

    def backward(self, batches: Sequence[Chunk], scale: float) -> float:
        if self.extra is not None:
            return sum(self._learn_labels(chunk, scale) for chunk in batches)
        taught = [(chunk, self._taught(chunk)) for chunk in batches]
        found = cached_backward(lambda case: self._encode(*case), taught, self._coupled_loss, self.accelerator, scale)
        return found.coupled + found.own

    @torch.no_grad()
    def dev_loss(self) -> float:
        """The mean over the batches of what is held out, by their rows; with noise, the same every time."""
        steps = self._dev_steps()
        num_rows = [step[0].num_batch_rows for step in steps]
        summed = sum(num * float(self.loss(step)) for num, step in zip(num_rows, steps, strict=True))
        return summed / sum(num_rows)

    def loss(self, batch: Sequence[Chunk]) -> Tensor:
        """The loss of all chunks of a batch, in one graph."""
        if self.extra is not None:
            return torch.stack([self._label_loss(chunk) for chunk in batch]).sum()
        encoded = [self._encode(chunk, self._taught(chunk)) for chunk in batch]
        own = [each.own_loss() for each in encoded if each.own_loss]
        return sum(own, self._coupled_loss(torch.cat([each.vectors_NE for each in encoded])))

    # ---- data

    def _dev_steps(self) -> Steps:
        return self._steps(self.source.dev(), "dev", "held out")

    def _steps(self, pairs: Sequence[Pair], seed: str, place: str) -> Steps:
        generator = random.Random(f"pairs {seed}")
        kinds = [pair_batches(kind, self.config.batch_pairs, generator) for kind in self._kinds(pairs)]
        batches = in_turn(kinds)
        if not batches:
            found = f"{len(pairs)} pairs {place}"
            raise ConfigError(f"objectives.similarity: found {found}, expected at least two without a common sentence")
        return Steps(batches, lambda batch: self._chunks(batch, seed))

    def _kinds(self, pairs: Sequence[Pair]) -> list[Sequence[Pair]]:
        """What may not be in one batch: similarity and inference, where labels are learnt."""
        if self.extra is None:
            return [pairs]
        return [[pair for pair in pairs if pair.infers == infers] for infers in (False, True)]

    def _chunks(self, batch: Sequence[Pair], seed: str) -> list[Chunk]:
        """A batch in chunks. The noise follows from seed and pair, so it is the same however they are cut."""
        rows = [row for pair in batch for row in self.reader.rows(pair, random.Random(f"{seed} {pair}"))]
        num_pairs = min(self.config.chunk_pairs, ceil(len(batch) / self.accelerator.num_processes))
        return [
            Chunk(
                rows=tuple(rows[2 * first : 2 * (first + num_pairs)]),
                labels=tuple(class_of(pair) for pair in batch[first : first + num_pairs]),
                num_batch_rows=len(rows),
                num_batch_targets=sum(len(row.target) for row in rows),
            )
            for first in range(0, len(batch), num_pairs)
        ]

    # ---- contrast, distillation and generation

    def _taught(self, chunk: Chunk) -> Tensor | None:
        """The teacher's vectors [N, F] of the clean sources."""
        return self.teacher.vectors([row.sentence for row in chunk.rows]) if self.teacher else None

    def _encode(self, chunk: Chunk, taught_NF: Tensor | None) -> Encoded:
        """Vectors of the sources, [N, E] or, beside the teacher's, [N, E + F]; and what writing the targets costs."""
        with self.accelerator.autocast():
            batch = self._read(chunk)
            hidden_NLD = self.encoder(batch)
            vectors_NE = self.embedding(batch.firsts(hidden_NLD))
        if taught_NF is not None:
            vectors_NE = torch.cat([vectors_NE, taught_NF], -1)
        if not self.writes:
            return Encoded(vectors_NE)
        weight = self.config.generation / chunk.num_batch_targets
        return Encoded(vectors_NE, lambda: weight * self._writing_loss(batch, hidden_NLD))

    def _read(self, chunk: Chunk) -> Batch:
        device = self.accelerator.device
        if self.writes:
            return pad_pairs([(row.source, row.target) for row in chunk.rows], self.pad_id, device)
        return pad([row.source for row in chunk.rows], self.pad_id, device)

    def _writing_loss(self, batch: Batch, hidden_NLD: Tensor) -> Tensor:
        """The cross-entropy of every target token from the state before it, summed."""
        assert self.model.language_model is not None
        assert batch.segment_BL is not None
        target_NL = batch.segment_BL[:, 1:].bool()
        with self.accelerator.autocast():
            logits_MV = self.model.language_model(hidden_NLD[:, :-1][target_NL], self.encoder.token_embedding.weight)
        if logits_MV.dtype != torch.float64:
            logits_MV = logits_MV.float()
        return functional.cross_entropy(logits_MV, batch.token_ids_BL[:, 1:][target_NL], reduction="sum")

    def _coupled_loss(self, vectors_NE: Tensor) -> Tensor:
        if self.teacher is None:
            return pair_contrast(vectors_NE, self.config.scale).mean()
        student_NE, teacher_NF = vectors_NE[:, : self.config.size], vectors_NE[:, self.config.size :]
        return DISTILLATION_WEIGHT * cosine_distillation(student_NE, teacher_NF.detach())

    # ---- labels

    def _learn_labels(self, chunk: Chunk, scale: float) -> float:
        loss = self._label_loss(chunk)
        (loss * scale).backward()
        return float(loss.detach())

    def _label_loss(self, chunk: Chunk) -> Tensor:
        """The cross-entropy of each pair's label, summed, over the pairs of the whole batch."""
        assert self.extra is not None
        with self.accelerator.autocast():
            vectors_NE = self.model.embed(self._read(chunk))
            first_PE, second_PE = vectors_NE[0::2], vectors_NE[1::2]
            logits_PC = self.extra(torch.cat([first_PE, second_PE, (first_PE - second_PE).abs()], -1))
        if logits_PC.dtype != torch.float64:
            logits_PC = logits_PC.float()
        label_P = torch.tensor(chunk.labels, device=logits_PC.device)
        logits_PC = within_kind(logits_PC, label_P)
        return functional.cross_entropy(logits_PC, label_P, reduction="sum") / (chunk.num_batch_rows // 2)


def within_kind(logits_PC: Tensor, label_P: Tensor) -> Tensor:
    """The logits with those of the other kind than a pair's label as good as impossible; no gradient comes to them."""
    infers_C = torch.arange(logits_PC.shape[-1], device=logits_PC.device) >= INFERENCE_CLASSES.start
    infers_P = label_P >= INFERENCE_CLASSES.start
    return logits_PC.masked_fill(infers_P[:, None] != infers_C, torch.finfo(logits_PC.dtype).min)
