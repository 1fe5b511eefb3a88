"""`demo` measures every row on the same problems and claims no more than its intervals bear."""

from __future__ import annotations

import pytest

from branchwise.cli import demo
from branchwise.report.tally import Tally
from branchwise.types import Cost


def tally(right: int, total: int = 200) -> Tally:
    return Tally(problems=total, graded=total, right=right, cost=Cost(flops=1e9))


def rows(alone: int, search: int, large: int) -> list[demo.Row]:
    counts = {("small", "greedy"): alone, ("small", "beam"): search, ("large", "greedy"): large}
    return [demo.Row(*names, tally(count)) for names, count in counts.items()]


@pytest.fixture(autouse=True)
def _no_checkpoints(monkeypatch):
    monkeypatch.setattr(demo, "parameters", lambda name: 8_000_000 if "large" in name else 1_000_000)


def test_table_tree_and_sentence(command, engine):
    done = command("demo", "--problems", 8, "-n", 8)
    assert done.code == 0
    for strategy in ("greedy", "majority", "best_of_n", "beam", "dvts"):
        assert f"small    {strategy}" in done.out
    assert "large    greedy" in done.out
    assert "Beam search with a PRM (N = 8)" in done.out
    assert len(engine.seen) == 6 * 8


def test_json(command, engine):
    document = command("demo", "--problems", 4, "-n", 4, "--json").document
    assert [(row["policy"], row["strategy"]) for row in document["rows"]] == list(demo._ROWS)
    assert all(row["problems"] == 4 for row in document["rows"])
    assert document["shown"].startswith("Beam search")


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--problems", 100000), "held-out problems are bundled"), (("-n", 6), "no multiple of expand")],
)
def test_what_cannot_work_is_refused(command, engine, words, message):
    done = command("demo", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert engine.opened == 0


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((80, 160, 120), "above the 60.0 % that a policy 8.0 times its size reaches by greedy decoding, beyond"),
        ((80, 122, 120), "above the 60.0 % that a policy 8.0 times its size reaches by greedy decoding, but the 95 %"),
        ((80, 90, 130), "below the 65.0 % that a policy 8.0 times its size reaches by greedy decoding, beyond"),
        ((80, 120, 120), "equal to the 60.0 %"),
    ],
)
def test_the_sentence_says_what_the_intervals_bear(counts, words):
    assert words in demo._sentence(rows(*counts), 16)
