"""UniVAE: sentences encoded into latent codes and written again from them.

The encoder reads a sentence plainly. The decoder, the same weights under a causal mask, sees of it the codes alone
(`ner_service.model.latent`), and is told at each token which one comes next, the end included. So nothing of this
objective changes what the other heads see of a text, apart from the weights that all of them share.

Source: kexue.fm/archives/8475, with padding left out of the loss and the start token no target.
Knows no document and no label. Shapes: B sentences, L tokens, D hidden, N targets, V vocabulary.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from ner_service.errors import ConfigError
from ner_service.model.batch import Batch, pad, pad_targets
from ner_service.model.encoders import Encoder, walked
from ner_service.model.latent import FIRST_POSITION
from ner_service.model.text_model import TextModel
from training.config import UniVAEConfig
from training.data.loader import batches_of_epoch
from training.data.texts import sentences
from training.objectives import backward_each, steps_of
from training.preparation import Setup

SENTENCES_AT_ONCE = 1024

Tokens: TypeAlias = "array[int]"
"""A sentence with the special tokens around it: an array, because all of an epoch are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What held-out sentences cost, in nats a target: writing them from their codes, and telling the codes."""

    cross_entropy: float
    kl: float

    @property
    def lower_bound(self) -> float:
        """The evidence lower bound of a target's log probability, if the codes were sampled."""
        return -(self.cross_entropy + self.kl)


