"""Random weights of encoders with rotary attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ner_service.model.config import RoFormerConfig, RoFormerV2Config
from ner_service.model.encoders import build_encoder

SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 64, "num_layers": 8, "num_heads": 2, "intermediate_size": 128,
}  # fmt: skip


@pytest.mark.parametrize("config", [RoFormerConfig(**SIZES), RoFormerV2Config(**SIZES)])
def test_what_is_added_to_the_residual_begins_smaller(config: RoFormerConfig | RoFormerV2Config) -> None:
    """Sixteen maps are added in eight layers, so each is a quarter of 1 / sqrt(fan-in); all others are not."""
    torch.manual_seed(0)
    encoder: Any = build_encoder(config)
    for layer in encoder.layers:
        assert float(layer.attention.output.weight.detach().std()) == pytest.approx(64**-0.5 / 4, rel=0.1)
        assert float(layer.feed_out.weight.detach().std()) == pytest.approx(128**-0.5 / 4, rel=0.1)
        assert float(layer.attention.query_key_value.weight.detach().std()) == pytest.approx(64**-0.5, rel=0.1)
        assert float(layer.feed_in.weight.detach().std()) == pytest.approx(64**-0.5, rel=0.1)
