"""One running search: what it asked for, what has come back, and when its strategy may decide."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Generic

from branchwise.errors import CheckpointError, ConfigError
from branchwise.search.step_engine import Callback, Progress, ProgressKind, StepEngine, TreeT
from branchwise.search.tree import number, total_cost
from branchwise.types import Expand, Expanded, Grader, Node, Problem, Result, SearchState, Strategy


@dataclass(slots=True)
class _Request:
    """An expansion in flight."""

    node: Node
    n: int
    done: list[Node] = field(default_factory=list)


class Session(Generic[TreeT]):
    """Carries one problem from `begin` to `finish`; the driver feeds it the engine's events.

    The strategy sees an expansion only when all its children are complete (scored, if it uses scores), so what it
    decides depends on no timing. Node ids mean nothing until `finish` numbers the tree breadth first.
    """

    def __init__(
        self, problem: Problem, strategy: Strategy, engine: StepEngine[TreeT], tree: TreeT, on_event: Callback | None
    ) -> None:
        self.problem = problem
        self.tree = tree
        self._strategy = strategy
        self._engine = engine
        self._on_event = on_event
        self._begun = time.perf_counter()
        self._is_open = True
        self._state = SearchState(problem, tree.root)
        self._held = {tree.root: None}  # observed nodes not yet pruned, in order of arrival
        self._expanded: set[Node] = set()
        self._next_index: dict[Node, int] = {}
        self._owner: dict[tuple[Node, int], _Request] = {}  # children in flight, by parent and child index
        self._complete: list[Expanded] = []

    @property
    def is_over(self) -> bool:
        """True when nothing is in flight and the strategy has seen everything."""
        return not self._owner and not self._complete

    def begin(self) -> None:
        """Ask for the first steps."""
        self._state = self._strategy.start(self.problem, self.tree.root)
        self._tell("started", self.tree.root)
        self._ask()

    def generated(self, node: Node) -> None:
        """Take a finished step; it is scored at once, while its siblings are still growing."""
        self._tell("generated", node)
        if self._strategy.uses_scores:
            self._engine.score(self.tree, [node])
        else:
            self._arrived(node)

    def scored(self, node: Node) -> None:
        """Take the score of a step. Raises CheckpointError for NaN, and for no score of a step that has text."""
        missing = node.score is None and bool(node.text.strip())
        if missing or (node.score is not None and math.isnan(node.score)):
            raise CheckpointError(
                f"problem {self.problem.id!r}, step {node.lineage_path}: the reward model gave the score {node.score};"
                " its checkpoint is damaged or its dtype overflows, try another dtype"
            )
        self._tell("scored", node)
        self._arrived(node)

    def advance(self) -> None:
        """Let the strategy decide on the expansions that are complete, free what it dropped, ask for what it wants."""
        if self._complete:
            results, self._complete = self._complete, []
            self._held.update((child, None) for result in results for child in result.children)
            self._strategy.observe(self._state, results)
            self._ask()

    def finish(self, grade: Grader | None) -> Result:
        """Close the tree and return the result."""
        selection = self._strategy.select(self._state)
        self.close()
        root = self.tree.root
        number(root)
        cost = total_cost(root)
        cost.seconds = time.perf_counter() - self._begun
        chosen, gold = selection.chosen, self.problem.answer
        answer = chosen.answer if chosen else None
        result = Result(
            problem=self.problem,
            answer=answer,
            text=chosen.text if chosen else "",
            score=chosen.score if chosen else None,
            scores=chosen.scores if chosen else [],
            votes=selection.votes,
            candidates=selection.candidates,
            cost=cost,
            tree=root,
            strategy=self._strategy.name,
            why=selection.why,
            correct=grade(answer, gold) if grade is not None and gold is not None else None,
        )
        self._tell("finished", root, result)
        return result

    def close(self) -> None:
        """Free everything in the engine; again, it does nothing."""
        if self._is_open:
            self._is_open = False
            self._engine.close(self.tree)

    def _arrived(self, node: Node) -> None:
        assert node.parent is not None
        request = self._owner.pop((node.parent, node.index))
        request.done.append(node)
        if len(request.done) == request.n:
            self._complete.append(Expanded(request.node, sorted(request.done, key=lambda child: child.index)))

    def _ask(self) -> None:
        wishes = self._strategy.propose(self._state)
        asked = len(self._owner) + sum(wish.n for wish in wishes)
        if asked > self._strategy.n or any(wish.n < 1 for wish in wishes):
            raise ConfigError(
                f"strategy {self._strategy.name!r} wants {asked} steps at once, by {[wish.n for wish in wishes]}:"
                f" its budget is n={self._strategy.n}, and every expansion needs at least 1"
            )
        self._free(wishes)
        for wish in wishes:
            self._expand(wish)

    def _expand(self, wish: Expand) -> None:
        request, begin = _Request(wish.node, wish.n), self._next_index.get(wish.node, 0)
        self._next_index[wish.node] = begin + wish.n
        self._owner.update({(wish.node, index): request for index in range(begin, begin + wish.n)})
        self._expanded.add(wish.node)
        self._engine.expand(self.tree, wish.node, wish.n)

    def _free(self, wishes: list[Expand]) -> None:
        """Prune nodes that are neither live nor expanded now; those never expanded and unfinished were discarded."""
        needed = self._state.live | {wish.node for wish in wishes} | {parent for parent, _ in self._owner}
        finished = set(self._state.finished)
        for node in [node for node in self._held if node not in needed]:
            del self._held[node]
            self._engine.prune(self.tree, node)
            if node not in self._expanded and node not in finished:
                node.pruned = True
                self._tell("pruned", node)

    def _tell(self, kind: ProgressKind, node: Node, result: Result | None = None) -> None:
        if self._on_event is not None:
            self._on_event(Progress(kind, self.problem, node, result))
