"""Scores of given texts on the bundled PRM: those of a search, bit for bit, and what cannot be scored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import branchwise as bw
from branchwise.tree import walk

QUESTIONS = ["12+3*4-5+60=?", "7*8+5-20=?", "(31+4)*2-9=?"]


def free_kv(engine: bw.Engine) -> bool:
    """Whether nobody needs any block of either model."""
    assert engine.judge is not None
    return all(model.kv.free_blocks == model.kv.n_blocks for model in (engine.policy, engine.judge))


@pytest.fixture(scope="module")
def engine() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=128 << 20, max_tokens=300) as made:
        yield made


@pytest.fixture(scope="module")
def searched(engine: bw.Engine) -> list[tuple[str, list[str], list[float | None]]]:
    """Every path of some searches, with its scores."""
    found = []
    for question in QUESTIONS:
        result = engine.solve(question, "beam", n=8, expand=4)
        for node in walk(result.tree):
            if node.parent is not None and node.score is not None:
                found.append((question, [step.text for step in node.path], [step.score for step in node.path]))
    return found


def test_given_texts_have_the_scores_of_a_search(engine: bw.Engine, searched: list[Any]) -> None:
    """In one call, in another order, one by one; with what the search left in the cache and without."""
    assert len(searched) > 50
    for reuse in (True, False):
        found = engine.score_steps([(question, steps) for question, steps, _ in searched], reuse=reuse)
        assert found == [scores for _, _, scores in searched]
        mixed = searched[::-3] + searched[:9]
        assert engine.score_steps([each[:2] for each in mixed], reuse=reuse) == [scores for *_, scores in mixed]
    for question, steps, scores in searched[::20]:
        assert engine.score_steps([(question, steps)], reuse=False) == [scores]
    assert engine.score_steps([]) == []
    assert engine.score_steps([(QUESTIONS[0], [])]) == [[]]
    assert engine.score_steps([(QUESTIONS[0], ()), searched[0][:2]]) == [[], searched[0][2]]


def test_what_solutions_begin_with_is_fed_once_and_the_policy_does_nothing(
    engine: bw.Engine, searched: list[Any]
) -> None:
    assert engine.judge is not None
    judge, policy = engine.judge, engine.policy.runner.stats.iterations
    asked = [(question, steps) for question, steps, _ in searched if question == QUESTIONS[0]]
    paths = {tuple(steps[:length]) for _, steps in asked for length in range(1, len(steps) + 1)}
    tokens = sum(len(judge.prm.format.step(len(path) - 1, path[-1])) for path in paths)
    before = judge.runner.stats.rows
    engine.score_steps(asked * 2, reuse=False)
    assert judge.runner.stats.rows - before == tokens + len(judge.prm.format.prompt(QUESTIONS[0]))
    assert engine.policy.runner.stats.iterations == policy
    before = judge.runner.stats.rows
    engine.score_steps(asked)
    engine.score_steps(asked)
    assert judge.runner.stats.rows - before <= tokens + len(judge.prm.format.prompt(QUESTIONS[0]))
    assert free_kv(engine)


def test_white_space_has_no_score_of_its_own(engine: bw.Engine) -> None:
    (whole,) = engine.score_steps([(QUESTIONS[0], ["3*4=12\n\n", "\n\n"])])
    assert whole[0] is not None
    assert whole[1] is None


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (3, "score_steps was given 3: expected a list of"),
        ("12", "score_steps was given '12'"),
        (["12"], "request 0 is '12': expected"),
        ([("1+1=?", ["2"]), ("1+1=?",)], "request 1 is"),
        ([("1+1=?", "2")], "request 0: the steps are '2': expected a list of texts"),
        ([("1+1=?", ["2", ""])], "request 0: step 2 of 2 is '': expected some text"),
        ([("1+1=?", [None])], "request 0: step 1 of 1 is None"),
        ([(" ", ["2"])], "request 0: the question is ' '"),
        ([(5, ["2"])], "request 0: the question is 5"),
        ([("1+1=?", ["2", "3" * 4000])], r"step 2 of 2 \('333.*333'\) does not fit into the PRM's context"),
        ([("1" * 9000, ["2"])], "shorten the problem"),
    ],
)
def test_requests_that_cannot_work(engine: bw.Engine, requests: Any, message: str) -> None:
    with pytest.raises(bw.InputError, match=message):
        engine.score_steps(requests)
    with pytest.raises(bw.ConfigError, match="reuse=1"):
        engine.score_steps([], reuse=1)  # type: ignore[arg-type]


def test_steps_that_cannot_be_kept_apart_are_the_error_of_their_own_ticket(
    engine: bw.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.judge is not None
    kind = type(engine.judge.prm.format)
    monkeypatch.setattr(kind, "is_apart", lambda self, index, text: not text.startswith("&"))
    alone = engine.score_steps([(QUESTIONS[0], ["3*4=12\n\n", "12+1"])])
    good, bad, long = (
        engine.submit_step_scores(QUESTIONS[0], ["3*4=12\n\n", *rest]) for rest in (["12+1"], ["&1"], ["3" * 4000])
    )
    with pytest.raises(bw.InputError, match="step 2, '&1', cannot be kept apart: the tokenizer of the PRM"):
        bad.result()
    with pytest.raises(bw.InputError, match="step 2 of 2"):
        long.result()
    assert [good.result()] == alone
    assert free_kv(engine)


def test_without_a_prm() -> None:
    from branchwise.assets import asset_path

    with (
        bw.Engine(asset_path("policy-small")) as engine,
        pytest.raises(bw.ConfigError, match="the engine has no judge"),
    ):
        engine.score_steps([("1+1=?", ["2"])])


def test_await_cancel_and_other_work(engine: bw.Engine, searched: list[Any]) -> None:
    """Beside a search and completions, given up in the middle, and again."""

    async def main() -> None:
        asked = [each[:2] for each in searched]
        first = asyncio.ensure_future(engine.ascore_steps(asked, reuse=False))
        await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        scores, result, texts = await asyncio.gather(
            engine.ascore_steps(asked, reuse=False),
            engine.asolve(QUESTIONS[0], "beam", n=8, expand=4),
            engine.acomplete("1+2=", n=4, ignore_eos=True, max_tokens=200),
        )
        assert scores == [scores for *_, scores in searched]
        assert result.answer == engine.solve(QUESTIONS[0], "beam", n=8, expand=4).answer
        assert len(texts[0].samples) == 4

    asyncio.run(main())
    engine.stop()
    assert free_kv(engine)


def test_scores_come_while_the_policy_is_busy(engine: bw.Engine) -> None:
    """Many rows grow for long and nobody of them wants a score: the pass is due all the same."""
    engine.policy.rows.max_rows, before = 8, engine.policy.rows.max_rows
    try:
        busy = engine.submit_completion("1+2=", n=16, ignore_eos=True, max_tokens=150)
        scores = engine.submit_step_scores(QUESTIONS[0], ["3*4=12\n\n"])
        assert scores.result()[0] is not None
        assert not busy.done()
        assert len(busy.result().samples) == 16
    finally:
        engine.policy.rows.max_rows = before


def test_more_texts_than_memory_holds() -> None:
    """The PRM's KV holds a few of the solutions: all are scored, to the same bits."""
    solutions = [[f"{i}*{i + j}={i * (i + j)}\n\n" for j in range(12)] for i in range(30)]
    asked = [(QUESTIONS[i % 2], steps) for i, steps in enumerate(solutions)]
    with bw.Engine(kv_memory=512 << 20) as large, bw.Engine(kv_memory=3 << 20) as small:
        assert small.judge is not None
        assert small.judge.kv.n_blocks < 12 * 30
        assert small.score_steps(asked) == large.score_steps(asked)
        assert free_kv(small)
