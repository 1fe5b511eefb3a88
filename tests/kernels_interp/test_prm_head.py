"""PRM heads."""

from __future__ import annotations

import pytest
import torch

from branchwise_kernels import reference
from branchwise_kernels.prm_head import PrmHeadWeights, prm_head
from kernels_interp.harness.verify import poisoned, verify


def tensors_of(kind: str, dim: int, inner: int, rng: torch.Generator) -> list[torch.Tensor]:
    shapes = {"pair": [(2, dim)], "value": [(1, dim), (1,)], "mlp": [(inner, dim), (inner,), (2, inner), (2,)]}
    return [torch.randn(*shape, generator=rng) * 0.2 for shape in shapes[kind]]


@pytest.mark.parametrize("kind", ["pair", "value", "mlp"])
@pytest.mark.parametrize("n", [1, 21])
def test_probabilities(dtype, rng, kind, n):
    hidden = torch.randn(n, 150, generator=rng).to(dtype)
    weights = PrmHeadWeights.of(kind, tensors_of(kind, 150, 90, rng))
    wanted = torch.empty(n, dtype=torch.float64)
    reference.prm_head(hidden, weights, wanted)

    def run():
        probability = poisoned(n, dtype=torch.float32)
        prm_head(hidden, weights, probability)
        return (probability,)

    # an atomic counter puts the programs of the MLP in order: the last one reads what all the others wrote
    verify(run, [wanted], torch.float32, races=kind != "mlp")
