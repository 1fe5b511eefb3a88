"""THE table of numerical tolerances: what a kernel may differ by from its slow reference in float64.

Errors are measured against `scale`, the largest magnitude of the reference, so that cancellation does not count as an
error of the kernel: |out - reference| <= tolerance * scale. bf16 results are rounded once, to 2^-9 relative.
"""

from __future__ import annotations

import torch
from torch import Tensor

FP32, BF16 = torch.float32, torch.bfloat16
_BF16_ROUNDING = 2.0**-8  # half a unit in the last place is 2^-9; the other half is for inputs at a rounding edge

TOLERANCES: dict[tuple[str, torch.dtype], float] = {
    ("rms_norm", FP32): 2e-6,
    ("rms_norm", BF16): _BF16_ROUNDING,
    ("act_mul", FP32): 2e-6,
    ("act_mul", BF16): _BF16_ROUNDING,
    ("rope_store", FP32): 2e-6,
    ("rope_store", BF16): _BF16_ROUNDING,
    ("tree_attention", FP32): 1e-5,
    ("tree_attention", BF16): 1.5 * _BF16_ROUNDING,
    ("gemm", FP32): 4e-6,  # one chain of fp32 sums over k <= 5000
    ("gemm", BF16): _BF16_ROUNDING,
    ("gated", FP32): 8e-6,  # a product of two of them
    ("gated", BF16): _BF16_ROUNDING,
    ("prm_probability", FP32): 1e-6,
    ("logprob", FP32): 2e-6,
    ("hidden", FP32): 2e-5,  # after all layers of a small model, its prompt's KV cut elsewhere
}

# Logits of a whole model whose matrix products round x to int8, relative L2 against the same weights in fp32
INT8_LOGITS_REL_L2 = 0.02

# Triton kernels, relative L2 against float64
KERNEL_REL_L2: dict[torch.dtype, float] = {FP32: 1e-6, torch.float16: 5e-4, BF16: 3e-3}


def assert_close(op: str, out: Tensor, reference: Tensor) -> None:
    """Fail unless `out` matches the float64 `reference` within the table's tolerance for its dtype."""
    assert out.shape == reference.shape
    assert not out.isnan().any(), f"{op}: NaN in the result"
    error = (out.double() - reference.double()).abs().max().item() if out.numel() else 0.0
    scale = max(reference.double().abs().max().item(), 1e-30) if out.numel() else 1.0
    limit = TOLERANCES[op, out.dtype]
    assert error <= limit * scale, f"{op} {out.dtype}: error {error:.3g} > {limit:.3g} * {scale:.3g}"
