"""The checked-in tables of static facts, one for every Triton that is tested with.

`PYTHONPATH=tests:. python tests/kernels_static/table.py` writes the one of the installed Triton anew.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import product
from pathlib import Path

import triton

from benchmarks.gpu.trace import TraceBackend
from branchwise_kernels import (
    gated_activation,
    lm_head_sample,
    merge_states,
    prm_head,
    rms_norm,
    rope_and_store,
    row_attention,
    step_state,
    sureness,
    tree_attention,
)
from kernels_static.facts import LIMITS, Facts, facts_of
from kernels_static.production import MODELS, launches

MODULES = (
    gated_activation, lm_head_sample, merge_states, prm_head, rms_norm, rope_and_store, row_attention,
    step_state, sureness, tree_attention,
)  # fmt: skip

TABLES = Path(__file__).with_name("tables")
FILE = TABLES / f"triton-{triton.__version__}.json"
ROWS = 64
KEPT = ("registers", "shared", "loop", "blocks_per_sm", "matrix")


def compiled(name: str, arch: int) -> dict[str, Facts]:
    """Compile every production launch of a model; 'op/kernel[/n]' -> facts."""
    found: dict[str, Facts] = {}
    backend = TraceBackend(arch)
    forget()
    for op, launch in launches(MODELS[name], ROWS):
        backend.driver.binaries.clear()
        launch()
        for index, binary in enumerate(backend.driver.binaries):
            key = f"{op}/{binary.kernel}/{index}"
            found[key] = facts_of(binary.cubin, binary.shared_bytes, binary.warps, arch)
    return found


def forget() -> None:
    """So that kernels which another model launched already count as this one's, too."""
    for module in MODULES:
        for name, value in vars(module).items():
            if name.endswith("_kernel"):
                value.device_caches.clear()


def rows_of(case: tuple[int, str]) -> dict[str, dict[str, int]]:
    """The rows of one architecture and model."""
    arch, name = case
    rows = {}
    for key, facts in compiled(name, arch).items():
        rows[f"sm_{arch}/{name}/{key}"] = {k: v for k, v in asdict(facts).items() if k in KEPT}
        if facts.stack or facts.local or facts.spills:
            print(f"sm_{arch}/{name}/{key} spills: {facts}", flush=True)
    return rows


def main() -> None:
    table = {}
    with ProcessPoolExecutor() as pool:
        for rows in pool.map(rows_of, product(LIMITS, MODELS)):
            table |= rows
            print(f"{len(table)} kernels", flush=True)
    text = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(table.items()))
    FILE.write_text(f"{{\n{text}\n}}\n")


if __name__ == "__main__":
    main()
