"""Recognition: the multi-label loss over every span of a text, label by label.

A label that a document is not annotated for takes no part in the loss of that document, nor does a span inside a
mention of another label in a flat document. Shapes: B texts, C labels, L tokens, P positives of a text and label.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ner_service.model.batch import Batch, pad
from ner_service.model.text_model import TextModel
from training.data.augmentation import join_documents
from training.data.loader import batches_of_epoch
from training.data.targets import Example, encode_documents
from training.losses import sparse_zlpr, symmetric_kl
from training.objectives import backward_each, steps_of
from training.preparation import Setup


class SpansObjective:
    """Trains encoder and pointer head on annotated documents."""

    extra: nn.Module | None = None

    def __init__(self, setup: Setup, model: TextModel, accelerator: Accelerator) -> None:
        self.run = setup.run
        self.documents = setup.corpus.train
        self.tokenizer = setup.tokenizer
        self.labels = setup.corpus.labels
        self.model = model
        self.accelerator = accelerator

    def steps(self, epoch: int) -> list[Sequence[list[Example]]]:
        generator = random.Random(f"join {self.run.seed} {epoch}")
        documents = join_documents(self.documents, self.run.data.join, generator)
        examples, _ = encode_documents(documents, self.tokenizer, self.run.window, self.labels)
        batches = list(batches_of_epoch(examples, self.run.batch.tokens, seed=self.run.seed, epoch=epoch))
        return steps_of(batches, self.run.batch.accumulate * self.accelerator.num_processes)

    def count(self, batch: list[Example]) -> float:
        return float(sum(sum(example.annotated) for example in batch))

    def num_tokens(self, batch: list[Example]) -> int:
        return sum(len(example) for example in batch)

    def backward(self, batches: Sequence[list[Example]], scale: float) -> float:
        return backward_each(self.loss, batches, scale)

    def loss(self, batch: list[Example]) -> Tensor:
        """The loss summed over texts and annotated labels; in training with R-Drop, if the run has it."""
        device = self.accelerator.device
        token_ids = [example.encoding.token_ids for example in batch]
        inputs = pad(token_ids, self.tokenizer.pad_id, device, [example.encoding.positions for example in batch])
        length = inputs.token_ids_BL.shape[1]
        unknown_BCLL = unknown_cells(batch, len(self.labels), length).to(device)
        positive_BCP = positive_cells(batch, len(self.labels), length).to(device)
        alpha = self.run.regularisation.r_drop if self.model.training else 0.0
        grids = [self._scores(inputs, unknown_BCLL) for _ in range(2 if alpha else 1)]
        loss_BC = torch.stack([sparse_zlpr(scores_BCLL, positive_BCP) for scores_BCLL in grids]).mean(0)
        if alpha:
            loss_BC = loss_BC + alpha / 4 * r_drop(*grids)
        return (loss_BC * torch.tensor([example.annotated for example in batch], device=device)).sum()

    def _scores(self, inputs: Batch, unknown_BCLL: Tensor) -> Tensor:
        with self.accelerator.autocast():
            scores_BCLL: Tensor = self.model(inputs)
        return scores_BCLL.masked_fill(unknown_BCLL, -torch.inf)


def r_drop(first_BCLL: Tensor, second_BCLL: Tensor) -> Tensor:
    """The disagreement of two passes, averaged over the cells that count: loss_BC.

    Source: Liang et al., R-Drop (arXiv 2106.14448), in the closed form of independent sigmoids.
    """
    counted_BCLL = first_BCLL > -torch.inf
    return symmetric_kl(first_BCLL, second_BCLL).sum((2, 3)) / counted_BCLL.sum((2, 3)).clamp(min=1)


def positive_cells(batch: Sequence[Example], num_labels: int, length: int) -> Tensor:
    """Gold cells on the wire: flat indices start * length + end, [B, C, P], filled up with -1."""
    cells = [
        [[s * length + e for c, s, e in example.cells if c == label] for label in range(num_labels)]
        for example in batch
    ]
    longest = max(1, max(len(row) for text in cells for row in text))
    return torch.tensor([[row + [-1] * (longest - len(row)) for row in text] for text in cells])


def unknown_cells(batch: Sequence[Example], num_labels: int, length: int) -> Tensor:
    """True at the cells of flat texts that lie inside mentions, all of another label than they, [B, C, L, L].

    The cell of a mention is known, whatever the label.
    """
    unknown_BCLL = torch.zeros(len(batch), num_labels, length, length, dtype=torch.bool)
    known_BCLL = torch.zeros_like(unknown_BCLL)
    for row, example in enumerate(batch):
        for label, first, last, whole in example.covered:
            inside = slice(first, last + 1)
            unknown_BCLL[row, :, inside, inside] = True
            if label >= 0:
                known_BCLL[row, label, inside, inside] = True
            if whole:
                known_BCLL[row, :, first, last] = True
    return unknown_BCLL & ~known_BCLL
