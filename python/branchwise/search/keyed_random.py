"""Random numbers of a strategy: keyed by seed, place in the tree and a number, so that no order of events matters."""

from __future__ import annotations

import hashlib

from branchwise.types import Node


class KeyedRandom:
    """A `Random`: the same seed, node and draw give the same number, on any machine."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, node: Node, draw: int) -> float:
        """Number `draw` of a node, in [0, 1), 53 bits of it."""
        key = f"{self._seed}:{node.lineage}:{draw}".encode()
        return (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 11) * 2.0**-53
