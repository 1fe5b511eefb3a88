"""Memory that passes and recorded loops of one stream share: none run side by side, and it holds nothing for later."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor


class Scratch:
    """Hands out memory by name. It grows with the largest wish; a loop that was recorded before keeps the smaller
    memory for as long as it lives, since its recording holds the addresses.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._flat: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory of a shape; what is in it is undefined, and others write to it, too."""
        need, flat = prod(shape), self._flat.get((name, dtype))
        if flat is None or flat.numel() < need:
            flat = self._flat[name, dtype] = torch.empty(need, dtype=dtype, device=self.device)
        return flat[:need].view(shape)

    def clear(self) -> bool:
        """Let go of all of it, as far as no loop holds it; whether there was any."""
        found = bool(self._flat)
        self._flat.clear()
        return found
