"""Linear layers on the CPU: weights packed once, multiplied by the products of `csrc/cpu`.

A row's result never depends on the rows beside it, nor on the thread count. Dense matrices go through `_C.gemm`, and
with AMX bf16 is kept in twelve bits, without loss (`csrc/cpu/products/twelve_bit.h`). Blocks go through
`_C.quantised_gemm`, which rounds x to int8 on the way in. `benchmarks/kernels/bench_gemm.py` times both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from branchwise import _C
from branchwise.weights.blocks import Blocks, Matrix, stack

Packed: TypeAlias = _C.DenseWeight | _C.QuantisedWeight


class PackedLinear:
    """A linear layer of packed weights, each of which writes its columns of the output.

    packed: [out_i, in] each    bias: [out] of the model's dtype, or None
    """

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


class GatedLinear:
    """act(gate(x)) * up(x): one product that ends in the activation, or one of both matrices and the activation after.

    both: a packed weight whose panels alternate between gate and up; or a layer of gate and up under each other
    activation: silu or gelu_tanh
    """

    def __init__(self, both: Packed | PackedLinear, activation: str) -> None:
        self.fused = not isinstance(both, PackedLinear)
        self._layer = both if isinstance(both, PackedLinear) else PackedLinear([both])
        self.packed = self._layer.packed
        self.in_features, self.out_features = self._layer.in_features, self._layer.out_features // 2
        self.activation = activation

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x: [rows, in] -> [rows, inner], both in the model's dtype."""
        out = torch.empty(x.shape[0], self.out_features, dtype=x.dtype) if out is None else out
        if self.fused:
            _product(self.packed[0])(x, self.packed[0], out, gated=self.activation)
        else:
            _C.act_mul(self._layer(x), out, self.activation)
        return out


def packed_linear(parts: Sequence[Matrix], bias: Tensor | None = None) -> PackedLinear:
    """Stacked matrices; neighbours of one form are packed as one. parts: [out_i, in] each, not kept."""
    runs = groupby(parts, lambda part: part.format if isinstance(part, Blocks) else None)
    return PackedLinear([_pack(list(run)) for _, run in runs], bias)


def gated_linear(gate: Matrix, up: Matrix, activation: str) -> GatedLinear:
    """Fused where one product can take both matrices. gate, up: [inner, in], not kept."""
    return GatedLinear(_fused_gate(gate, up) or packed_linear([gate, up]), activation)


def reads_twelve_bit() -> bool:
    """Whether bf16 weights are kept in 12 bits: with AMX, where unpacking costs less time than reading them takes."""
    return _C.isa() == "amx"


def _fused_gate(gate: Matrix, up: Matrix) -> Packed | None:
    """Rows that alternate between gate and up, packed; None where no product takes them."""
    if len(gate) % _C.PANEL_WIDTH != 0:
        return None
    if isinstance(gate, Tensor) and isinstance(up, Tensor):
        panels = [part.reshape(-1, _C.PANEL_WIDTH, part.shape[1]) for part in (gate, up)]
        return _pack([torch.stack(panels, dim=1).flatten(0, 2)])
    if isinstance(gate, Blocks) and isinstance(up, Blocks) and gate.format == up.format:
        order = np.arange(2 * len(gate)).reshape(2, -1, _C.PANEL_WIDTH).swapaxes(0, 1).ravel()
        return _pack([stack([gate, up]).rows(order)])
    return None


def _pack(parts: list[Matrix]) -> Packed:
    """Matrices of one form under each other, packed."""
    dense = [part for part in parts if isinstance(part, Tensor)]
    if dense:
        return _C.DenseWeight(torch.cat(dense) if len(dense) > 1 else dense[0], twelve_bit=reads_twelve_bit())
    blocks = stack([part for part in parts if isinstance(part, Blocks)])
    return _C.QuantisedWeight(blocks.codes, blocks.scales, blocks.minima, blocks.format.bits, blocks.format.group)


def _product(packed: Packed) -> Callable[..., None]:
    """The product that multiplies a packed weight."""
    return _C.gemm if isinstance(packed, _C.DenseWeight) else _C.quantised_gemm
