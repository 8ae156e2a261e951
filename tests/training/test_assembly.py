"""A run's accelerator; its objectives are tested where they are, its state by the loop."""

from __future__ import annotations

from typing import Literal

import pytest

from training.assembly import accelerator_of
from training.config import DataConfig, ModelSection, RunConfig


@pytest.mark.parametrize(
    ("precision", "has_bf16", "mixed"),
    [("fp32", True, "no"), ("bf16", True, "bf16"), ("fp32", False, "no"), ("bf16", False, "no")],
)
def test_the_accelerator_has_the_runs_device_and_a_precision_that_it_computes_with(
    precision: Literal["fp32", "bf16"], has_bf16: bool, mixed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.assembly.cpu_has_bf16", lambda: has_bf16)
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
