"""One tile of queries against a run of keys: the inner loop that all attention kernels share.

    s = scale q k (soft-capped) log2 e;  m' = max(m, s);  d' = d 2^(m - m') + sum 2^(s - m');  o' likewise with v

Online softmax (Milakov and Gimelshein 2018) in base 2. A page of 64 keys is one tile, so it needs one scalar page id.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attend(
    q, position, m, total, acc, kv_ptr, page_ptr, kv_head, n_kv_heads, page_begin, first_key, key_count, key_position,
    causal, scale, softcap, window,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    EVEN_D: tl.constexpr,
):  # fmt: skip
    """Adds keys [first_key, key_count) of the pages from page_begin on to the state (m, total, acc) of each query.

    q: [queries, BLOCK_D]    position, m, total: [queries]    acc: [queries, BLOCK_D]    first_key: at a page's start
    """
    slot = tl.arange(0, PAGE)
    d = tl.arange(0, BLOCK_D)
    last_seen = tl.where(causal != 0, position, 2147483647)
    for start in range(first_key, key_count, PAGE):
        page = tl.load(page_ptr + page_begin + start // PAGE).to(tl.int64)
        base = kv_ptr + (page * n_kv_heads + kv_head) * (2 * PAGE * D)
        key = start + slot
        present = key < key_count
        tile = slot[:, None] * D + d[None, :]
        loaded = present[:, None] if EVEN_D else present[:, None] & (d < D)[None, :]
        k = tl.load(base + tile, mask=loaded, other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if SOFTCAP:
            # tanh x = 1 - 2 / (1 + e^2x): exact at both ends, no library call
            score = softcap * (1.0 - 2.0 / (1.0 + tl.exp2(2.8853900817779268 * score / softcap)))
        score = score * 1.4426950408889634
        seen = present[None, :] & (key_position + key[None, :] <= last_seen[:, None])
        if WINDOW:
            seen = seen & (key_position + key[None, :] > position[:, None] - window)
        score = tl.where(seen, score, float("-inf"))
        m_new = tl.maximum(m, tl.max(score, 1))
        floor = tl.where(m_new == float("-inf"), 0.0, m_new)  # a row that has seen nothing yet stays empty
        p = tl.exp2(score - floor[:, None])
        shrink = tl.exp2(m - floor)
        total = total * shrink + tl.sum(p, 1)
        v = tl.load(base + PAGE * D + tile, mask=loaded, other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        m = m_new
    return m, total, acc


@triton.jit
def first_visible(position, live, key_position, window, PAGE: tl.constexpr):
    """The first key of the first page that some row's window still sees."""
    earliest = tl.min(tl.where(live, position, 2147483647), 0) - window + 1 - key_position
    return tl.maximum(earliest, 0) // PAGE * PAGE
