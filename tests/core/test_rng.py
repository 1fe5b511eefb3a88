"""Philox and the lineage hashes against slow versions over Python integers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise._C import lineage_child, lineage_root, philox_uniform

U32, U64 = (1 << 32) - 1, (1 << 64) - 1
uint32, uint64 = st.integers(0, U32), st.integers(0, U64)


def philox(counter: list[int], key: int) -> list[int]:
    """Philox4x32-10 as in the paper's pseudo-code."""
    keys = [key & U32, key >> 32]
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * counter[0], 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * counter[2], 1 << 32)
        counter = [high1 ^ counter[1] ^ keys[0], low1, high0 ^ counter[3] ^ keys[1], low0]
        keys = [(keys[0] + 0x9E3779B9) & U32, (keys[1] + 0xBB67AE85) & U32]
    return counter


def mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & U64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & U64
    return x ^ x >> 31


def test_the_slow_version_gives_the_known_answer():
    counter, key = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], 0x299F31D0A4093822
    assert philox(counter, key) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


@given(seed=uint64, lineage=uint64, position=uint32, word=uint32)
def test_uniform(seed, lineage, position, word):
    draw = philox([lineage & U32, lineage >> 32, position, word // 4], seed)[word % 4]
    expected = ((draw >> 9) * 2 + 1) / 2**24
    assert philox_uniform(seed, lineage, position, word) == expected
    assert 0 < expected < 1


@given(key=uint64, index=uint64)
def test_lineage(key, index):
    root = mix((key + 0x6A09E667F3BCC909) & U64)
    assert lineage_root(key) == root
    assert lineage_child(root, index) == mix((root + 0x9E3779B97F4A7C15 * (index + 1)) & U64)


@pytest.mark.parametrize(
    "call", [lambda: lineage_root(-1), lambda: lineage_root(U64 + 1), lambda: lineage_child(0, -1)]
)
def test_keys_are_64_bit_and_unsigned(call):
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call()
