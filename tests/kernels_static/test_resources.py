"""Every production launch compiles for every architecture, spills nothing, fits, and stays as it was measured last.

All of it is static: read from cubins, not run. `table.py` writes the checked-in table anew.
"""

from __future__ import annotations

import json

import pytest
import triton

from kernels_static.facts import LIMITS
from kernels_static.production import MODELS, PLAIN
from kernels_static.table import FILE, compiled

TABLE = json.loads(FILE.read_text())
PRODUCTS = ("tree_attention_kernel", "row_attention_kernel", "lm_head_tile_kernel")  # must use matrix units
DRIFT = 0.05
QUICK = {(90, name) for name in PLAIN} | {(80, "qwen2.5-1.5b"), (100, "qwen2.5-1.5b")}
CASES = [
    pytest.param(arch, name, marks=[] if (arch, name) in QUICK else pytest.mark.slow)
    for arch in LIMITS
    for name in MODELS
]


@pytest.mark.parametrize(("arch", "name"), CASES)
def test_resources(arch, name):
    for key, facts in compiled(name, arch).items():
        where = f"sm_{arch}/{name}/{key}"
        assert (facts.stack, facts.local, facts.spills) == (0, 0, 0), where
        assert facts.shared <= LIMITS[arch][3], where
        assert facts.blocks_per_sm >= 1, where
        if any(product in key for product in PRODUCTS):
            assert facts.matrix > 0, f"{where}: no matrix instruction"
        if "tree_attention_kernel/1" in key and MODELS[name].head_dim <= 128 and arch in (90, 100):  # tiles of 64 rows
            wanted = {90: "HGMMA", 100: "UTC"}[arch]
            assert all(kind.startswith(wanted) for kind in facts.matrix_kinds), f"{where}: {facts.matrix_kinds}"
        if TABLE["triton"] == triton.__version__:
            _compare(where, facts)


def _compare(where, facts):
    known = TABLE[where]
    for field in ("registers", "shared", "loop"):
        before, now = known[field], getattr(facts, field)
        assert abs(now - before) <= DRIFT * before, f"{where}: {field} was {before}, is {now}"
    assert facts.blocks_per_sm == known["blocks_per_sm"], where


def test_the_table_has_every_case():
    for arch in LIMITS:
        for name in MODELS:
            assert any(key.startswith(f"sm_{arch}/{name}/") for key in TABLE), f"sm_{arch}/{name}"
