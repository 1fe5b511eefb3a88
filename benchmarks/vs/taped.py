"""branchwise under a tape: steps end where the tape says, and get its scores; all the work is done all the same."""

from __future__ import annotations

from typing import Any

from benchmarks.vs.workloads import Forced, SearchTask
from branchwise.engine.branch import Branch, Tree
from branchwise.engine.engine import StepEngine
from branchwise.scoring.scorer import PrmTree, Scorer
from branchwise.search.scored_engine import problem_lineage
from branchwise.types import Finish, Node, Problem


class Forcing:
    """What the tape says, by node."""

    def __init__(self, task: SearchTask) -> None:
        assert task.tape is not None
        self.tape = task.tape
        self.problems = {problem_lineage(Problem(each.id, each.text)): each.id for each in task.questions}
        self._known: dict[Node, Forced] = {}

    def __call__(self, node: Node) -> Forced:
        if node not in self._known:
            root = node.path[0].parent
            assert root is not None
            self._known[node] = self.tape.step(self.problems[root.lineage], node.lineage_path)
        return self._known[node]


class TapedSteps(StepEngine):
    """The step engine, with the ends of steps forced."""

    forcing: Forcing

    def _finish(self, tree: Tree, branch: Branch, token: int, stopped: bool) -> Finish | None:
        forced = self.forcing(branch.node)
        if len(branch.node.tokens) < forced.length:
            return None
        return "length" if forced.ends else "stop"


class TapedScorer(Scorer):
    """The scorer, with scores forced once they are known."""

    forcing: Forcing

    def submit(self, tree: PrmTree, node: Node) -> bool:
        if super().submit(tree, node):
            return True
        node.score = self.forcing(node).score
        return False

    def poll(self, **when: Any) -> list[Node]:
        done = super().poll(**when)
        for node in done:
            node.score = self.forcing(node).score
        return done


def taped(steps: StepEngine, scorer: Scorer, task: SearchTask) -> tuple[TapedSteps, TapedScorer]:
    """Both with the same models and KV as those given, which must be idle."""
    forcing = Forcing(task)
    rows: Any = {"max_rows": steps.rows.max_rows, "prefill_rows": steps.rows.prefill_rows}
    forced_steps = TapedSteps(steps.model, steps.tokenizer, steps.kv, **rows)
    forced_scorer = TapedScorer(scorer.prm, scorer.kv, batch_rows=scorer.batch_rows)
    forced_steps.forcing = forced_scorer.forcing = forcing
    return forced_steps, forced_scorer
