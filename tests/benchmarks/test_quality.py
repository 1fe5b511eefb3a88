"""The comparison of strategies: a table of what `eval` found, with the gain over best-of-N problem by problem."""

from __future__ import annotations

import json

import pytest

import branchwise as bw
from benchmarks.quality import budget, strategies
from branchwise.assets import asset_path
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


def test_a_common_budget_takes_no_more_than_the_same_spread_evenly() -> None:
    rows = [json.loads(line) for line in asset_path("problems.jsonl").read_text().splitlines()[:4]]
    problems = [bw.Problem(row["id"], row["problem"], answer=row["answer"]) for row in rows]
    with bw.Engine(max_tokens=256, kv_memory=256 << 20) as engine:
        record = budget.compare(engine, problems, 8, 16, range(1))
    assert 0 < record["shared"]["tokens"] <= record["even"]["tokens"]
    assert record["gain"] == pytest.approx(record["shared"]["accuracy"] - record["even"]["accuracy"])
    assert record["shared"]["solutions"] >= 4 * len(problems)
