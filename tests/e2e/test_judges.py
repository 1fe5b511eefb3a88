"""Engines with judges of the user's own: a function, several judges by a rule, and a model that writes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

import branchwise as bw
from branchwise.assets import asset_path
from branchwise.tree import walk

QUESTIONS = ["12+3*4-5+60=?", "7*8+5-20=?"]
Branches = Sequence[Sequence[str]]


def short(question: str, branches: Branches) -> list[float]:
    """Prefers few characters."""
    return [1 / (1 + len("".join(steps))) for steps in branches]


def solved(judge: object, **options: object) -> list[bw.Result]:
    with bw.Engine(judge=judge, threads=1, **options) as engine:  # type: ignore[arg-type]
        results = list(engine.solve_many(QUESTIONS, strategy="beam", n=8))
    return sorted(results, key=lambda result: result.problem.text)


def test_a_function_scores_every_step() -> None:
    for result in solved(short):
        for node in walk(result.tree):
            if node.depth and node.text.strip():
                texts = [step.text for step in node.path]
                assert node.score == pytest.approx(short("", [texts])[0])
        assert result.cost.prm_tokens == 0
        assert not result.unjudged


def test_what_a_function_does_to_one_problem_is_no_other_problems_affair() -> None:
    def fails_for_seven(question: str, branches: Branches) -> list[float]:
        if question.startswith("7"):
            raise ValueError("no sevens")
        return short(question, branches)

    twelve, seven = solved(fails_for_seven)
    assert twelve.error is None
    assert not twelve.unjudged
    assert seven.error is None
    assert seven.score is None
    assert list(seven.unjudged) == ["judge fails_for_seven raised ValueError: no sevens"]


def test_a_branch_without_a_score_ranks_last() -> None:
    """Half of the first steps have none: those that have go on, as far as there are any."""

    def some(question: str, branches: Branches) -> list[float]:
        return [math.nan if len(steps) == 1 and len(steps[0]) % 2 else 0.5 for steps in branches]

    for result in solved(some):
        going = [node for node in result.tree.children if not node.is_final]
        kept = [node for node in going if node.children]
        judged = [node for node in going if node.score is not None]
        assert len([node for node in kept if node.score is not None]) == min(len(kept), len(judged))


@pytest.mark.parametrize(
    ("rule", "combine"), [("product", math.prod), ("min", min), ("first", lambda scores: scores[0])]
)
def test_several_judges(rule: str, combine: object) -> None:
    both = solved([asset_path("prm"), short], judge_rule=rule)
    for result in both:
        judged = [node for node in walk(result.tree) if node.score is not None]
        assert judged
        for node in judged:
            assert node.scores_by is not None
            assert list(node.scores_by) == ["prm", "short"]
            assert node.score == pytest.approx(combine(list(node.scores_by.values())))  # type: ignore[operator]
        assert result.cost.prm_tokens > 0
        assert result.cost.prm_flops > 0


def test_steps_before_the_one_that_is_asked_about_are_judged_on_the_way() -> None:
    judges = [asset_path("prm"), short]
    with bw.Engine(judge=judges, judge_rule="mean", threads=1) as engine, engine.open(QUESTIONS[0]) as tree:
        (first,) = tree.expand(tree.root)
        (second,) = tree.expand(first)
        (score,) = tree.score([second])
        assert score is not None
        assert first.score is not None
        assert list(first.scores_by or {}) == ["prm", "short"]


def test_a_judge_beside_changes_nothing_where_the_first_one_decides() -> None:
    alone = solved(None)
    beside = solved([asset_path("prm"), short], judge_rule="first")
    for one, other in zip(alone, beside, strict=True):
        assert [(n.tokens, n.score) for n in walk(one.tree)] == [(n.tokens, n.score) for n in walk(other.tree)]
        assert one.cost.prm_tokens == other.cost.prm_tokens
        assert one.cost.prm_flops == pytest.approx(other.cost.prm_flops)
        assert one.cost.flops == pytest.approx(other.cost.flops)


def test_a_model_that_writes() -> None:
    """The bundled policy has no opinion; what matters is that each step is judged, paid for, and always the same."""
    verdict = bw.prompt_verdict("{question}\n{solution}", tail="\n", good="1", bad="2")
    runs = [solved(bw.GeneratingJudge(verdict, max_tokens=12)) for _ in range(2)]
    for first, again in zip(*runs, strict=True):
        nodes = [node for node in walk(first.tree) if node.depth and node.text.strip()]
        assert all(node.score is not None and 0 <= node.score <= 1 for node in nodes)
        assert first.cost.prm_tokens > 0
        assert [n.score for n in walk(first.tree)] == [n.score for n in walk(again.tree)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"judge": [short, short]}, "2 judges without a rule"),
        ({"judge": [short, short], "judge_rule": "maen"}, "did you mean 'mean'"),
        ({"judge": short, "judge_rule": "mean"}, "combines several judges, there is 1"),
        ({"judge": 3}, "expected a function of"),
        ({"judge": [asset_path("prm")], "prm": asset_path("prm")}, "2 PRMs were named"),
        ({"judge": lambda question, branches: [], "isolate": True}, "unknown engine option 'isolate'"),
    ],
)
def test_what_cannot_be(options: dict[str, object], said: str) -> None:
    with pytest.raises(bw.ConfigError, match=said):
        bw.Engine(**options)  # type: ignore[arg-type]


def test_a_verdict_that_cannot_be() -> None:
    with pytest.raises(bw.ConfigError, match=r"expected \{question\} and \{solution\}"):
        bw.prompt_verdict("judge this")
    with pytest.raises(bw.ConfigError, match="expected one of genprm, thinkprm"):
        bw.GeneratingJudge("gneprm")
    with pytest.raises(bw.ConfigError, match="are all equal"):
        bw.GeneratingJudge("genprm", samples=4)


@pytest.mark.parametrize("judge", ["confidence", bw.ConfidenceJudge("certainty")])
def test_how_sure_the_policy_was_scores_every_step(judge: object) -> None:
    one, other = solved(judge), solved(judge, max_rows=5, speculate=True)
    for result, again in zip(one, other, strict=True):
        scored = 0
        for node in walk(result.tree):
            if node.depth and node.text.strip():
                assert node.confidence is not None
                values = node.confidence.values if judge == "confidence" else node.confidence.certainties
                mean = sum(values) / len(values)
                assert node.score == pytest.approx(mean / (1 + mean))
                scored += 1
        assert scored > 8
        assert result.cost.prm_flops == result.cost.prm_tokens == 0
        assert [node.score for node in walk(result.tree)] == [node.score for node in walk(again.tree)]
        assert result.answer == again.answer


def test_how_sure_the_policy_was_beside_a_prm() -> None:
    prm = str(asset_path("prm"))
    with bw.Engine(asset_path("policy-small"), prm, judge="confidence", judge_rule="product", instruction="") as engine:
        result = engine.solve(QUESTIONS[0], "best_of_n", n=4)
        for node in walk(result.tree):
            if node.score is not None:
                assert node.scores_by is not None
                assert set(node.scores_by) == {"prm", "confidence"}
                assert node.score == pytest.approx(math.prod(score or 0 for score in node.scores_by.values()))


def test_it_says_nothing_of_given_texts() -> None:
    with bw.Engine(judge="confidence") as engine:
        assert engine.config.confidence_top == 20
        with pytest.raises(bw.InputError, match="scores what the policy wrote"):
            engine.score_steps([("1+1=?", ["2"])])
    with pytest.raises(bw.ConfigError, match="measure='sure': expected 'confidence' or 'certainty'"):
        bw.ConfidenceJudge("sure")  # type: ignore[arg-type]
