"""Checks that every launcher makes of its arguments: a kernel itself would read past the end in silence."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def expect(name: str, tensor: Tensor, dtype: torch.dtype | tuple[torch.dtype, ...], shape: tuple[int, ...]) -> None:
    """Raise unless a tensor is contiguous and has the dtype (or one of them) and the shape; -1 fits any size."""
    dtypes = dtype if isinstance(dtype, tuple) else (dtype,)
    if tensor.dtype not in dtypes:
        wanted = " or ".join(str(item).removeprefix("torch.") for item in dtypes)
        raise TypeError(f"{name} is {str(tensor.dtype).removeprefix('torch.')}, expected {wanted}")
    fits = tensor.ndim == len(shape) and all(want in (-1, have) for want, have in zip(shape, tensor.shape, strict=True))
    if not fits:
        raise ValueError(f"{name} has shape {list(tensor.shape)}, expected {list(shape)} (-1: any size)")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} is not contiguous: strides {tensor.stride()}")
