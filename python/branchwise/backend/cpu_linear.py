"""Linear layers on the CPU: oneDNN, our GEMM, or our products with small integers.

A row's result never depends on the rows beside it, nor on the thread count. The products are chosen for that:

- fp32: oneDNN with weights packed once; its rows are bit-identical for any batch from 2 up, so a single row is doubled.
- bf16: the same where the CPU multiplies bf16 in vector registers (AVX-512-BF16). Without such units oneDNN does not
  pack bf16, and on AMX its order of summation changes with the batch; there the GEMM of `csrc/cpu` takes over.
- blocks: integer products of our own, x being rounded to int8 on the way in.

`benchmarks/kernels/bench_gemm.py` has the figures behind this choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from branchwise import _C
from branchwise.weights.blocks import Blocks, Matrix, stack


@cache
def onednn_packs_bf16() -> bool:
    """Whether oneDNN's packed bf16 product is both fast and row-invariant here: AVX-512-BF16 without AMX."""
    return bool(torch.cpu._is_avx512_bf16_supported()) and not torch.cpu._is_amx_tile_supported()


def multiplied_by_onednn(dtype: torch.dtype) -> bool:
    """Which dense products oneDNN does; the others are ours."""
    return dtype == torch.float32 or onednn_packs_bf16()


class DenseLinear:
    """A linear layer with its weight packed once.

    weight: [out, in] fp32|bf16, not kept    bias: [out] of the same dtype, or None
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self.bias = bias
        self._onednn: Tensor | None = None
        self._own: Any = None
        if multiplied_by_onednn(weight.dtype):
            self._onednn = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        else:
            self._own = _C.PackedWeight(weight)

    @property
    def own(self) -> bool:
        """Whether the product is ours, not oneDNN's."""
        return self._onednn is None

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x: [rows, in] -> [rows, out], both in the weight's dtype. oneDNN makes room of its own for the result."""
        if self._onednn is None:
            out = torch.empty(x.shape[0], self.out_features, dtype=self.dtype) if out is None else out
            _C.gemm(x, self._own, out, self.bias)
            return out
        if x.shape[0] == 1:  # len() of a tensor takes a detour through Python
            return self._onednn_product(x.expand(2, -1).contiguous())[:1]
        return self._onednn_product(x)

    def _onednn_product(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._onednn, self.bias, "none", [], "")
        return y


class OwnLinear:
    """A linear layer in fp32 by our own GEMM: for the small heads of a PRM, on any machine.

    weight: [out, in] fp32    bias: [out] fp32, or None
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.packed = _C.PackedWeight(weight)
        self.bias = bias
        self.out_features = len(weight)

    def __call__(self, x: Tensor) -> Tensor:
        """x: [rows, in] -> [rows, out], both fp32."""
        out = torch.empty(len(x), self.out_features)
        _C.gemm(x, self.packed, out, self.bias)
        return out


class BlockLinear:
    """A linear layer of stacked matrices, some or all of them in blocks; each format writes its columns of the output.

    parts: [out_i, in] each, not kept    bias: [out] of the model's dtype, or None
    """

    own = True  # the product is ours, not oneDNN's

    def __init__(self, parts: Sequence[Matrix], bias: Tensor | None = None) -> None:
        self.out_features = sum(len(part) for part in parts)
        self.bias = bias
        self._products = []
        column = 0
        for _, run in groupby(parts, lambda part: part.format if isinstance(part, Blocks) else None):
            matrices = list(run)
            self._products.append((_product(matrices), column))
            column += sum(len(part) for part in matrices)
        self.in_features = parts[0].shape[1]

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x: [rows, in] -> [rows, out], both fp32 or bf16."""
        out = torch.empty(x.shape[0], self.out_features, dtype=x.dtype) if out is None else out
        for product, column in self._products:
            product(x, out, self.bias, column)
        return out


class GatedLinear:
    """act(gate(x)) * up(x) as one product that ends in the activation, where one of ours can multiply both matrices.

    gate, up: [inner, in], not kept    activation: silu or gelu_tanh
    """

    def __init__(self, gate: Matrix, up: Matrix, activation: str) -> None:
        self.out_features, self.in_features = gate.shape
        self.activation = activation
        self._fused = _fused_gate(gate, up)
        if self._fused is None:
            parts = [gate, up]
            tensors = [part for part in parts if isinstance(part, Tensor)]
            self._plain = DenseLinear(torch.cat(tensors)) if len(tensors) == 2 else BlockLinear(parts)

    @property
    def own(self) -> bool:
        """Whether the product is ours, not oneDNN's."""
        return self._fused is not None or self._plain.own

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x: [rows, in] -> [rows, inner], both in the model's dtype."""
        out = torch.empty(x.shape[0], self.out_features, dtype=x.dtype) if out is None else out
        if self._fused is None:
            _C.act_mul(self._plain(x), out, self.activation)
        else:
            self._fused(x, out, self.activation)
        return out


def _fused_gate(gate: Matrix, up: Matrix) -> Callable[[Tensor, Tensor, str], None] | None:
    """The product (x, out, activation) of rows that alternate between gate and up; None where there is none."""
    if len(gate) % _C.PANEL_WIDTH != 0:
        return None
    order = np.arange(2 * len(gate)).reshape(2, -1, _C.PANEL_WIDTH).swapaxes(0, 1).ravel()
    if isinstance(gate, Tensor) and isinstance(up, Tensor):
        if multiplied_by_onednn(gate.dtype):
            return None
        packed = _C.PackedWeight(torch.cat([gate, up])[torch.from_numpy(order)])
        return lambda x, out, activation: _C.gemm(x, packed, out, gated=activation)
    if isinstance(gate, Blocks) and isinstance(up, Blocks) and gate.format == up.format:
        codes = _code_weight(stack([gate, up]).rows(order))
        return lambda x, out, activation: _C.code_gemm(x, codes, out, gated=activation)
    return None


def _code_weight(blocks: Blocks) -> Any:
    return _C.CodeWeight(blocks.codes, blocks.scales, blocks.minima, blocks.format.bits, blocks.format.group)


def _product(parts: list[Matrix]) -> Callable[[Tensor, Tensor, Tensor | None, int], None]:
    """The product with matrices of one form, packed: (x, out, bias, first column)."""
    dense = [part for part in parts if isinstance(part, Tensor)]
    if dense:
        packed = _C.PackedWeight(torch.cat(dense))
        return lambda x, out, bias, column: _C.gemm(x, packed, out, bias, column)
    codes = _code_weight(stack([part for part in parts if isinstance(part, Blocks)]))
    return lambda x, out, bias, column: _C.code_gemm(x, codes, out, bias, column)
