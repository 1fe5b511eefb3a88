"""What a choice among fits goes by."""

from __future__ import annotations

from dataclasses import replace

import torch

from branchwise.training.choose import STRENGTHS, Choice


def test_what_costs_more_has_to_gain() -> None:
    held = Choice((3,), "mean", False, max(STRENGTHS), torch.empty(0), 0.80, 0.70)
    loose = replace(held, l2=max(STRENGTHS) / 10)
    assert held.worth > replace(loose, auc=0.805).worth
    assert held.worth < replace(loose, auc=0.83).worth
    behind = replace(held, after=True)
    assert held.worth > replace(behind, auc=0.805).worth
    assert held.worth < replace(behind, auc=0.82).worth


def test_an_auc_that_is_not_known_does_not_count() -> None:
    one = Choice((3,), "mean", False, 0.3, torch.empty(0), 0.8, None)
    assert one.quality == 0.8
    assert replace(one, auc=None).quality == 0.5
