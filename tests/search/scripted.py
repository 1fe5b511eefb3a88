"""An engine without a model: texts, ends and scores are hashes of problem and path; steps finish in random order."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from branchwise.search import DVTS, BeamSearch, BestOfN, Greedy, Majority, WeightedBestOfN
from branchwise.search.step_engine import Event
from branchwise.search.tree import walk
from branchwise.types import Finish, Node, Problem, Result, Sampling, Strategy

Path = tuple[int, ...]

MAX_STEPS = 6
STRATEGIES: list[Strategy] = [
    Greedy(max_steps=MAX_STEPS),
    Majority(n=5, max_steps=MAX_STEPS),
    BestOfN(n=5, max_steps=MAX_STEPS),
    WeightedBestOfN(n=4, aggregate="min", max_steps=MAX_STEPS),
    BeamSearch(n=8, expand=4, max_steps=MAX_STEPS),
    BeamSearch(n=6, expand=2, aggregate="mean", vote="max", max_steps=MAX_STEPS),
    DVTS(n=8, expand=4, max_steps=MAX_STEPS),
    DVTS(n=6, expand=3, aggregate="prod", vote="majority", max_steps=MAX_STEPS),
]


def shape(result: Result) -> object:
    """Everything about a result that must not depend on timing."""
    nodes = [
        (node.id, node.lineage_path, node.text, node.score, node.finish, node.pruned) for node in walk(result.tree)
    ]
    candidates = [
        (each.node.id, each.text, each.answer, each.scores, each.score, each.finish) for each in result.candidates
    ]
    return nodes, candidates, result.votes, result.answer, result.text, result.score, result.why


@dataclass(frozen=True)
class Script:
    """What the model would write and the reward model would say. Chances are in percent."""

    eos: int = 20
    length: int = 5
    answers: int = 3  # how many different final answers there are
    scores: int = 5  # how many different scores there are: few make ties

    def draw(self, problem: str, path: Path, what: str, below: int) -> int:
        digest = hashlib.blake2b(f"{problem}|{path}|{what}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % below

    def finish(self, problem: str, path: Path) -> Finish:
        chance = self.draw(problem, path, "finish", 100)
        return "eos" if chance < self.eos else "length" if chance < self.eos + self.length else "stop"

    def text(self, problem: str, path: Path) -> str:
        finish = self.finish(problem, path)
        if finish == "eos":
            return f"\\boxed{{{self.draw(problem, path, 'answer', self.answers)}}}"
        return f"step {path}" + ("\n\n" if finish == "stop" else "")

    def score(self, problem: str, path: Path) -> float:
        return (1 + self.draw(problem, path, "score", self.scores)) / (1 + self.scores)


@dataclass(eq=False)
class ScriptedTree:
    problem: Problem
    root: Node
    reserved: int
    max_steps: int
    use_scores: bool
    sampling: Sampling
    seed: int
    held: set[Node] = field(default_factory=set)
    pruned: set[Node] = field(default_factory=set)
    most_held: int = 0
    growing: int = 0
    closed: bool = False


class ScriptedEngine:
    """A `StepEngine` that also checks how it is used. `room` counts the branches that fit in all."""

    def __init__(
        self,
        script: Script | None = None,
        order: random.Random | None = None,
        *,
        room: int = 10**9,
        slow: Callable[[Node], int] = lambda node: 0,
        nan_at: Path | None = None,
    ) -> None:
        self.script = script or Script()
        self.order = order or random.Random(0)
        self.room = room
        self.slow = slow  # polls that a step takes
        self.nan_at = nan_at
        self.trees: list[ScriptedTree] = []
        self.refusals = 0
        self.polls = 0
        self.most_open = 0
        self._queue: list[tuple[int, Event]] = []  # (poll from which it may finish, event)

    @property
    def open_trees(self) -> list[ScriptedTree]:
        return [tree for tree in self.trees if not tree.closed]

    def open(
        self, problem: Problem, branches: int, max_steps: int, sampling: Sampling, seed: int, *, use_scores: bool,
        kept: int | None = None,
    ) -> ScriptedTree | None:  # fmt: skip
        if sum(tree.reserved for tree in self.open_trees) + branches > self.room:
            self.refusals += 1
            return None
        tree = ScriptedTree(problem, Node(0, None, 0, 0, 0), branches, max_steps, use_scores, sampling, seed)
        tree.held.add(tree.root)
        self.trees.append(tree)
        self.most_open = max(self.most_open, len(self.open_trees))
        return tree

    def expand(self, tree: ScriptedTree, node: Node, n: int) -> None:
        assert not tree.closed
        assert node in tree.held
        assert node is tree.root or node.finish == "stop"
        tree.growing += n
        assert tree.growing <= tree.reserved
        for _ in range(n):
            index = len(node.children)
            child = Node(self.order.randrange(10**9), node, index, node.depth + 1, hash((node.lineage, index)))
            node.children.append(child)
            tree.held.add(child)
            tree.most_held = max(tree.most_held, len(tree.held))
            self._queue.append((self.polls + self.slow(child), Event("generated", tree, child)))

    def score(self, tree: ScriptedTree, nodes: list[Node]) -> None:
        assert not tree.closed
        assert tree.use_scores
        assert tree.held.issuperset(nodes)
        self._queue += [(self.polls, Event("scored", tree, node)) for node in nodes]

    def prune(self, tree: ScriptedTree, node: Node) -> None:
        assert node in tree.held
        assert node not in tree.pruned
        assert all(child.finish is not None for child in node.children)  # no step still grows from it
        tree.held.remove(node)
        tree.pruned.add(node)

    def close(self, tree: ScriptedTree) -> None:
        assert not tree.closed
        tree.closed = True
        tree.root.cost.prefill_tokens = 7
        tree.held.clear()
        self._queue = [item for item in self._queue if item[1].tree is not tree]

    def poll(self) -> list[Event]:
        self.polls += 1
        assert self._queue, "the driver waits for an engine that has nothing to do"
        ready = [item for item in self._queue if item[0] < self.polls]
        done = self.order.sample(ready, self.order.randint(min(1, len(ready)), len(ready)))
        self._queue = [item for item in self._queue if item not in done]
        for _, event in done:
            self._complete(event)
        return [event for _, event in done]

    def _complete(self, event: Event) -> None:
        tree, node = event.tree, event.node
        assert isinstance(tree, ScriptedTree)
        problem, path = tree.problem.text, node.lineage_path
        if event.kind == "scored":
            node.score = float("nan") if path == self.nan_at else self.script.score(problem, path)
            return
        tree.growing -= 1
        assert node.depth <= tree.max_steps
        node.cost.generated_tokens += 1
        node.text, node.finish = self.script.text(problem, path), self.script.finish(problem, path)