class UniVAEObjective:
    """Trains encoder, latent codes and language model on raw sentences.

    Raises:
        ConfigError: the encoder's layers cannot be walked, the tokenizer marks no start or end of a text, `max_tokens`
            leaves no room between them, or nothing is held out to measure by.
    """

    extra: nn.Module | None = None

    def __init__(self, setup: Setup, model: TextModel, accelerator: Accelerator, config: UniVAEConfig) -> None:
        self.encoder = walked(cast(Encoder, model.encoder), "objectives.univae")
        assert model.latent is not None
        assert model.language_model is not None
        self.latent = model.latent
        self.language_model = model.language_model
        self.run = setup.run
        self.raw = setup.corpus.raw
        self.tokenizer = setup.tokenizer
        self.accelerator = accelerator
        self.config = config
        self.num_start, num_end = len(self.tokenizer.start_ids), len(self.tokenizer.end_ids)
        if not (self.num_start and num_end):
            raise ConfigError(
                f"objectives.univae: found a tokenizer that puts {self.num_start} tokens before a text and {num_end} "
                "after it, expected at least one each, to begin writing from and to end with"
            )
        self.most_tokens = config.max_tokens - self.num_start - num_end
        if self.most_tokens < 1:
            raise ConfigError(
                f"objectives.univae.max_tokens: found {config.max_tokens}, expected more than the "
                f"{self.num_start + num_end} special tokens around a text"
            )
        self.dev_batches = [] if setup.corpus.dev else self._batches(self.raw.dev_texts(), seed=0, epoch=0)
        if not setup.corpus.dev:
            self._num_dev_targets()  # refused now, not after an epoch

    def steps(self, epoch: int) -> list[Sequence[list[Tokens]]]:
        """The steps of an epoch's sentences.

        Raises:
            ConfigError: there is none or, for a Gaussian posterior, but one.
        """
        batches = self._batches(self.raw.texts(epoch), self.run.seed, epoch)
        if not batches:
            raise ConfigError(f"data.texts: found no sentence in the texts of epoch {epoch + 1}, expected some")
        if self.config.latent.posterior == "gaussian":
            batches = join_singles(batches)
            if not batches:
                found = f"found a single sentence in the texts of epoch {epoch + 1}, expected two that differ"
                raise ConfigError(f"data.texts: {found} for a Gaussian posterior")
        return steps_of(batches, self.run.batch.accumulate * self.accelerator.num_processes)

    def count(self, batch: list[Tokens]) -> float:
        """The number of targets: the tokens of the sentences and their ends."""
        return float(sum(len(tokens) - self.num_start for tokens in batch))

    def num_tokens(self, batch: list[Tokens]) -> int:
        return sum(map(len, batch))

    def backward(self, batches: Sequence[list[Tokens]], scale: float) -> float:
        return backward_each(self.loss, batches, scale)

    def dev_loss(self) -> float:
        return self.dev_evidence(sampled=False).cross_entropy

    @torch.no_grad()
    def dev_evidence(self, *, sampled: bool) -> Evidence:
        """The cost of what is held out, from the centres of the posteriors or from a sample of each.

        The model is to be in evaluation mode. Only the cost of samples bounds the evidence.

        Raises:
            ConfigError: nothing is held out.
        """
        num_targets = self._num_dev_targets()
        cross_entropy = kl = 0.0
        with self._sampling() if sampled else nullcontext():
            for batch in self.dev_batches:
                cross_entropy_N, kl_of_batch = self.terms(batch)
                cross_entropy += float(cross_entropy_N.sum())
                kl += float(kl_of_batch)
        return Evidence(cross_entropy=cross_entropy / num_targets, kl=kl / num_targets)

    def loss(self, batch: list[Tokens]) -> Tensor:
        """Cross-entropy summed over targets, and the divergence of the codes where the weights can lessen it."""
        cross_entropy_N, kl = self.terms(batch)
        total = cross_entropy_N.sum()
        return total + kl if kl.requires_grad else total

    def terms(self, batch: list[Tokens]) -> tuple[Tensor, Tensor]:
        """The cross-entropy of every target, row by row, and the divergence summed over sentences and codes."""
        with self.accelerator.autocast():
            latents = self.latent.encode(self.encoder, pad(batch, self.tokenizer.pad_id, self.accelerator.device))
            logits_NV = self.logits(batch, [latent.z_Bd for latent in latents])
        if logits_NV.dtype != torch.float64:
            logits_NV = logits_NV.float()
        targets = [token for tokens in batch for token in tokens[self.num_start :]]
        target_N = torch.tensor(targets, device=logits_NV.device)
        cross_entropy_N = functional.cross_entropy(logits_NV, target_N, reduction="none")
        return cross_entropy_N, sum((latent.kl_B.sum() for latent in latents), cross_entropy_N.new_zeros(()))

    def logits(self, batch: list[Tokens], codes: Sequence[Tensor]) -> Tensor:
        """What the decoder gives for every target [N, V], row by row, when it sees these codes."""
        written = [tokens[:-1] for tokens in batch]
        inputs = pad_targets(written, self.tokenizer.pad_id, self.accelerator.device, first_position=FIRST_POSITION)
        hidden_BLD = self.encoder(inputs, self.latent.caches(self.encoder, codes))
        before_ND = hidden_BLD[self._before_targets(inputs)]
        return self.language_model(before_ND, self.encoder.token_embedding.weight)  # type: ignore[no-any-return]

    def _before_targets(self, inputs: Batch) -> Tensor:
        """True at the tokens that a target follows, [B, L]: from the last start token on."""
        before_BL = inputs.valid_BL()
        before_BL[:, : self.num_start - 1] = False
        return before_BL

    def _num_dev_targets(self) -> float:
        num_targets = sum(map(self.count, self.dev_batches))
        if not num_targets:
            raise ConfigError("data.dev_fraction: found no sentence held out, expected some to measure by; raise it")
        return num_targets

    def _batches(self, texts: Sequence[str], seed: int, epoch: int) -> list[list[Tokens]]:
        pieces = list(self._pieces(texts))
        batches = batches_of_epoch(pieces, self.config.batch_tokens, seed=seed, epoch=epoch)
        return list(batches)

    def _pieces(self, texts: Sequence[str]) -> Iterator[Tokens]:
        """Every sentence of the texts; one that is too long in as many pieces as it takes."""
        start, end = self.tokenizer.start_ids, self.tokenizer.end_ids
        every = [sentence for text in texts for sentence in sentences(text)]
        for chunk in range(0, len(every), SENTENCES_AT_ONCE):
            for encoding in self.tokenizer.encode_batch(every[chunk : chunk + SENTENCES_AT_ONCE]):
                inner = encoding.token_ids[len(start) : len(encoding) - len(end)]
                for first in range(0, len(inner), self.most_tokens):
                    yield array("i", [*start, *inner[first : first + self.most_tokens], *end])

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        """Within, codes are samples of their posteriors, batch norms by their running statistics all the same."""
        posteriors = self.latent.posteriors
        for module in posteriors.modules():
            module.training = not isinstance(module, nn.BatchNorm1d)
        try:
            yield
        finally:
            posteriors.eval()


def join_singles(batches: Sequence[list[Tokens]]) -> list[list[Tokens]]:
    """The batches, those of one sentence joined to the next longer one, so that each has statistics of its own.

    A sentence that stands there several times is one. A batch outgrows its budget by what it takes in. The longest
    batch joins the one before it; all of a single sentence are none.
    """
    joined: dict[int, list[Tokens]] = {}
    waiting: list[Tokens] = []
    for index in sorted(range(len(batches)), key=lambda index: max(map(len, batches[index]))):
        batch = [*waiting, *batches[index]]
        if any(tokens != batch[0] for tokens in batch):
            joined[index], waiting = batch, []
        else:
            waiting = batch
    if joined:
        joined[next(reversed(joined))] += waiting
    return [batch for _, batch in sorted(joined.items())]
