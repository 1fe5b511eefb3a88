"""Memory that the extension takes panels from."""

from __future__ import annotations

import numpy as np

from branchwise import _C


def in_large_memory(panels: np.ndarray) -> np.ndarray:
    """A copy that may be written to: panels: [bytes] uint8."""
    room = _C.large_memory(len(panels))
    room[:] = panels
    return room
