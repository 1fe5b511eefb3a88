"""Linear layers on the CPU: oneDNN, our GEMM, or our products with small integers.

A row's result never depends on the rows beside it, nor on the thread count. The products are chosen for that:

- fp32: oneDNN with weights packed once; its rows are bit-identical for any batch from 2 up, so a single row is doubled.
- bf16: the same where the CPU multiplies bf16 in vector registers (AVX-512-BF16). Without such units oneDNN does not
  pack bf16, and on AMX its order of summation changes with the batch; there the GEMM of `csrc/cpu` takes over. With AMX
  it reads weights in 12 bits, without loss (`csrc/cpu/compact.h`).
- blocks: integer products of our own, x being rounded to int8 on the way in.

`benchmarks/kernels/bench_gemm.py` has the figures behind this choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate, groupby
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from branchwise import _C
from branchwise.weights.blocks import Blocks, Matrix, stack

Packed: TypeAlias = _C.PackedWeight | _C.CodeWeight


@cache
def onednn_packs_bf16() -> bool:
    """Whether oneDNN's packed bf16 product is both fast and row-invariant here: AVX-512-BF16 without AMX."""
    return bool(torch.cpu._is_avx512_bf16_supported()) and not torch.cpu._is_amx_tile_supported()


def multiplied_by_onednn(dtype: torch.dtype) -> bool:
    """Which dense products oneDNN does; the others are ours."""
    return dtype == torch.float32 or onednn_packs_bf16()


def reads_compact() -> bool:
    """Whether bf16 weights are kept in 12 bits: with AMX, where unpacking costs less time than reading them takes."""
    return _C.isa() == "amx"


def pack_dense(weight: Tensor) -> _C.PackedWeight:
    """weight: [out, in] fp32|bf16, as our product reads it."""
    return _C.PackedWeight(weight, compact=reads_compact())


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
            self._own = pack_dense(weight)

    @property
    def own(self) -> bool:
        """Whether the product is ours, not oneDNN's."""
        return self._onednn is None

    @property
    def packed(self) -> list[Packed]:
        """The weight as our product reads it; empty where oneDNN has it."""
        return [] if self._own is None else [self._own]

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


class PackedLinear:
    """A linear layer of packed weights, each of which writes its columns of the output.

    packed: [out_i, in] each    bias: [out] of the model's dtype, or None
    """

    own = True  # the product is ours, not oneDNN's

    def __init__(self, packed: Sequence[Packed], bias: Tensor | None = None) -> None:
        self.packed = list(packed)
        self.bias = bias
        self.in_features = self.packed[0].shape[1]
        columns = [0, *accumulate(part.shape[0] for part in self.packed)]
        self.out_features = columns.pop()
        self._products = [(_product(part), part, column) for part, column in zip(self.packed, columns, strict=True)]

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x: [rows, in] -> [rows, out], both fp32 or bf16."""
        out = torch.empty(x.shape[0], self.out_features, dtype=x.dtype) if out is None else out
        for product, part, column in self._products:
            product(x, part, out, self.bias, column)
        return out


class BlockLinear(PackedLinear):
    """A linear layer of stacked matrices, some or all of them in blocks; those of one format are packed as one.

    parts: [out_i, in] each, not kept    bias: [out] of the model's dtype, or None
    """

    def __init__(self, parts: Sequence[Matrix], bias: Tensor | None = None) -> None:
        runs = groupby(parts, lambda part: part.format if isinstance(part, Blocks) else None)
        super().__init__([_pack(list(run)) for _, run in runs], bias)


class GatedLinear:
    """act(gate(x)) * up(x): one product that ends in the activation, or one of both matrices and the activation after.

    product: a packed weight whose panels alternate between gate and up; or a layer of gate and up under each other
    activation: silu or gelu_tanh
    """

    def __init__(self, product: Packed | DenseLinear | PackedLinear, activation: str) -> None:
        self.fused = not isinstance(product, DenseLinear | PackedLinear)
        self.activation = activation
        if isinstance(product, DenseLinear | PackedLinear):
            self._plain = product
            rows, self.in_features = product.out_features, product.in_features
            self.packed, self.own = product.packed, product.own
        else:
            self._product = _product(product)
            rows, self.in_features = product.shape
            self.packed, self.own = [product], True
        self.out_features = rows // 2

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x: [rows, in] -> [rows, inner], both in the model's dtype."""
        out = torch.empty(x.shape[0], self.out_features, dtype=x.dtype) if out is None else out
        if self.fused:
            self._product(x, self.packed[0], out, gated=self.activation)
        else:
            _C.act_mul(self._plain(x), out, self.activation)
        return out


def gated_linear(gate: Matrix, up: Matrix, activation: str) -> GatedLinear:
    """Fused where one of our products can multiply both matrices. gate, up: [inner, in], not kept."""
    fused = _fused_gate(gate, up)
    if fused is not None:
        return GatedLinear(fused, activation)
    if isinstance(gate, Tensor) and isinstance(up, Tensor):
        return GatedLinear(DenseLinear(torch.cat([gate, up])), activation)
    return GatedLinear(BlockLinear([gate, up]), activation)


def _fused_gate(gate: Matrix, up: Matrix) -> Packed | None:
    """Rows that alternate between gate and up, packed; None where no product takes them."""
    if len(gate) % _C.PANEL_WIDTH != 0:
        return None
    if isinstance(gate, Tensor) and isinstance(up, Tensor):
        if multiplied_by_onednn(gate.dtype):
            return None
        panels = [part.reshape(-1, _C.PANEL_WIDTH, part.shape[1]) for part in (gate, up)]
        return pack_dense(torch.stack(panels, dim=1).flatten(0, 2))
    if isinstance(gate, Blocks) and isinstance(up, Blocks) and gate.format == up.format:
        order = np.arange(2 * len(gate)).reshape(2, -1, _C.PANEL_WIDTH).swapaxes(0, 1).ravel()
        return _code_weight(stack([gate, up]).rows(order))
    return None


def _code_weight(blocks: Blocks) -> _C.CodeWeight:
    return _C.CodeWeight(blocks.codes, blocks.scales, blocks.minima, blocks.format.bits, blocks.format.group)


def _pack(parts: list[Matrix]) -> Packed:
    """Matrices of one form under each other, packed."""
    dense = [part for part in parts if isinstance(part, Tensor)]
    if dense:
        return pack_dense(torch.cat(dense))
    return _code_weight(stack([part for part in parts if isinstance(part, Blocks)]))


def _product(packed: Packed) -> Callable[..., None]:
    """The product of our own that multiplies a packed weight."""
    return _C.gemm if isinstance(packed, _C.PackedWeight) else _C.code_gemm
