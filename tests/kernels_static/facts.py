"""What a cubin says without running: registers, spills, shared memory, matrix instructions, the longest loop."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import triton

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
# Of one SM: shared memory, warps, blocks; of one block: shared memory. Registers: 65,536 everywhere.
LIMITS = {
    80: (167_936, 64, 32, 166_912),
    86: (102_400, 48, 16, 101_376),
    89: (102_400, 48, 24, 101_376),
    90: (233_472, 64, 32, 232_448),
    100: (233_472, 64, 32, 232_448),
    120: (102_400, 48, 24, 101_376),
}
MATRIX = re.compile(r"HMMA|HGMMA|QGMMA|UTC\w*MMA")
SPILL = re.compile(r"LDL|STL")


@dataclass(frozen=True)
class Facts:
    """All static."""

    registers: int
    stack: int
    local: int
    shared: int
    spills: int  # local loads and stores
    matrix: int  # matrix instructions
    matrix_kinds: tuple[str, ...]  # HMMA: a warp's; HGMMA: a warp group's; UTC...: tensor memory's
    loop: int  # instructions of the longest loop
    blocks_per_sm: int


def facts_of(cubin: bytes, shared: int, warps: int, arch: int) -> Facts:
    """Read a cubin with the tools in Triton's wheel."""
    usage = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", _tool("cuobjdump", cubin, "-res-usage"))}
    names, loops = _instructions(_tool("nvdisasm", cubin, "-c"))
    counted = Counter(names)
    sm_shared, sm_warps, sm_blocks, _ = LIMITS[arch]
    per_warp = -(-usage["REG"] * 32 // 256) * 256
    blocks = min(sm_warps // warps, 65_536 // (per_warp * warps), sm_shared // (shared + 1024), sm_blocks)
    return Facts(
        registers=usage["REG"],
        stack=usage["STACK"],
        local=usage["LOCAL"],
        shared=shared,
        spills=sum(n for name, n in counted.items() if SPILL.fullmatch(name)),
        matrix=sum(n for name, n in counted.items() if MATRIX.fullmatch(name)),
        matrix_kinds=tuple(sorted(name for name in counted if MATRIX.fullmatch(name))),
        loop=max((last - first + 1 for first, last in loops), default=0),
        blocks_per_sm=blocks,
    )


def _tool(name: str, cubin: bytes, *arguments: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / name), *arguments, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _instructions(listing: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Mnemonics in order, and the first and last of every loop (a branch backwards)."""
    instruction = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)(.*)")
    names: list[str] = []
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for line in listing.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(names)
        elif found := instruction.match(line):
            names.append(found[1])
            target = re.search(r"\.L_x_\d+", found[2])
            if found[1] == "BRA" and target and labels.get(target[0], len(names)) < len(names) - 1:
                loops.append((labels[target[0]], len(names) - 1))
    return names, loops
