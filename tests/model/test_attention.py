"""Attention under a mask: the same values by whichever kernel computes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ner_service.model.attention import SHORT_TOKENS, attend
from ner_service.model.batch import PaddingMask


def attended(length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The output for two rows, the second with a padded third, and the gradient of its squares by the queries."""
    generator = torch.Generator().manual_seed(length)
    query, key, value = (torch.randn(2, 3, length, 8, generator=generator).to(dtype).requires_grad_() for _ in range(3))
    valid_BL = torch.ones(2, length, dtype=torch.bool)
    valid_BL[1, -(length // 3) :] = False
    output = attend(query, key, value, PaddingMask(valid_BL), dropout=0.0)
    output.float().square().sum().backward()
    assert query.grad is not None
    return output, query.grad.float()


@pytest.mark.parametrize("length", [9, SHORT_TOKENS + 3])
def test_bf16_learns_what_fp32_does(length: int) -> None:
    exact, exact_gradient = attended(length, torch.float32)
    rounded, rounded_gradient = attended(length, torch.bfloat16)
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.03)
    assert torch.nn.functional.cosine_similarity(rounded_gradient.flatten(), exact_gradient.flatten(), 0) > 0.999


@pytest.mark.parametrize(
    ("length", "dtype", "fused"),
    [
        (SHORT_TOKENS, torch.bfloat16, False),
        (SHORT_TOKENS + 1, torch.bfloat16, True),
        (SHORT_TOKENS, torch.float32, True),
    ],
)
def test_only_short_rows_in_bf16_leave_the_fused_kernel(length: int, dtype: torch.dtype, fused: bool) -> None:
    output, _ = attended(length, dtype)
    assert output.grad_fn is not None
    assert ("Flash" in output.grad_fn.name()) is fused


def test_without_gradients_bf16_is_fused_too() -> None:
    query = torch.randn(1, 2, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    with torch.no_grad(), torch.profiler.profile() as profile:
        attend(query, query, query, PaddingMask(None), dropout=0.0)
    assert any("flash_attention" in event.name for event in profile.events() or [])
