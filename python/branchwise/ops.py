"""Every operation the models run, under one name each: linear layers through oneDNN or our GEMM, the rest in C++.

A row's result never depends on the rows beside it, nor on the thread count. The matrix products are chosen for that:

- fp32: oneDNN with weights packed once; its rows are bit-identical for any batch from 2 up, so a single row is doubled.
- bf16: the same where the CPU multiplies bf16 in vector registers (AVX-512-BF16). Without such units oneDNN does not
  pack bf16, and on AMX its order of summation changes with the batch; there the GEMM of `csrc/cpu` takes over.

`benchmarks/kernels/bench_gemm.py` has the figures behind this choice.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from branchwise import _C

act_mul = _C.act_mul
add_rms_norm = _C.add_rms_norm
prm_probability = _C.prm_probability
rms_norm = _C.rms_norm
rope_store = _C.rope_store
tree_attention = _C.tree_attention

_ROW_INVARIANT_ONEDNN_ISA = "AVX512_BF16"


@cache
def onednn_packs_bf16() -> bool:
    """Whether oneDNN's packed bf16 product is both fast and row-invariant here: AVX-512-BF16 without AMX."""
    return bool(torch.cpu._is_avx512_bf16_supported()) and not torch.cpu._is_amx_tile_supported()


class Linear:
    """A linear layer with its weight packed once.

    weight: [out, in] fp32|bf16, not kept    bias: [out] of the same dtype, or None
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self.bias = bias
        self._onednn: Tensor | None = None
        self._own: Any = None
        if weight.dtype == torch.float32 or onednn_packs_bf16():
            self._onednn = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        else:
            self._own = _C.PackedWeight(weight)

    def __call__(self, x: Tensor) -> Tensor:
        """x: [rows, in] -> [rows, out], both in the weight's dtype."""
        if self._onednn is None:
            out = torch.empty(len(x), self.out_features, dtype=self.dtype)
            _C.gemm(x, self._own, out, self.bias)
            return out
        if len(x) == 1:
            return self._onednn_product(x.expand(2, -1).contiguous())[:1]
        return self._onednn_product(x)

    def _onednn_product(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._onednn, self.bias, "none", [], "")
        return y
