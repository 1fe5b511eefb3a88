"""PRM heads' probabilities against torch in float64."""

from __future__ import annotations

import pytest
import torch

from branchwise import _C
from tolerances import assert_close


def test_kinds() -> None:
    one, two = torch.randn(50, 1) * 10, torch.randn(50, 2) * 10
    for logits, kind, reference in (
        (one, "sigmoid", one.double().sigmoid()[:, 0]),
        (two, "softmax0", two.double().softmax(-1)[:, 0]),
        (two, "softmax1", two.double().softmax(-1)[:, 1]),
    ):
        assert_close("prm_probability", torch.from_numpy(_C.prm_probability(logits, kind)), reference)


def test_extremes() -> None:
    logits = torch.tensor([[-1e30], [1e30], [0.0]])
    assert _C.prm_probability(logits, "sigmoid").tolist() == [0, 1, 0.5]


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="kind is 'tanh', expected 'sigmoid'"):
        _C.prm_probability(torch.zeros(1, 1), "tanh")
    with pytest.raises(ValueError, match=r"logits has shape \[1, 1\], expected \[rows, 2\]"):
        _C.prm_probability(torch.zeros(1, 1), "softmax0")
