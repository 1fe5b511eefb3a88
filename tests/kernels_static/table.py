"""The checked-in table of static facts. `PYTHONPATH=tests python tests/kernels_static/table.py` writes it anew."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import triton

from branchwise.backend.trace import TraceBackend
from kernels_static.facts import LIMITS, Facts, facts_of
from kernels_static.production import MODELS, launches

FILE = Path(__file__).with_name("table.json")
ROWS = 64
KEPT = ("registers", "shared", "loop", "blocks_per_sm", "matrix")


def compiled(name: str, arch: int) -> dict[str, Facts]:
    """Compile every production launch of a model; 'op/kernel[/n]' -> facts."""
    found: dict[str, Facts] = {}
    backend = TraceBackend(arch)
    for op, launch in launches(MODELS[name], ROWS):
        backend.driver.binaries.clear()
        launch()
        for index, binary in enumerate(backend.driver.binaries):
            key = f"{op}/{binary.kernel}/{index}"
            found[key] = facts_of(binary.cubin, binary.shared_bytes, binary.warps, arch)
    return found


def main() -> None:
    table = {}
    for arch in LIMITS:
        for name in MODELS:
            for key, facts in compiled(name, arch).items():
                table[f"sm_{arch}/{name}/{key}"] = {k: v for k, v in asdict(facts).items() if k in KEPT}
                if facts.stack or facts.local or facts.spills:
                    print(f"sm_{arch}/{name}/{key} spills: {facts}")
        print(f"sm_{arch}: {len(table)} kernels", flush=True)
    text = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(table.items()))
    FILE.write_text(f'{{\n "triton": "{triton.__version__}",\n{text}\n}}\n')


if __name__ == "__main__":
    main()
