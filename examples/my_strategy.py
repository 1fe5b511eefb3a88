"""A strategy of your own: after every step the branches share the budget in proportion to how good they look.

As in REBASE (Wu et al., Inference Scaling Laws) a branch with score s gets a share of exp(s / T) of the children.
"""

import math
from dataclasses import dataclass, field

import branchwise as bw
from branchwise.strategies.candidates import choose_among


@dataclass
class Shares(bw.State):
    missing: int = 0  # children that a problem still waits for
    actions: list = field(default_factory=list)  # to propose next


@dataclass(frozen=True)
class Rebase:
    n: int = 16
    softness: float = 0.2  # T: the lower, the more the best branch gets
    max_steps: int = 40
    name = "rebase"

    def demand(self, limits):
        return bw.Demand(branches=self.n, paths=self.n, steps=self.max_steps, scores=True)

    def start(self, problem, root, random):
        return Shares(problem, root, missing=self.n, actions=[bw.Ask(root, self.n)])

    def propose(self, state):
        actions, state.actions = state.actions, []
        return actions

    def observe(self, state, replies):
        for child in (child for reply in replies for child in reply.nodes):
            state.missing -= 1
            ended = child.is_final or child.depth >= self.max_steps
            (state.finished.append if ended else state.live.add)(child)
        if state.missing == 0 and state.live:  # the level is complete: share what is left of the budget
            left = self.n - len(state.finished)
            branches = sorted(state.live, key=lambda node: (-(node.score or 0.0), node.lineage_path))
            weights = [math.exp((node.score or 0.0) / self.softness) for node in branches]
            for place, node in enumerate(branches):
                count = round(left * weights[place] / sum(weights[place:]))  # the last one takes the rest
                left -= count
                state.actions.append(bw.Ask(node, count) if count else bw.Drop(node))
            state.missing = sum(action.n for action in state.actions if isinstance(action, bw.Ask))
            state.live.clear()

    def select(self, state):
        return choose_among(state, "last", "weighted")


if __name__ == "__main__":
    with bw.Engine() as engine:
        for result in engine.solve_many(["12+3*4-5+60=?", "7*8+5-20=?"], strategy=Rebase(n=16)):
            print(result.problem.text, result.answer, result.votes)
