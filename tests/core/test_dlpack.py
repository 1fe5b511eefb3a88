"""The border: what tensors of torch, numpy and others look like to the kernels, and what is refused."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch

from branchwise._C import describe_tensors


class Producer:
    """A tensor type without exchange table; `versioned` says whether it knows `max_version`."""

    def __init__(self, tensor: torch.Tensor, versioned: bool) -> None:
        self.tensor, self.versioned = tensor, versioned

    def __dlpack__(self, **options: object) -> object:
        if options and not self.versioned:
            raise TypeError("unexpected keyword argument 'max_version'")
        return self.tensor.__dlpack__(**options)


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int32, torch.int64, torch.uint64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: Producer(t, True), lambda t: Producer(t, False)])
def test_torch_tensors_are_seen_in_place(dtype, wrap):
    tensor = torch.zeros(4, 3, 2).to(dtype)
    view = tensor[1:3]
    seen = describe_tensors(wrap(tensor), wrap(view))
    name = str(dtype).removeprefix("torch.")
    assert seen == [(name, "[4, 3, 2]", tensor.data_ptr()), (name, "[2, 3, 2]", view.data_ptr())]


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (1, 7, 1), (2, 1, 2, 1, 2, 1)])
def test_shapes(shape):
    text = "[" + ", ".join(map(str, shape)) + "]"
    for tensor in (torch.zeros(shape), np.zeros(shape, np.float32), Producer(torch.zeros(shape), False)):
        ((dtype, seen, _),) = describe_tensors(tensor)
        assert (dtype, seen) == ("float32", text)


def test_axes_of_size_one_may_have_any_stride():
    tensor = torch.zeros(6, 4).as_strided((1, 4), (99, 1))
    assert tensor.stride(0) == 99
    assert describe_tensors(tensor)[0][1] == "[1, 4]"


def test_parameters_and_numpy_arrays_are_tensors():
    parameter = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
    array = np.zeros((2, 5), np.int32)
    assert describe_tensors(parameter, array, writable=True) == [
        ("float32", "[3]", parameter.data_ptr()),
        ("int32", "[2, 5]", array.ctypes.data),
    ]


def test_nothing_is_kept_after_the_call():
    tensor = torch.zeros(3)
    before = sys.getrefcount(tensor)
    describe_tensors(tensor, Producer(tensor, True), Producer(tensor, False))
    assert sys.getrefcount(tensor) == before
    producer = Producer(torch.zeros(3, 3).T, True)
    with pytest.raises(ValueError, match="not contiguous"):
        describe_tensors(producer)
    gone = weakref.ref(producer.tensor)
    del producer
    gc.collect()
    assert gone() is None, "a refused tensor is kept alive"


def test_read_only_arrays_are_inputs_only():
    array = np.zeros(3, np.float32)
    array.flags.writeable = False
    assert describe_tensors(array)[0][1] == "[3]"
    with pytest.raises(ValueError, match="tensor is read-only, expected a tensor that can be written"):
        describe_tensors(array, writable=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.zeros(3, 4).T, r"not contiguous: call \.contiguous\(\) first"),
        (lambda: np.zeros(6, np.float32)[::2], "not contiguous"),
        (lambda: torch.zeros(2, dtype=torch.bool), "DLPack type code 6 with 8 bits, expected a float32"),
        (lambda: np.zeros(2), "DLPack type code 2 with 64 bits"),
        (lambda: torch.zeros([1] * 7), "has 7 axes, expected at most 6"),
        (lambda: 3, "tensor is of type int, expected a tensor"),
        (lambda: None, "tensor is of type NoneType"),
        (lambda: torch.zeros(2, device="meta"), "cannot be viewed as a CPU tensor: .*meta"),
        (lambda: torch.zeros(2).to_sparse(), "cannot be viewed as a CPU tensor"),
        (lambda: Producer(torch.zeros(2, requires_grad=True), False), "cannot be viewed as a CPU tensor: .*gradient"),
    ],
)
def test_other_objects_are_refused(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        describe_tensors(make())
    assert "\n" not in str(caught.value)


def test_errors_that_are_not_about_the_tensor_pass_through():
    class Broken:
        def __dlpack__(self, **options: object) -> object:
            raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        describe_tensors(Broken())


def test_the_extension_works_without_torch():
    code = """
import sys, numpy
from branchwise import _C, errors
assert _C.describe_tensors(numpy.zeros(3, numpy.float32))[0][0] == "float32"
try:
    _C.KvTree(1).seal(0)
except errors.StaleNodeError:
    sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or "torch was imported"
