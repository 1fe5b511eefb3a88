"""Random numbers that depend on nothing but their key: the same draws as the CPU's, bit for bit.

Philox4x32-10 (Salmon et al., SC 2011): key = seed, counter = (lineage low, lineage high, position, word / 4), and
lane = word % 4.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gumbel(bits):
    """-log(-log u) of 32 random bits; u is an odd multiple of 2^-24, so that both logarithms are finite."""
    u = ((bits >> 9) * 2 + 1).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08
    return -tl.log(-tl.log(u))


@triton.jit
def tile_bits(seed, lineage, position, first_word, WORDS: tl.constexpr):
    """Bits of words [first_word, first_word + WORDS), first_word a multiple of 4; seed, lineage, position: [rows]."""
    groups = (first_word // 4 + tl.arange(0, WORDS // 4)).to(tl.uint32)[None, :]
    zero = groups * 0
    low = (lineage & 0xFFFFFFFF).to(tl.uint32)[:, None] + zero
    high = ((lineage >> 32) & 0xFFFFFFFF).to(tl.uint32)[:, None] + zero
    place = position.to(tl.uint32)[:, None] + zero
    a, b, c, d = tl.philox(seed[:, None], low, high, place, groups + low * 0, 10)
    joined = tl.join(tl.join(a, c), tl.join(b, d))  # [rows, groups, 2, 2] holds lanes 0, 1, 2, 3 in order
    return tl.reshape(joined, (seed.shape[0], WORDS))


@triton.jit
def word_bits(seed, lineage, position, word):
    """Bits of any words: [words]; seed, lineage, position: one number each."""
    group = (word // 4).to(tl.uint32)
    zero = group * 0
    low = (lineage & 0xFFFFFFFF).to(tl.uint32) + zero
    high = ((lineage >> 32) & 0xFFFFFFFF).to(tl.uint32) + zero
    a, b, c, d = tl.philox(seed, low, high, position.to(tl.uint32) + zero, group, 10)
    lane = word % 4
    return tl.where(lane == 0, a, tl.where(lane == 1, b, tl.where(lane == 2, c, d)))
