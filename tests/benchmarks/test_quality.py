"""The comparison of strategies: a table of what `eval` found, with the gain over best-of-N problem by problem."""

from __future__ import annotations

import pytest

from benchmarks.quality import strategies
from branchwise.cli import models
from cli.fake_engine import FakeEngine


def test_a_table_of_every_line(tmp_path, monkeypatch, capsys):
    fake = FakeEngine()
    monkeypatch.setattr(models, "open_engine", fake.open)
    monkeypatch.setattr(models, "resolved", lambda engine: {"kernels": "avx2"})
    words = ["--out", str(tmp_path / "r"), "--strategies", "greedy,best_of_n,weighted_best_of_n,beam", "-n", "4"]
    strategies.main([*words, "--seeds", "2", "--limit", "5"])
    head, _, *lines = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("| strategy | N | accuracy | 95 % interval | beyond best_of_n |")
    assert {line.split(" | ")[0] for line in lines} == {"| greedy", "| best_of_n", "| weighted_best_of_n", "| beam"}
    gains = {line.split(" | ")[0][2:]: line.split(" | ")[4] for line in lines}
    assert gains["best_of_n"] == ""
    assert all(" ± " in gains[name] for name in ("greedy", "beam", "weighted_best_of_n"))
    assert len(fake.seen) == 5 * 2 * 4  # each by itself, so that all are timed


def test_a_gain_is_the_mean_difference_of_the_problems_of_both():
    base = {"a": [True, False], "b": [False, False], "c": [True]}
    mean, half = strategies.gain({"a": [True, True], "b": [True, False], "d": [True]}, base)
    assert mean == pytest.approx(0.5)
    assert half == pytest.approx(0)
    assert strategies.gain({"a": [True, True], "b": [False]}, base)[1] > 0
