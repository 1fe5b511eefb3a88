"""Correct bfloat16 in Triton's interpreter, which treats it as a 16-bit integer.

Arithmetic is done in fp32 and rounded to nearest even, as on the GPU; `tl.dot` reads bf16 and accumulates in fp32.
Sums and scans of bf16 are refused: a kernel should widen first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

Builder, Handle = interpreter.InterpreterBuilder, interpreter.TensorHandle


def widened(bits: np.ndarray) -> np.ndarray:
    """Bit patterns -> fp32."""
    return (np.ascontiguousarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrowed(values: np.ndarray) -> np.ndarray:
    """fp32 -> bit patterns, to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    up = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.where(np.isnan(values), np.uint16(0x7FC0), (up >> np.uint32(16)).astype(np.uint16))


def _is_bf16(handle: Any) -> bool:
    return bool(handle.dtype.scalar == tl.bfloat16)


def wide(handle: Any) -> Any:
    """bf16 as fp32, all else as it is."""
    return Handle(widened(handle.data), tl.float32) if _is_bf16(handle) else handle


def _narrow(values: np.ndarray) -> Any:
    return Handle(narrowed(values), tl.bfloat16)


def install() -> None:
    """Patch the interpreter of this process; once."""
    cast, convert, binary, unary = Builder.cast_impl, Builder.create_fp_to_fp, Builder.binary_op, Builder.unary_op
    fma, dot, check = Builder.create_fma, Builder.create_dot, interpreter.ReduceScanOpInterface.check_tensor

    def cast_impl(self, source, target):
        source = wide(source)
        if target.scalar == tl.bfloat16:
            return _narrow(source.data.astype(np.float32))
        return source if source.dtype.scalar == target.scalar else cast(self, source, target)

    def create_fp_to_fp(self, source, target, rounding):
        bf16 = _is_bf16(source) or target.scalar == tl.bfloat16
        return cast_impl(self, source, target) if bf16 else convert(self, source, target, rounding)

    def binary_op(self, left, right, op):
        if not _is_bf16(left):
            return binary(self, left, right, op)
        value = op(widened(left.data), widened(right.data))
        return Handle(value, left.dtype.scalar) if value.dtype == np.bool_ else _narrow(value)

    def unary_op(self, arg, op):
        return _narrow(op(widened(arg.data))) if _is_bf16(arg) else unary(self, arg, op)

    def create_fma(self, x, y, z):
        if not _is_bf16(z):
            return fma(self, x, y, z)
        return _narrow(widened(x.data) * widened(y.data) + widened(z.data))

    def check_tensor(self, tensors):
        if any(_is_bf16(tensor) for tensor in tensors):
            raise TypeError("a sum or scan of bf16: widen it first")
        return check(self, tensors)

    Builder.cast_impl, Builder.create_fp_to_fp = cast_impl, create_fp_to_fp
    Builder.binary_op, Builder.unary_op, Builder.create_fma = binary_op, unary_op, create_fma
    Builder.create_dot = lambda self, a, b, *rest: dot(self, wide(a), wide(b), *rest)
    Builder.get_bf16 = lambda self, value: _narrow(np.array([value], np.float32))
    interpreter.ReduceScanOpInterface.check_tensor = check_tensor
