"""The checks themselves: a planted fault of each kind must be found."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from kernels_interp.harness.count import Count
from kernels_interp.harness.guard import Guard
from kernels_interp.harness.order import Permuted
from kernels_interp.harness.verify import verify


@triton.jit
def increment(x_ptr, out_ptr, n, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if MASKED:
        tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < n, other=0.0) + 1, mask=i < n)
    else:
        tl.store(out_ptr + i, tl.load(x_ptr + i) + 1)


@triton.jit
def all_write_one(out_ptr):
    tl.store(out_ptr, tl.program_id(0))


@triton.jit
def reads_its_neighbour(x_ptr):
    program = tl.program_id(0)
    tl.store(x_ptr + program, tl.load(x_ptr + program + 1) + 1)


@triton.jit
def counts(x_ptr):
    tl.atomic_add(x_ptr, 1)


@triton.jit
def dot(a_ptr, b_ptr, out_ptr, N: tl.constexpr):
    i = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    product = tl.dot(tl.load(a_ptr + i), tl.load(b_ptr + i))
    tl.store(out_ptr + i, product.to(out_ptr.dtype.element_ty))


def test_an_overrun_is_found():
    x, out = torch.zeros(1000), torch.zeros(1000)
    with Guard() as guard:
        increment[(4,)](x, out, 1000, BLOCK=256, MASKED=True)
    assert guard.accesses == 2000
    with Guard(), pytest.raises(Exception, match="load of 24 elements outside every tensor"):
        increment[(4,)](x, out, 1000, BLOCK=256, MASKED=False)


def test_two_writers_are_found():
    with Guard(), pytest.raises(Exception, match="programs 0 and 2 write and access one address"):
        all_write_one[(3,)](torch.zeros(1, dtype=torch.int32))


def test_a_reader_of_what_another_writes_is_found():
    with Guard(), pytest.raises(Exception, match="write and access"):
        reads_its_neighbour[(3,)](torch.zeros(4))


def test_atomics_do_not_race():
    x = torch.zeros(1, dtype=torch.int32)
    with Guard():
        counts[(3,)](x)
    assert x.item() == 3


def test_dependence_on_order_is_found():
    seen = set()
    for seed in range(4):
        out = torch.zeros(1, dtype=torch.int32)
        with Permuted(seed):
            all_write_one[(6,)](out)
        seen.add(out.item())
    assert len(seen) > 1


def test_bytes_are_counted_per_tensor():
    x, out = torch.zeros(1000), torch.zeros(1000)
    with Count(x=x) as count:
        increment[(4,)](x, out, 1000, BLOCK=256, MASKED=True)
    assert (count.read["x"], count.read[""], count.written["x"], count.written[""]) == (4000, 0, 0, 4000)


def test_bf16_products_are_right():
    a, b = (torch.randn(16, 16, generator=torch.Generator().manual_seed(i)).bfloat16() for i in (0, 1))
    out = torch.empty(16, 16, dtype=torch.bfloat16)
    dot[(1,)](a, b, out, N=16)
    assert torch.equal(out, (a.float() @ b.float()).bfloat16())


def test_a_wrong_result_and_an_unwritten_one_fail():
    right = torch.ones(4)
    with pytest.raises(AssertionError, match="relative L2"):
        verify(lambda: (torch.tensor([1.0, 1.0, 1.0, 1.001]),), [right], torch.float32)
    with pytest.raises(AssertionError, match="relative L2"):
        verify(lambda: (torch.tensor([1.0, 1.0, 1.0, float("nan")]),), [right], torch.float32)
