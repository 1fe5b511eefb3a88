"""Top-k, top-p and min-p of one row without a sort: collect what can be in the set, cut it exactly, draw.

A word belongs to the top p if the words above it weigh less than p together. Weights exp(z - max) are counted in units
of 2^-40, so that a sum does not depend on its order; the cut is found by radix selection on the bits of z, four at a
time: the same rules, and the same ties (in order of words), as the CPU's sampler.
"""

from __future__ import annotations

import triton
import triton.language as tl

from branchwise_kernels.philox import gumbel, word_bits

COLLECT = tl.constexpr(2048)  # words looked at together when candidates are collected


@triton.jit
def order_key(z):
    """An integer that orders as the float does; 0 is below every number."""
    bits = tl.where(z == 0.0, 0.0, z).to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    return tl.where(bits >= 0x80000000, 0xFFFFFFFF - bits, bits + 0x80000000)


@triton.jit
def mass(z, z_top):
    """exp(z - max) in units of 2^-40."""
    return (tl.exp(z - z_top) * 1099511627776.0).to(tl.int64)


@triton.jit
def candidates(logit_ptr, word_ptr, start, n, scale, BLOCK: tl.constexpr):
    """(present, word, z) of candidates [start, start + BLOCK)."""
    i = start + tl.arange(0, BLOCK)
    present = i < n
    word = tl.load(word_ptr + i, mask=present, other=0)
    z = tl.load(logit_ptr + word, mask=present, other=0.0) * scale
    return present, word, z


@triton.jit
def total_weight(logit_ptr, word_ptr, n, scale, z_top, BY_MASS: tl.constexpr, BLOCK: tl.constexpr):
    """Sum over all candidates, of masses or of ones."""
    total = tl.full((), 0, tl.int64)
    for start in range(0, n, BLOCK):
        present, _, z = candidates(logit_ptr, word_ptr, start, n, scale, BLOCK)
        total += tl.sum(tl.where(present, mass(z, z_top) if BY_MASS else 1, 0).to(tl.int64), 0)
    return total


@triton.jit
def select(logit_ptr, word_ptr, n, scale, z_top, target, BY_MASS: tl.constexpr, BLOCK: tl.constexpr):
    """(key, ties): above `key`, and `ties` of the words at it, is the smallest set of at least the target weight."""
    total = total_weight(logit_ptr, word_ptr, n, scale, z_top, BY_MASS, BLOCK)
    target = tl.maximum(tl.minimum(target, total), 1)
    prefix = tl.full((), 0, tl.int64)  # of the key, the digits found so far
    above = tl.full((), 0, tl.int64)  # weight of all keys above every key with that prefix
    at_key = tl.full((), 1, tl.int64)  # weight of one word at the key
    digits = tl.arange(0, 16)
    for step in range(8):
        shift = 28 - 4 * step
        histogram = tl.zeros((16,), tl.int64)
        for start in range(0, n, BLOCK):
            present, _, z = candidates(logit_ptr, word_ptr, start, n, scale, BLOCK)
            key = order_key(z)
            weight = tl.where(present & ((key >> (shift + 4)) == prefix), mass(z, z_top) if BY_MASS else 1, 0)
            here = ((key >> shift) & 15)[:, None] == digits[None, :]
            histogram += tl.sum(tl.where(here, weight.to(tl.int64)[:, None], 0), 0)
        # weight of all keys with a larger digit
        larger = tl.sum(tl.where(digits[None, :] > digits[:, None], histogram[None, :], 0), 1)
        reaches = above + larger + histogram >= target
        digit = tl.maximum(tl.max(tl.where(reaches, digits, -1), 0), 0)
        above += tl.sum(tl.where(digits == digit, larger, 0), 0)
        prefix = prefix * 16 + digit
    for start in range(0, n, BLOCK):
        present, _, z = candidates(logit_ptr, word_ptr, start, n, scale, BLOCK)
        if BY_MASS:
            at_key = tl.maximum(at_key, tl.max(tl.where(present & (order_key(z) == prefix), mass(z, z_top), 0), 0))
    return prefix, (target - above + at_key - 1) // at_key


