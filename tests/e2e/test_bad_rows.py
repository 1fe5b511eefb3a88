"""A run of 100 rows, ten of them broken in ten ways: ten errors, and 90 results bit for bit as without them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import branchwise as bw
from e2e.test_bundled_pair import facts_and_costs

SEARCH: dict[str, Any] = {"strategy": "beam", "n": 2, "expand": 2, "reuse": False}
GOOD = [bw.Problem(f"row {i}", f"{i % 9 + 1}+{i // 9 + 1}*{i % 4 + 2}=?", answer=str(i)) for i in range(90)]
BROKEN: dict[str, Any] = {
    "nothing": None,
    "a row of a file": {"id": "7", "problem": "1+1=?"},
    "an empty question": bw.Problem("empty", " \n"),
    "a seed": bw.Problem("seed", "1+1=?", seed=-1),
    "a strategy": bw.Problem("strategy", "1+1=?", strategy="beam"),  # type: ignore[arg-type]
    "a sampling": bw.Problem("sampling", "1+1=?", sampling=bw.Sampling(top_p=2.0)),
    "a question longer than the context": bw.Problem("long", "1+" * 2000 + "1=?"),
    "half a character": bw.Problem("half", "1+1=\ud83d?"),
    "messages without roles": bw.Problem("messages", "1+1=?", prompt=[{"content": "1+1=?"}]),
    "a budget beyond memory": bw.Problem("budget", "1+1=?", strategy=bw.Majority(n=10**6)),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=256 << 20, max_tokens=24) as made:
        yield made


def test_ninety_results_and_ten_errors(engine: bw.Engine) -> None:
    rows: list[Any] = list(GOOD)
    for place, broken in enumerate(BROKEN.values()):
        rows.insert(place * 10 + 5, broken)
    clean = {each.problem.id: facts_and_costs(each) for each in engine.solve_many(GOOD, **SEARCH)}
    results = list(engine.solve_many(rows, max_in_flight=7, **SEARCH))
    assert engine.policy.kv.free_blocks == engine.policy.kv.n_blocks
    assert {each.problem.id: facts_and_costs(each) for each in results if each.error is None} == clean
    failed = [each for each in results if each.error is not None]
    assert len(failed) == len(BROKEN) == 10
    assert len({str(each.error) for each in failed}) == 10
    assert all(isinstance(each.error, bw.BranchwiseError) for each in failed)
    assert all(each.answer is None and each.candidates == [] and each.cost.generated_tokens == 0 for each in failed)


@pytest.mark.parametrize("broken", BROKEN)
def test_one_by_itself_is_raised(engine: bw.Engine, broken: str) -> None:
    with pytest.raises(bw.BranchwiseError):
        engine.solve(BROKEN[broken], **SEARCH)
