"""A run's accelerator; its objectives are tested where they are, its state by the loop."""

from __future__ import annotations

from typing import Literal

import pytest

from training.assembly import accelerator_of
from training.config import DataConfig, ModelSection, RunConfig


@pytest.mark.parametrize(("precision", "mixed"), [("fp32", "no"), ("bf16", "bf16")])
def test_the_accelerator_has_the_runs_device_and_precision(precision: Literal["fp32", "bf16"], mixed: str) -> None:
    run = RunConfig(
        name="small",
        device="cpu",
        precision=precision,
        data=DataConfig(texts=("in memory",)),
        model=ModelSection(encoder={"kind": "roformer"}),
    )
    accelerator = accelerator_of(run)
    assert accelerator.device.type == "cpu"
    assert accelerator.mixed_precision == mixed
