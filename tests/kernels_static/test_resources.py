"""Every production launch compiles for every architecture, spills nothing, fits, and stays as it was measured last.

All of it is static: read from cubins, not run. `table.py` writes the checked-in table of a Triton anew.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import triton

from benchmarks.gpu.trace import TraceBackend
from kernels_static import production
from kernels_static.facts import LIMITS, Facts, facts_of
from kernels_static.production import MODELS, PLAIN
from kernels_static.table import FILE, TABLES, compiled

TABLE = json.loads(FILE.read_text()) if FILE.exists() else None
PRODUCTS = ("tree_attention_kernel", "row_attention_kernel", "lm_head_tile_kernel")  # must use matrix units
DRIFT = 0.05
# Bytes of stack, each stored and loaded once: the assembler of Triton 3.6 keeps two words there in a few launches of
# sm_86, 89 and 120, which that of 3.9 does not.
MOST_STACK = {"3.6.0": 8}.get(triton.__version__, 0)
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
        _check(where, facts, arch)
        tall = key in ("tree_attention/tree_attention_kernel/1", "tree_attention_append/tree_attention_kernel/0")
        if tall and MODELS[name].head_dim <= 128:  # tiles of 64 and of 128 rows
            _warp_groups(where, facts, arch)
        if TABLE is not None:
            _compare(where, facts, TABLE[where])


@pytest.mark.slow
@pytest.mark.parametrize("arch", LIMITS)
def test_fp16_is_as_good(arch, monkeypatch):
    monkeypatch.setattr(production, "HALF", torch.float16)
    for name in PLAIN:
        for key, facts in compiled(name, arch).items():
            _check(f"fp16 sm_{arch}/{name}/{key}", facts, arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", LIMITS)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_no_group_of_heads_spills(arch, head_dim):
    backend = TraceBackend(arch)
    for group in range(1, 9):
        model = production.Model(2 * group, 2, head_dim, 256, 256, 256)
        for op, launch in production.launches(model, 64):
            if "attention" in op:
                backend.driver.binaries.clear()
                launch()
                for each in backend.driver.binaries:
                    facts = facts_of(each.cubin, each.shared_bytes, each.warps, arch)
                    _check(f"sm_{arch}/group {group}/{op}/{each.kernel}", facts, arch)


@pytest.mark.parametrize("arch", [90, *(pytest.param(arch, marks=pytest.mark.slow) for arch in LIMITS if arch != 90)])
@pytest.mark.parametrize("filtered", [False, True])
def test_penalties_spill_nothing(arch, filtered):
    backend = TraceBackend(arch)
    for rows in (8, 64):
        production.sample(MODELS["qwen2.5-1.5b"], rows, filtered, penalised=True)
    assert len(backend.driver.binaries) >= 3
    for each in backend.driver.binaries:
        facts = facts_of(each.cubin, each.shared_bytes, each.warps, arch)
        _check(f"sm_{arch}/penalised/{each.kernel}", facts, arch)


@pytest.mark.parametrize("arch", [90, *(pytest.param(arch, marks=pytest.mark.slow) for arch in LIMITS if arch != 90)])
@pytest.mark.parametrize("filtered", [False, True])
def test_sureness_spills_nothing(arch, filtered):
    backend = TraceBackend(arch)
    for rows in (8, 64):
        production.sample(MODELS["qwen2.5-1.5b"], rows, filtered, sure=True)
    production.sample(MODELS["gemma-3-1b"], 64, filtered, penalised=True, sure=True)  # the most words
    kernels = {each.kernel for each in backend.driver.binaries}
    assert kernels >= {"lm_head_tile_kernel", "lm_head_choose_kernel", "sureness_kernel"}
    for each in backend.driver.binaries:
        facts = facts_of(each.cubin, each.shared_bytes, each.warps, arch)
        _check(f"sm_{arch}/sure/{each.kernel}", facts, arch)


def _check(where: str, facts: Facts, arch: int) -> None:
    assert facts.local == 0, where
    assert facts.stack <= MOST_STACK, f"{where}: {facts.stack} bytes of stack"
    assert facts.spills <= MOST_STACK // 2, f"{where}: {facts.spills} spills"  # stores and loads of words
    assert facts.shared <= LIMITS[arch][3], where
    assert facts.blocks_per_sm >= 1, where
    if any(product in where for product in PRODUCTS):
        assert facts.matrix > 0, f"{where}: no matrix instruction"


def _warp_groups(where: str, facts: Facts, arch: int) -> None:
    wanted = {90: "HGMMA", 100: "UTC"}.get(arch, "HMMA")
    assert all(kind.startswith(wanted) for kind in facts.matrix_kinds), f"{where}: {facts.matrix_kinds}"


def _compare(where, facts, known):
    for field in ("registers", "shared", "loop"):
        before, now = known[field], getattr(facts, field)
        assert abs(now - before) <= DRIFT * before, f"{where}: {field} was {before}, is {now}"
    assert facts.blocks_per_sm == known["blocks_per_sm"], where


def test_the_oldest_and_the_newest_triton_have_tables_and_so_has_the_installed_one():
    makefile = (Path(__file__).resolve().parents[2] / "Makefile").read_text()
    ends = re.findall(r"^(?:OLDEST|NEWEST) := \S+\+(\S+)$", makefile, re.MULTILINE)
    assert len(ends) == 2
    assert {f"triton-{version}" for version in ends} <= {file.stem for file in TABLES.iterdir()}
    if TABLE is None:
        pytest.skip(f"nothing was measured with this Triton: there is no {FILE.name}")


@pytest.mark.parametrize("file", sorted(TABLES.iterdir()), ids=lambda file: file.stem)
def test_a_table_has_every_case(file):
    table = json.loads(file.read_text())
    for arch in LIMITS:
        for name in MODELS:
            assert any(key.startswith(f"sm_{arch}/{name}/") for key in table), f"sm_{arch}/{name}"
