"""A finished model's vectors of sentences, to be imitated. Shapes: N sentences, F width of the teacher's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ner_service.recognizer import Recognizer


class Teacher:
    """A bundle with an embedding head, frozen, with its own tokenizer.

    Raises:
        BundleError: the bundle cannot be trusted or understood.
        MissingHeadError: it makes no vectors.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.recognizer = Recognizer.load(folder, str(device))
        self.recognizer.require_head("embedding")
        self.device = device

    def vectors(self, sentences: Sequence[str]) -> Tensor:
        """Unit vectors [N, F]."""
        return torch.from_numpy(self.recognizer.vectors(sentences)).to(self.device)
