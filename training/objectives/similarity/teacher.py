"""A finished model's vectors of sentences, to be imitated. Shapes: N sentences, F width of the teacher's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ner_service.recognizer import Recognizer, Vectors
from ner_service.text.planning import plan_groups

BATCH_TOKENS = 4096
"""Tokens, padding included, that are encoded at a time."""


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
        return torch.from_numpy(sentence_vectors(self.recognizer, sentences)).to(self.device)


def sentence_vectors(recognizer: Recognizer, sentences: Sequence[str]) -> Vectors:
    """Unit vectors [N, F], as the service gives them.

    Raises:
        InvalidTextError: a sentence is not Unicode.
        MissingHeadError: the model makes no vectors.
    """
    windows = [recognizer.encode(sentence) for sentence in sentences]
    encodings = [window.encoding for each in windows for window in each]
    found: dict[int, Vectors] = {}
    for group in plan_groups([len(encoding) for encoding in encodings], BATCH_TOKENS, padded=recognizer.pads):
        found.update(zip(group, recognizer.embed([encodings[index] for index in group]), strict=True))
    stream = iter(found[index] for index in range(len(encodings)))
    return np.stack([recognizer.pool([next(stream) for _ in each]) for each in windows])
