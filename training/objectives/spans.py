"""Recognition: the multi-label loss over every span of a text, label by label.

A label that a document is not annotated for takes no part in the loss of that document, nor does a span inside a
mention of another label in a flat document. Shapes: B texts, C labels, L tokens, P positives of a text and label.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ner_service.model.batch import pad
from ner_service.model.text_model import TextModel
from training.data.augmentation import join_documents
from training.data.loader import batches_of_epoch
from training.data.targets import Example, encode_documents
from training.losses import sparse_zlpr
from training.preparation import Setup


class SpansObjective:
    """Trains encoder and pointer head on annotated documents."""

    def __init__(
        self,
        setup: Setup,
        model: TextModel,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.run = setup.run
        self.documents = setup.corpus.train
        self.tokenizer = setup.tokenizer
        self.labels = setup.corpus.labels
        self.model = model
        self.device = device
        self.autocast = autocast

    def batches(self, epoch: int) -> list[list[Example]]:
        generator = random.Random(f"join {self.run.seed} {epoch}")
        documents = join_documents(self.documents, self.run.data.join, generator)
        examples, _ = encode_documents(documents, self.tokenizer, self.run.window, self.labels)
        return list(batches_of_epoch(examples, self.run.batch.tokens, seed=self.run.seed, epoch=epoch))

    def count(self, batch: list[Example]) -> float:
        return float(sum(sum(example.annotated) for example in batch))

    def num_tokens(self, batch: list[Example]) -> int:
        return sum(len(example) for example in batch)

    def backward(self, batch: list[Example], scale: float) -> float:
        total = self.loss(batch)
        (total * scale).backward()
        return float(total.detach())

    def loss(self, batch: list[Example]) -> Tensor:
        """The loss summed over texts and annotated labels."""
        inputs = pad([example.encoding.token_ids for example in batch], self.tokenizer.pad_id, self.device)
        with self.autocast():
            scores_BCLL = self.model(inputs)
        unknown_BCLL = unknown_cells(batch, len(self.labels), scores_BCLL.shape[-1]).to(self.device)
        scores_BCLL = scores_BCLL.masked_fill(unknown_BCLL, -torch.inf)
        positive_BCP = positive_cells(batch, len(self.labels), scores_BCLL.shape[-1]).to(self.device)
        annotated_BC = torch.tensor([example.annotated for example in batch], device=self.device)
        return (sparse_zlpr(scores_BCLL, positive_BCP) * annotated_BC).sum()


def positive_cells(batch: Sequence[Example], num_labels: int, length: int) -> Tensor:
    """Gold cells on the wire: flat indices start * length + end, [B, C, P], filled up with -1."""
    cells = [
        [[s * length + e for c, s, e in example.cells if c == label] for label in range(num_labels)]
        for example in batch
    ]
    longest = max(1, max(len(row) for text in cells for row in text))
    return torch.tensor([[row + [-1] * (longest - len(row)) for row in text] for text in cells])


def unknown_cells(batch: Sequence[Example], num_labels: int, length: int) -> Tensor:
    """True at the cells of flat texts that lie inside mentions, all of another label than they, [B, C, L, L]."""
    unknown_BCLL = torch.zeros(len(batch), num_labels, length, length, dtype=torch.bool)
    known_BCLL = torch.zeros_like(unknown_BCLL)
    for row, example in enumerate(batch):
        for label, first, last in example.cells if example.flat else ():
            inside = slice(first, last + 1)
            unknown_BCLL[row, :, inside, inside] = True
            known_BCLL[row, label, inside, inside] = True
            known_BCLL[row, :, first, last] = True
    return unknown_BCLL & ~known_BCLL
