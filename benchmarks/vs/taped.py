"""branchwise under a tape: steps end where the tape says, and get its scores; all the work is done all the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.vs.workloads import Forced, SearchTask
from branchwise.engine.decode_loop import LoopRow
from branchwise.engine.engine import StepEngine
from branchwise.engine.policy_tree import NodeState
from branchwise.engine.rows import Growing
from branchwise.pair.prompts import problem_lineage
from branchwise.scoring.scorer import PrmTree, Scorer
from branchwise.text.automaton import Verdict
from branchwise.types import Cut, FinishReason, Node, Problem


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


class TapedPolicy(StepEngine):
    """The step engine, with the ends of steps forced."""

    forcing: Forcing

    def _loop_row(self, item: Growing) -> LoopRow:
        """On a device of its own, too, the step ends where the tape says."""
        return replace(super()._loop_row(item), max_step=self.forcing(item.state.node).length)

    def _finish(self, state: NodeState, verdict: Verdict) -> tuple[FinishReason | None, Cut | None]:
        forced = self.forcing(state.node)
        if len(state.node.tokens) < forced.length:
            return None, None
        return ("length", "tokens") if forced.ends else ("stop", None)


class TapedJudge(Scorer):
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


def taped(policy: StepEngine, judge: Scorer, task: SearchTask) -> tuple[TapedPolicy, TapedJudge]:
    """Both with the same models and KV as those given, which must be idle."""
    forcing = Forcing(task)
    rows: Any = {"max_rows": policy.rows.max_rows, "prefill_rows": policy.rows.prefill_rows}
    forced_policy = TapedPolicy(policy.model, policy.tokenizer, policy.kv, **rows)
    forced_judge = TapedJudge(judge.prm, judge.kv, batch_rows=judge.batch_rows)
    forced_policy.forcing = forced_judge.forcing = forcing
    return forced_policy, forced_judge
