"""Records trees of real searches for `test_bytes`: python tests/kernels_interp/record_trees.py, on the CPU backend.

A snapshot is one decode iteration: nodes as [parent or -1, tokens], and the nodes whose last token is a query row.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from branchwise.api import Engine
from branchwise.assets import asset_path
from branchwise.types import Problem

FILE = Path(__file__).with_name("recorded_trees.json")
SEARCHES = {"beam, N = 64": ("beam", 64, 2), "dvts, N = 256": ("dvts", 256, 1)}  # strategy, N, problems at once
SNAPSHOTS = 3


class Recorder:
    """Stands before the policy's planner and keeps what it is asked for."""

    def __init__(self, tree: Any, planner: Any) -> None:
        self.tree, self.planner = tree, planner
        self.snapshots: list[dict[str, Any]] = []

    def build(self, handles: Any, counts: Any) -> Any:
        if (np.asarray(counts) == 1).all():  # an iteration that only decodes
            self.snapshots.append(self._snapshot([int(handle) for handle in handles]))
        return self.planner.build(handles, counts)

    def _snapshot(self, rows: list[int]) -> dict[str, Any]:
        index: dict[int, int] = {}
        nodes: list[list[int]] = []

        def add(handle: int) -> int:
            if handle not in index:
                parent = self.tree.parent(handle)
                above = -1 if parent is None else add(parent)
                index[handle] = len(nodes)
                nodes.append([above, self.tree.length(handle)])
            return index[handle]

        return {"rows": [add(handle) for handle in rows], "nodes": nodes}


def record(strategy: str, n: int, at_once: int) -> list[dict[str, Any]]:
    """The iterations with the most rows, spread over the search."""
    with Engine(device="cpu", max_rows=n * at_once) as engine:
        engine.policy.kv.planner = recorder = Recorder(engine.policy.kv.tree, engine.policy.kv.planner)
        lines = asset_path("problems.jsonl").read_text().splitlines()
        longest = sorted((json.loads(line) for line in lines), key=lambda each: -len(each["problem"]))[:at_once]
        problems = [Problem(each["id"], each["problem"]) for each in longest]
        list(engine.solve_many(problems, strategy, n=n))
    busy = [each for each in recorder.snapshots if len(each["rows"]) >= n // 2]
    return [busy[(2 * i + 1) * len(busy) // (2 * SNAPSHOTS)] for i in range(SNAPSHOTS)]


def main() -> None:
    found = {name: record(*search) for name, search in SEARCHES.items()}
    FILE.write_text(json.dumps(found) + "\n")
    for name, snapshots in found.items():
        print(name, [(len(each["rows"]), len(each["nodes"]), sum(n for _, n in each["nodes"])) for each in snapshots])


if __name__ == "__main__":
    main()