@triton.jit
def keep(logit_ptr, word_ptr, n, scale, key, ties, BLOCK: tl.constexpr):
    """Moves the candidates inside a cut to the front, in order; returns how many there are."""
    kept = tl.full((), 0, tl.int32)
    for start in range(0, n, BLOCK):
        present, word, z = candidates(logit_ptr, word_ptr, start, n, scale, BLOCK)
        own = order_key(z)
        tied = present & (own == key)
        rank = tl.cumsum(tied.to(tl.int32), 0)
        inside = present & ((own > key) | (tied & (rank <= ties)))
        place = kept + tl.cumsum(inside.to(tl.int32), 0) - 1
        tl.debug_barrier()  # every thread has read its words before any is overwritten
        tl.store(word_ptr + place, word, mask=inside)
        tl.debug_barrier()
        ties -= tl.sum(tied.to(tl.int64), 0)
        kept += tl.sum(inside.to(tl.int32), 0)
    return kept


@triton.jit
def collect(logit_ptr, word_ptr, words, scale, floor):
    """Words with z >= floor, in order; returns how many."""
    n = tl.full((), 0, tl.int32)
    for start in range(0, words, COLLECT):
        word = start + tl.arange(0, COLLECT)
        z = tl.load(logit_ptr + word, mask=word < words, other=float("-inf")) * scale
        inside = (z >= floor) & (z > float("-inf"))
        tl.store(word_ptr + n + tl.cumsum(inside.to(tl.int32), 0) - 1, word, mask=inside)
        n += tl.sum(inside.to(tl.int32), 0)
    tl.debug_barrier()
    return n


@triton.jit
def redraw(
    logit_ptr, word_ptr, words, z_top, z_sum, scale, top_p, top_k, min_p, seed, lineage, position, BLOCK: tl.constexpr
):
    """The word drawn among those that all filters allow."""
    floor = z_top - 1e30
    if top_k <= 0:
        if top_p < 1:  # words below a share (1 - p) / words weigh less than 1 - p together: the rest reach p
            floor = tl.maximum(floor, z_top + tl.log(z_sum) + tl.log((1.0 - top_p) / words) - 0.01)
        if min_p > 0:
            floor = tl.maximum(floor, z_top + tl.log(min_p) - 0.01)
    n = collect(logit_ptr, word_ptr, words, scale, floor)
    if (top_k > 0) & (top_k < n):
        key, ties = select(logit_ptr, word_ptr, n, scale, z_top, top_k.to(tl.int64), False, BLOCK)
        n = keep(logit_ptr, word_ptr, n, scale, key, ties, BLOCK)
    if top_p < 1:
        total = z_sum.to(tl.float64) * 1099511627776.0
        if top_k > 0:
            total = total_weight(logit_ptr, word_ptr, n, scale, z_top, True, BLOCK).to(tl.float64)
        wanted = top_p.to(tl.float64) * total
        target = wanted.to(tl.int64)
        target += (target.to(tl.float64) < wanted).to(tl.int64)
        key, ties = select(logit_ptr, word_ptr, n, scale, z_top, target, True, BLOCK)
        n = keep(logit_ptr, word_ptr, n, scale, key, ties, BLOCK)
    best = tl.full((), float("-inf"), tl.float32)
    token = tl.full((), 0, tl.int32)
    for start in range(0, n, BLOCK):
        present, word, z = candidates(logit_ptr, word_ptr, start, n, scale, BLOCK)
        allowed = present & (tl.exp(z - z_top) >= min_p)
        score = tl.where(allowed, z + gumbel(word_bits(seed, lineage, position, word)), float("-inf"))
        top = tl.max(score, 0)
        if top > best:
            best = top
            token = tl.min(tl.where(score == top, word, 2147483647), 0)
    return token
