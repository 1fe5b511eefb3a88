"""The study's tables say what its results say, and its prompts end where a solution begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.study.prompts import prompt
from benchmarks.study.table import judged, lines_of, main, markdown
from branchwise.assets import asset_path
from branchwise.cli import main as branchwise
from branchwise.report.folder import read_cells


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six problems, two seeds: greedy, votes and a search."""
    out = tmp_path_factory.mktemp("study") / "results"
    words = ["eval", str(asset_path("problems.jsonl")), "--limit", "6", "--seeds", "2", "--max-tokens", "200"]
    words += ["-s", "greedy,majority,weighted_best_of_n,beam", "-n", "4", "--confidence-top", "5", "--out", str(out)]
    assert branchwise(words) == 0
    return out


def test_whole_votes_and_searches_are_those_that_ran(folder: Path) -> None:
    lines = {(line.name, line.n): line for line in lines_of([folder])}
    names = {"majority": "majority", "weighted_best_of_n": "weighted by scores", "beam": "beam", "greedy": "greedy"}
    for _, header, records in read_cells(folder):
        strategy = header["settings"]["strategy"]
        line = lines[names[strategy], None if strategy == "greedy" else 4]
        assert len(line.right) == 12
        for id_, record in records.items():
            assert line.right[id_, header["settings"]["seed"]] == record["correct"]
    costs = [
        sum(r["cost"]["flops"] for r in records.values())
        for _, h, records in read_cells(folder)
        if h["label"] == "beam"
    ]
    assert sum(lines["beam", 4].flops) == pytest.approx(sum(costs))


def test_fewer_samples_cost_less_and_a_judge_is_paid_by_those_who_ask_it(folder: Path) -> None:
    lines = {(line.name, line.n): line for line in lines_of([folder])}
    assert {n for name, n in lines if name == "majority"} == {2, 4}
    assert sum(lines["one sample", 1].tokens) < sum(lines["majority", 2].tokens) < sum(lines["majority", 4].tokens)
    assert lines["majority", 4].tokens == lines["best score", 4].tokens
    pairs = zip(lines["majority", 4].flops, lines["best score", 4].flops, strict=True)
    assert all(votes < scored for votes, scored in pairs)
    assert ("certainty, borda", 4) in lines
    about = judged([folder])
    assert about["solutions"] == 48  # those of weighted_best_of_n alone have scores
    assert 0 <= about["confidence_ece"] <= 1


def test_the_table_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(folder), "--larger", str(folder)])
    printed = capsys.readouterr().out
    assert "| larger: beam | 4 |" in printed
    assert "| majority | 4 |" in printed
    assert "greedy: " in printed


@pytest.mark.parametrize(
    ("flops", "cell"), [(6.84e7, "0.0684"), (1.5e9, "1.5"), (3.7412e11, "374"), (1.0853e12, "1,090")]
)
def test_costs_are_told_in_three_digits(flops: float, cell: str) -> None:
    line = {"name": "beam", "n": 4, "accuracy": 0.5, "interval95": (0.4, 0.6), "tokens": 1e3, "difference": None}
    assert f"| {cell} |" in markdown([{**line, "flops": flops}])


def test_a_prompt_has_examples_and_ends_where_the_solution_begins(tmp_path: Path) -> None:
    made = prompt("What is 1 + 1?")
    assert made.count("Question: ") == 5
    assert made.count("\\boxed{") == 4
    assert made.endswith("Question: What is 1 + 1?\n\nAnswer:")
    json.dumps(made)
