"""Attention forwards and back in bf16 on a CPU: PyTorch's fused kernel against plain matrix products.

    python -m benchmarks.attention

About a thousand tokens a batch, with padding, for the heads of two widths. `SHORT_TOKENS` of
`ner_service.model.attention` comes from here. Prints one JSON object. Knows no model.
"""

from __future__ import annotations

import json
import statistics
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.candidates import seconds
from benchmarks.machine import where

NUM_TOKENS = 1024
LENGTHS = (32, 64, 128, 256, 512)
HEADS = ((4, 64), (12, 32))
KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH)
ROUNDS = 25
WARM_UP = 5


def step(query: Tensor, key: Tensor, value: Tensor, valid: Tensor, kernel: SDPBackend) -> None:
    """Forward and backward."""
    with sdpa_kernel(kernel):
        scaled_dot_product_attention(query, key, value, attn_mask=valid).sum().backward()


def measured(num_heads: int, head_size: int, length: int) -> dict[str, float]:
    """Milliseconds of each kernel, called in turn: the median of the later rounds; and the median of their ratios."""
    shape = (NUM_TOKENS // length, num_heads, length, head_size)
    query, key, value = (torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    valid = torch.ones(shape[0], 1, 1, length, dtype=torch.bool)
    valid[..., -2:] = False
    steps = [partial(step, query, key, value, valid, kernel) for kernel in KERNELS]
    rounds = [[1000 * seconds(once) for once in steps] for _ in range(ROUNDS)][WARM_UP:]
    fused_ms, products_ms = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratio = statistics.median(fused / products for fused, products in rounds)
    return {"length": length, "fused_ms": fused_ms, "products_ms": products_ms, "fused_to_products": ratio}


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = {f"{heads} x {size}": [measured(heads, size, length) for length in LENGTHS] for heads, size in HEADS}
    about = {
        "command": "python -m benchmarks.attention",
        **where(),
    }
    print(json.dumps({**about, "heads": rows}, indent=2))


if __name__ == "__main__":
    main()
