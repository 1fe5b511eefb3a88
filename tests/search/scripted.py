"""A pair without models: texts, ends and scores are hashes of problem and path; steps finish in random order."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from branchwise.confidence import Confidence
from branchwise.errors import OutOfMemory, StaleNodeError
from branchwise.pair.protocol import Event
from branchwise.search import driver
from branchwise.search.protocol import Callback
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions
from branchwise.strategies import (
    DVTS,
    ETS,
    MCTS,
    AbMcts,
    AdaptiveConsistency,
    Auto,
    BeamSearch,
    BestOfN,
    ConfidenceVote,
    DeepConf,
    Demand,
    EarlyStopping,
    Greedy,
    Majority,
    ParticleFilter,
    ParticleGibbs,
    Rebase,
    Strategy,
    WeightedBestOfN,
)
from branchwise.tree import walk
from branchwise.types import FinishReason, Grader, Node, Problem, Result, Settings, StepOptions

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
MORE_STRATEGIES: list[Strategy] = [
    Rebase(n=8, max_steps=MAX_STEPS),
    Rebase(n=5, balance=1.0, aggregate="min", max_steps=MAX_STEPS),
    ETS(n=8, max_steps=MAX_STEPS),
    ETS(n=6, diversity=0.0, kv_cost=4.0, max_steps=MAX_STEPS),
    BeamSearch(n=8, expand=2, every=2, max_steps=MAX_STEPS),
    BeamSearch(n=6, expand=3, lookahead=2, max_steps=MAX_STEPS),
    DVTS(n=8, expand=4, lookahead=1, aggregate="mean", max_steps=MAX_STEPS),
    DVTS(n=8, expand=2, duplicates="drop", max_steps=MAX_STEPS),
    Rebase(n=6, duplicates="last", lookahead=1, every=2, max_steps=MAX_STEPS),
    ParticleFilter(n=6, max_steps=MAX_STEPS),
    ParticleFilter(n=7, resample="multinomial", ess=0.5, vote="majority", max_steps=MAX_STEPS),
    ParticleGibbs(n=12, iterations=3, references=2, max_steps=MAX_STEPS),
    MCTS(n=6, expand=3, max_steps=MAX_STEPS),
    MCTS(n=9, expand=2, rule="uct", parallel=1, max_steps=MAX_STEPS),
    AbMcts(n=8, max_steps=MAX_STEPS),
    AbMcts(n=7, parallel=2, posterior="gaussian", max_steps=MAX_STEPS),
    AdaptiveConsistency(n=12, max_steps=MAX_STEPS),
    EarlyStopping(n=11, wave=3, max_steps=MAX_STEPS),
    ConfidenceVote(n=6, window=3, max_steps=MAX_STEPS),
    ConfidenceVote(n=9, measure="certainty", vote="borda", keep_percent=60, max_steps=MAX_STEPS),
    DeepConf(n=12, warmup=4, wave=3, window=2, max_steps=MAX_STEPS),
    DeepConf(n=9, warmup=5, keep_percent=90, window=4, consensus=1.0, max_steps=MAX_STEPS),
    Auto(n=10, floor=0.0, max_steps=MAX_STEPS),
    Auto(n=10, wave=3, controller="paper", max_steps=MAX_STEPS),
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

    def finish(self, problem: str, path: Path) -> FinishReason:
        chance = self.draw(problem, path, "finish", 100)
        return "eos" if chance < self.eos else "length" if chance < self.eos + self.length else "stop"

    def text(self, problem: str, path: Path) -> str:
        finish = self.finish(problem, path)
        if finish == "eos":
            return f"\\boxed{{{self.draw(problem, path, 'answer', self.answers)}}}"
        return f"step {path}" + ("\n\n" if finish == "stop" else "")

    def sure(self, problem: str, path: Path) -> list[float]:
        """The confidence of every token of a step."""
        tokens = 1 + self.draw(problem, path, "tokens", 3)
        return [float(self.draw(problem, path, f"sure {token}", 10)) for token in range(tokens)]

    def score(self, problem: str, path: Path) -> float:
        return (1 + self.draw(problem, path, "score", self.scores)) / (1 + self.scores)


@dataclass(eq=False)
class ScriptedTree:
    problem: Problem
    root: Node
    demand: Demand
    settings: Settings
    held: set[Node] = field(default_factory=set)
    pruned: set[Node] = field(default_factory=set)
    asked: dict[Node, int] = field(default_factory=dict)
    options: list[StepOptions] = field(default_factory=list)
    feeds: dict[Node, str] = field(default_factory=dict)  # of steps that grow
    caps: dict[Node, int] = field(default_factory=dict)
    most_leaves: int = 0
    growing: int = 0
    closed: bool = False


class ScriptedPair:
    """A `Pair` that also checks how it is used. `room` counts the branches that fit in all trees that run."""

    scores = True

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

    @property
    def idle(self) -> bool:
        return not self._queue

    def open(self, problem: Problem, demand: Demand, settings: Settings) -> ScriptedTree | None:
        if demand.branches > self.room:
            raise OutOfMemory(f"{demand.branches} branches never fit")
        running = {event.tree for _, event in self._queue}
        taken = sum(tree.demand.branches for tree in self.open_trees if tree in running)
        if taken and taken + demand.branches > self.room:
            self.refusals += 1
            return None
        tree = ScriptedTree(problem, Node(0, None, 0, 0, lineage_of(())), demand, settings)
        tree.held.add(tree.root)
        self.trees.append(tree)
        self.most_open = max(self.most_open, len(self.open_trees))
        return tree

    def expand(self, tree: ScriptedTree, node: Node, n: int, options: StepOptions) -> int:
        if tree.closed or node not in tree.held:
            raise StaleNodeError(f"node {node.lineage_path} is gone")
        assert node is tree.root or node.finish == "stop"
        tree.growing += n
        tree.options.append(options)
        assert tree.growing <= tree.demand.branches
        first = tree.asked.get(node, 0)
        tree.asked[node] = first + n
        for index in range(first, first + n):
            lineage = lineage_of((*node.lineage_path, index))
            child = Node(self.order.randrange(10**9), node, index, node.depth + 1, lineage)
            if options.confidence is not None:
                child.confidence = Confidence(options.confidence, node.confidence)
            node.children.append(child)
            tree.held.add(child)
            tree.feeds[child], tree.caps[child] = options.feed, options.max_tokens
            self._queue.append((self.polls + self.slow(child), Event("generated", tree, child)))
        leaves = tree.held - {each.parent for each in tree.held}
        tree.most_leaves = max(tree.most_leaves, len(leaves))
        return first

    def plant(self, tree: ScriptedTree, node: Node, problem: Problem, settings: Settings, *, scores: bool) -> Node:
        if tree.closed or node not in tree.held:
            raise StaleNodeError(f"node {node.lineage_path} is gone")
        index = tree.asked.get(node, 0)
        tree.asked[node] = index + 1
        planted = Node(
            self.order.randrange(10**9), node, index, 0, lineage_of((*node.lineage_path, index)), [1, 2], problem.text,
            2, is_prompt=True, finish="stop",
        )  # fmt: skip
        planted.cost.prefill_tokens = 2
        node.children.append(planted)
        tree.held.add(planted)
        return planted

    def score(self, tree: ScriptedTree, nodes: Sequence[Node]) -> None:
        assert not tree.closed
        assert tree.demand.scores
        assert tree.held.issuperset(nodes)
        self._queue += [(self.polls, Event("scored", tree, node)) for node in nodes]

    def prune(self, tree: ScriptedTree, node: Node) -> None:
        assert not tree.closed
        assert node in tree.held
        assert node not in tree.pruned
        assert all(child.finish is not None for child in node.children)  # no step still grows from it
        tree.held.remove(node)
        tree.pruned.add(node)

    def cancel(self, tree: ScriptedTree, parent: Node, first: int, n: int) -> None:
        assert not tree.closed
        gone = [child for child in parent.children if child.index in range(first, first + n)]
        parent.children = [child for child in parent.children if child not in gone]
        for node in gone:  # grows as it is read
            gone += node.children
            tree.held.discard(node)
            tree.growing -= node.finish is None
        self._queue = [item for item in self._queue if item[1].node not in gone]

    def free(self) -> None:
        self._queue.clear()

    def close(self, tree: ScriptedTree) -> None:
        assert not tree.closed
        tree.closed = True
        tree.root.cost.prefill_tokens = 7
        tree.held.clear()
        self._queue = [item for item in self._queue if item[1].tree is not tree]

    def poll(self) -> list[Event]:
        self.polls += 1
        assert self._queue, "the service waits for a pair that has nothing to do"
        ready = [item for item in self._queue if item[0] < self.polls]
        done = self.order.sample(ready, self.order.randint(min(1, len(ready)), len(ready)))
        self._queue = [item for item in self._queue if item not in done]
        for _, event in done:
            self._complete(event)
        return [event for _, event in done]

    def _complete(self, event: Event) -> None:
        tree, node = event.tree, event.node
        assert isinstance(tree, ScriptedTree)
        first, path = node.prompt, node.lineage_path
        problem = first.text if first.is_prompt else tree.problem.text
        if event.kind == "scored":
            node.score = float("nan") if path == self.nan_at else self.script.score(problem, path)
            return
        tree.growing -= 1
        assert tree.demand.steps is None or node.depth <= tree.demand.steps
        node.cost.generated_tokens += 1
        feed = tree.feeds.pop(node, "")
        node.given = len(feed)
        node.text, node.finish = feed + self.script.text(problem, path), self.script.finish(problem, path)
        if node.confidence is not None:
            for value in self.script.sure(problem, path):
                node.confidence.add(value, value / 2)


def lineage_of(path: Path) -> int:
    return int.from_bytes(hashlib.blake2b(repr(path).encode(), digest_size=8).digest(), "big")


def run(
    problems: Iterable[Problem], strategy: Strategy, pair: ScriptedPair, *, max_in_flight: int = 1,
    settings: Settings | None = None, on_event: Callback | None = None, grade: Grader | None = None,
) -> Iterator[Result]:  # fmt: skip
    """The driver on a service of its own."""
    options = SearchOptions(strategy, settings or Settings(), on_event, grade)
    return driver.run(problems, Service(pair), options, max_in_flight=max_in_flight)
