"""A branch ends where its text does not fit into the PRM's context, which is counted; no other row notices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import branchwise as bw
from e2e.test_bundled_pair import facts_and_costs

QUESTION = "12+3*4-5+60=?"
OTHERS = ["7*8+5-20=?", "(31+4)*2-9=?", "90-4*7+11=?"]


@pytest.fixture(scope="module")
def made() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=256 << 20, max_tokens=300) as made:
        yield made


@pytest.fixture
def engine(made: bw.Engine) -> Iterator[bw.Engine]:
    """With the PRM's context as it was, afterwards."""
    assert made.judge is not None
    context = made.judge.context
    yield made
    made.judge.context = context


def prompt_tokens(engine: bw.Engine, question: str = QUESTION) -> int:
    assert engine.judge is not None
    return len(engine.judge.prm.format.prompt(question))


def limit_context(engine: bw.Engine, tokens: int) -> None:
    """The PRM sees so many tokens beside the prompt."""
    assert engine.judge is not None
    engine.judge.context = prompt_tokens(engine) + tokens


@pytest.mark.parametrize("strategy", ["best_of_n", "dvts"])
def test_a_solution_ends_where_the_prm_has_no_room(engine: bw.Engine, strategy: str) -> None:
    whole = engine.solve(QUESTION, strategy, n=4)
    assert whole.cuts == {}
    limit_context(engine, 45)  # the first two steps of four
    result = engine.solve(QUESTION, strategy, n=4)
    assert result.error is None
    assert result.cuts == {"prm_context": 4}
    assert all(candidate.scores for candidate in result.candidates)
    assert engine.judge is not None


def test_a_context_that_holds_no_step_is_the_error_of_that_problem(engine: bw.Engine) -> None:
    limit_context(engine, 8)
    assert engine.solve(QUESTION, "best_of_n", n=2).cuts == {"prm_context": 2}  # a piece of the first one
    limit_context(engine, 2)
    with pytest.raises(bw.InputError, match="no step fits into the PRM's context"):
        engine.solve(QUESTION, "best_of_n", n=2, max_tokens=200)
    assert engine.policy.kv.free_blocks == engine.policy.kv.n_blocks


def cut_finer(monkeypatch: pytest.MonkeyPatch, engine: bw.Engine, times: int, sign: str) -> None:
    """The PRM's tokenizer cuts steps with a certain text in them into so many times as many tokens."""
    assert engine.judge is not None
    kind = type(engine.judge.prm.format)
    step = kind.step

    def finer(self: Any, index: int, text: str) -> list[int]:
        ids: list[int] = step(self, index, text)
        return ids[:-1] * times + ids[-1:] if sign in text else ids

    monkeypatch.setattr(kind, "step", finer)


@pytest.mark.parametrize("times", [3, 40])
@pytest.mark.parametrize("strategy", ["beam"])
def test_finer_steps_of_one_problem_harm_no_other(
    engine: bw.Engine, monkeypatch: pytest.MonkeyPatch, strategy: str, times: int
) -> None:
    """Three times the tokens fit in part, 40 times as many not at all."""
    alone = {each.problem.text: facts_and_costs(each) for each in engine.solve_many(OTHERS, strategy, n=4, reuse=False)}
    cut_finer(monkeypatch, engine, times, "12")  # which is in the first step of QUESTION only
    results = list(engine.solve_many([OTHERS[0], QUESTION, *OTHERS[1:]], strategy, n=4, reuse=False))
    (hit,) = [each for each in results if each.problem.text == QUESTION]
    assert {each.problem.text: facts_and_costs(each) for each in results if each is not hit} == alone
    if times == 3:
        assert hit.error is None
    else:
        assert isinstance(hit.error, bw.InputError)
        assert hit.cuts["prm_context"] == 4
    assert engine.judge is not None
    assert engine.judge.kv.free_blocks == engine.judge.kv.n_blocks


def test_steps_that_cannot_all_come_take_no_room() -> None:
    """The markers of 1,000 steps would fill the PRM's context twice; four come."""
    with bw.Engine(kv_memory=1 << 30) as engine:
        few, many = (engine.solve("7*8+5-20=?", n=4, expand=2, max_steps=steps, reuse=False) for steps in (40, 1000))
        assert facts_and_costs(many) == facts_and_costs(few)
        assert (many.answer, many.cuts) == ("41", {})
