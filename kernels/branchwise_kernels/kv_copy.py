"""Copies whole pages of KV, all layers in one launch: for compaction, and to pause and resume problems."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from branchwise_kernels.checks import FLOATS, expect

BLOCK = 4096


@triton.jit
def kv_copy_kernel(pool_ptr, source_ptr, target_ptr, n_pages, page_size, BLOCK: tl.constexpr):
    """Program (pair, part of a page, layer)."""
    layer = tl.program_id(2).to(tl.int64) * n_pages
    source = (layer + tl.load(source_ptr + tl.program_id(0))) * page_size
    target = (layer + tl.load(target_ptr + tl.program_id(0))) * page_size
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(pool_ptr + source + i, mask=i < page_size, other=0.0)
    tl.store(pool_ptr + target + i, values, mask=i < page_size)


def kv_copy(pool: Tensor, source: Tensor, target: Tensor) -> None:
    """pool: [layer, page, ...]; page `source[i]` goes to page `target[i]`, [n] int32 each, no page twice in the two."""
    expect("pool", pool, FLOATS, tuple(pool.shape))
    expect("source", source, torch.int32, (len(source),))
    expect("target", target, torch.int32, (len(source),))
    page_size = pool[0, 0].numel()
    kv_copy_kernel[(len(source), triton.cdiv(page_size, BLOCK), len(pool))](
        pool, source, target, pool.shape[1], page_size, BLOCK=BLOCK, num_warps=4
    )
