"""The service as a process, around the fake recogniser.

A text with an hourglass waits for a line on standard input; one with the sign of infinity is computed without an end.
A model named `slow` is loaded for two minutes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import torch

from ner_service.decoding import Candidates
from ner_service.serving.metrics import Metrics
from ner_service.serving.registry import ServedModel
from ner_service.serving.server import OnDeath, serve
from ner_service.serving.settings import Settings
from ner_service.types import Encoding
from tests.serving.fakes import FakeRecognizer

LARGE = torch.ones(1500, 1500)


class SlowRecognizer(FakeRecognizer):
    def forward(self, encodings: Sequence[Encoding], cutoffs: Sequence[tuple[float, ...]]) -> list[Candidates]:
        if any(ord("⏳") in encoding.token_ids for encoding in encodings):
            print("waiting", flush=True)
            sys.stdin.readline()
        if any(ord("♾") in encoding.token_ids for encoding in encodings):
            print("computing", flush=True)
            while True:
                torch.mm(LARGE, LARGE)
        return super().forward(encodings, cutoffs)


def load(settings: Settings, metrics: Metrics, on_death: OnDeath) -> ServedModel:
    if settings.model.name == "slow":
        print("loading", flush=True)
        time.sleep(120)
    return ServedModel(SlowRecognizer(), settings=settings, metrics=metrics, on_death=on_death)


if __name__ == "__main__":
    serve(Settings(), load)
