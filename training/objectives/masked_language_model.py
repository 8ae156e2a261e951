"""Masked language model: whole words of raw texts are hidden, and the model names their tokens from what is around.

A text is masked as a whole and then cut, so a long one loses nothing. Only the masked places go through the head.
Shapes: B rows, L tokens, D hidden, V vocabulary, N masked places.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from ner_service.errors import ConfigError
from ner_service.model.encoders import Encoder
from ner_service.model.text_model import TextModel
from training.config import MaskedLanguageModelConfig
from training.corruption import Vocabulary, mask_words
from training.data.loader import batches_of_epoch
from training.data.pieces import check_room, inner_slices
from training.data.words import word_groups, word_spans
from training.objectives import backward_each, steps_of
from training.preparation import Setup

UNMASKED = -1
TEXTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class MaskedText:
    """What the model reads, and the token to be named at each place; `UNMASKED` where none is.

    Arrays, because an epoch's texts are held at once and a tuple takes nine times as much.
    """

    token_ids: array[int]
    targets: array[int]

    def __len__(self) -> int:
        return len(self.token_ids)


class MaskedLanguageModelObjective:
    """Trains encoder and language-model head on raw texts; another epoch masks other words of the same text.

    Source: Devlin et al., BERT (arXiv 1810.04805); whole words: Cui et al. (arXiv 1906.08101).

    Raises:
        ConfigError: the tokenizer names no mask token, `max_tokens` has no room for a text, or nothing is held out to
            measure by.
    """

    extra: nn.Module | None = None

    def __init__(
        self, setup: Setup, model: TextModel, accelerator: Accelerator, config: MaskedLanguageModelConfig
    ) -> None:
        self.run = setup.run
        self.texts = setup.corpus.raw.texts
        self.tokenizer = setup.tokenizer
        self.model = model
        self.accelerator = accelerator
        self.config = config
        self.vocabulary = Vocabulary.of_tokenizer(self.tokenizer, "objectives.masked_language_model")
        check_room(config.max_tokens, self.tokenizer, "objectives.masked_language_model")
        held_out = [] if setup.corpus.dev else setup.corpus.raw.dev_texts()
        self.dev_batches = self._batches(list(self._masked(held_out, "dev")), seed=0, epoch=0)
        if not setup.corpus.dev:
            self._num_dev()  # refused now, not after an epoch

    def steps(self, epoch: int) -> list[Sequence[list[MaskedText]]]:
        """An epoch's steps.

        Raises:
            ConfigError: no text of the epoch has a word to mask.
        """
        texts = list(self._masked(self.texts(epoch), f"{self.run.seed} {epoch}"))
        if not texts:
            raise ConfigError(f"data.texts: found no word in the texts of epoch {epoch + 1}, expected some to mask")
        batches = self._batches(texts, self.run.seed, epoch)
        return steps_of(batches, self.run.batch.accumulate * self.accelerator.num_processes)

    def count(self, batch: list[MaskedText]) -> float:
        """Masked tokens."""
        return float(sum(len(text) - text.targets.count(UNMASKED) for text in batch))

    def num_tokens(self, batch: list[MaskedText]) -> int:
        return sum(len(text) for text in batch)

    def backward(self, batches: Sequence[list[MaskedText]], scale: float) -> float:
        return backward_each(self.loss, batches, scale)

    @torch.no_grad()
    def dev_loss(self) -> float:
        """The mean cross entropy, in nats, of what is held out under masks that are the same for every seed.

        Raises:
            ConfigError: nothing is held out.
        """
        num_masked = self._num_dev()
        return sum(float(self.loss(batch)) for batch in self.dev_batches) / num_masked

    def loss(self, batch: list[MaskedText]) -> Tensor:
        """The cross entropy in nats, summed over masked tokens."""
        logits_NV, target_N = self.predict(batch)
        return functional.cross_entropy(logits_NV, target_N, reduction="sum")

    def predict(self, batch: list[MaskedText]) -> tuple[Tensor, Tensor]:
        """Logits [N, V], in fp32 or wider, and tokens [N] of the masked places."""
        device = self.accelerator.device
        inputs = self.model.batch([text.token_ids for text in batch], self.tokenizer.pad_id, device)
        target_BL = self.model.batch([text.targets for text in batch], UNMASKED, device).token_ids_BL
        masked_BL = target_BL != UNMASKED
        assert self.model.language_model is not None
        with self.accelerator.autocast():
            hidden_ND = self.model.encoder(inputs)[masked_BL]
            embedding_VW = cast(Encoder, self.model.encoder).token_embedding.weight
            logits_NV = self.model.language_model(hidden_ND, embedding_VW)
        return logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)), target_BL[masked_BL]

    def _num_dev(self) -> float:
        num_masked = sum(self.count(batch) for batch in self.dev_batches)
        if not num_masked:
            raise ConfigError("data.dev_fraction: found no text held out, expected some to measure by; raise it")
        return num_masked

    def _masked(self, texts: Sequence[str], seed: str) -> Iterator[MaskedText]:
        """Pieces in which something is masked; the masks of a text follow from seed and place."""
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            chunk = texts[first : first + TEXTS_AT_ONCE]
            for index, encoding in enumerate(self.tokenizer.encode_batch(chunk), start=first):
                groups = word_groups(encoding, word_spans(texts[index]))
                generator = random.Random(f"mask {seed} {index}")
                masked = mask_words(encoding.token_ids, groups, self.vocabulary, generator, self.config.share)
                targets = [UNMASKED] * len(encoding)
                for position in masked.positions:
                    targets[position] = encoding.token_ids[position]
                pieces = self._cut(masked.token_ids, targets)
                yield from (piece for piece in pieces if self.count([piece]))

    def _cut(self, token_ids: Sequence[int], targets: Sequence[int]) -> Iterator[MaskedText]:
        """A masked text as pieces of about one length, each between the special tokens of a text."""
        start_ids, end_ids = self.tokenizer.start_ids, self.tokenizer.end_ids
        before, after = [UNMASKED] * len(start_ids), [UNMASKED] * len(end_ids)
        for inner in inner_slices(len(token_ids), self.tokenizer, self.config.max_tokens):
            yield MaskedText(
                array("i", [*start_ids, *token_ids[inner], *end_ids]), array("i", [*before, *targets[inner], *after])
            )

    def _batches(self, texts: Sequence[MaskedText], seed: int, epoch: int) -> list[list[MaskedText]]:
        return list(batches_of_epoch(texts, self.config.batch_tokens, seed=seed, epoch=epoch))
