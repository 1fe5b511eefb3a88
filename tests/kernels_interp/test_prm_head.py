"""PRM heads and running aggregates."""

from __future__ import annotations

import pytest
import torch

from branchwise.answers.aggregate import aggregate
from branchwise_kernels import reference
from branchwise_kernels.prm_head import PrmHeadWeights, prm_head
from kernels_interp.harness.verify import poisoned, verify


def tensors_of(kind: str, dim: int, inner: int, rng: torch.Generator) -> list[torch.Tensor]:
    shapes = {"pair": [(2, dim)], "value": [(1, dim), (1,)], "mlp": [(inner, dim), (inner,), (2, inner), (2,)]}
    return [torch.randn(*shape, generator=rng) * 0.2 for shape in shapes[kind]]


@pytest.mark.parametrize("kind", ["pair", "value", "mlp"])
@pytest.mark.parametrize("n", [1, 21])
def test_probabilities_and_aggregates(dtype, rng, kind, n):
    hidden = torch.randn(40, 150, generator=rng).to(dtype)
    weights = PrmHeadWeights.of(kind, tensors_of(kind, 150, 90, rng))
    ends = torch.randint(0, 40, (n,), generator=rng, dtype=torch.int32)
    before = torch.rand(n, 4, generator=rng)
    counts = torch.arange(n, dtype=torch.int32) % 3
    wanted = [torch.empty(n, dtype=torch.float64), before.double(), counts.clone()]
    reference.prm_head(hidden, ends, weights, *wanted)

    def run():
        probability, aggregates, steps = poisoned(n, dtype=torch.float32), before.clone(), counts.clone()
        prm_head(hidden, ends, weights, probability, aggregates, steps)
        return probability, aggregates, steps

    # an atomic counter puts the programs of the MLP in order: the last one reads what all the others wrote
    verify(run, wanted, torch.float32, races=kind != "mlp")


def test_the_first_step_reads_no_aggregate():
    weights = PrmHeadWeights.of("value", [torch.ones(1, 4), torch.zeros(1)])
    probability, aggregates = torch.empty(1), torch.full((1, 4), float("nan"))
    prm_head(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int32), weights, probability, aggregates,
             torch.zeros(1, dtype=torch.int32))  # fmt: skip
    assert aggregates.tolist() == [[0.5, 0.5, 0.5, 0.5]]


def test_aggregates_are_those_of_the_scores():
    """min, last, prod and mean after three steps, as `scoring.aggregate` has them from the whole list."""
    weights = PrmHeadWeights.of("value", [torch.ones(1, 1), torch.zeros(1)])
    aggregates, counts = torch.full((1, 4), float("nan")), torch.zeros(1, dtype=torch.int32)
    logits = torch.tensor([[1.0], [-0.5], [2.0]])
    for row in range(3):
        end = torch.tensor([row], dtype=torch.int32)
        prm_head(logits, end, weights, torch.empty(1), aggregates, counts)
    scores = logits[:, 0].sigmoid().tolist()
    wanted = [aggregate(scores, how) for how in ("min", "last", "prod", "mean")]
    assert aggregates[0].tolist() == pytest.approx(wanted, rel=1e-6)
