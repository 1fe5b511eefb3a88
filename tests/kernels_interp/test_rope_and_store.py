"""Rotary embedding with K and V going to their pages."""

from __future__ import annotations

import pytest
import torch

from branchwise_kernels import reference
from branchwise_kernels.layout import PAGE
from branchwise_kernels.rope_and_store import rope_and_store
from kernels_interp.harness.verify import poisoned, verify


@pytest.mark.parametrize(("n_heads", "n_kv_heads", "head_dim"), [(4, 2, 64), (3, 3, 80), (14, 2, 16), (8, 1, 128)])
@pytest.mark.parametrize("norms", [False, True])
def test_rope_and_store(dtype, rng, n_heads, n_kv_heads, head_dim, norms):
    rows, used = 5, 4
    qkv = torch.randn(rows, (n_heads + 2 * n_kv_heads) * head_dim, generator=rng).to(dtype)
    positions = torch.tensor([0, 7, 99, 30, 55], dtype=torch.int32)
    slots = torch.tensor([2 * PAGE, 63, 64, 200, 0], dtype=torch.int32)
    angle = torch.rand(100, head_dim // 2, generator=rng) * 6
    q_norm, k_norm = (torch.randn(head_dim, generator=rng).to(dtype) if norms else None for _ in range(2))
    counts = torch.tensor([[used, 0, 0, 0]], dtype=torch.int32)
    pool = torch.randn(4, n_kv_heads, 2, PAGE, head_dim, generator=rng).to(dtype)
    settings = n_heads, n_kv_heads, head_dim, q_norm, k_norm, 1e-6, True, counts
    wanted_q, wanted_kv = torch.zeros(rows, n_heads * head_dim, dtype=torch.float64), pool.double()
    reference.rope_and_store(qkv, positions, slots, angle.cos(), angle.sin(), wanted_q, wanted_kv, *settings)

    def run():
        query, kv = poisoned(rows, n_heads * head_dim, dtype=dtype), pool.clone()
        rope_and_store(qkv, positions, slots, angle.cos(), angle.sin(), query, kv, *settings)
        assert query[used:].isnan().all()  # a row beyond the count is left alone
        return query[:used], kv

    verify(run, [wanted_q[:used], wanted_kv], dtype)
    _, kv = run()
    untouched = torch.ones(4, PAGE, dtype=torch.bool)
    untouched.view(-1)[slots[:used].long()] = False
    assert torch.equal(kv.transpose(1, 3)[untouched], pool.transpose(1, 3)[untouched])


def test_one_norm_without_the_other_is_refused():
    qkv, query, pool = torch.zeros(1, 64), torch.zeros(1, 32), torch.zeros(1, 1, 2, PAGE, 16)
    place, counts = torch.zeros(1, dtype=torch.int32), torch.ones((1, 4), dtype=torch.int32)
    angle = torch.zeros(4, 8)
    with pytest.raises(ValueError, match="q_norm and k_norm: expected both or neither"):
        rope_and_store(
            qkv, place, place, angle, angle, query, pool, 2, 1, 16, torch.ones(16), None, 1e-6, False, counts
        )
