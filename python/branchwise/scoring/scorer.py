"""Scores steps on the PRM's own KV tree: every step costs its own tokens once, whatever came before it.

Branches that say the same are one path of that tree: a step that a sibling has written already costs nothing, and its
score is the very same number, so that ties between equal branches are ties on every device.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import takewhile

from branchwise.engine.kv import KvCache, KvDemand
from branchwise.engine.memory import LOWER
from branchwise.engine.runner import Feed, Runner
from branchwise.errors import InputError, StaleNodeError
from branchwise.scoring.prm import Prm
from branchwise.text.length import check_length
from branchwise.types import Node


@dataclass(slots=True, eq=False)
class Twin:
    """The PRM's record of the policy nodes that say the same: the prompt for a root, one step for any other."""

    nodes: list[Node]  # that hold it; the first one pays
    parent: Twin | None
    text: str  # what the children of `parent` are told apart by
    end: int  # tokens on the path
    pending: list[int]  # not in the KV yet
    tail: int = 0  # of those, how many at the end are fed for the score alone, and then taken back
    rest: list[int] = field(default_factory=list)  # of the step, pending when it is scored
    handle: int | None = None  # KV node, once work on it has started
    sealed: bool = False
    score: float | None = None
    children: dict[str, Twin] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class PrmTree:
    """One problem as the PRM sees it."""

    root: Node
    prompt_tokens: int
    reserved_blocks: int
    twins: dict[Node, Twin] = field(default_factory=dict)
    closed: bool = False


class Scorer:
    """Batched incremental scoring of one PRM on one KV cache."""

    def __init__(self, prm: Prm, kv: KvCache, *, batch_rows: int = 512) -> None:
        self.prm = prm
        self.kv = kv
        self.runner = Runner(prm.model, kv)
        self.batch_rows = batch_rows
        self.context = prm.model.config.max_positions
        self.flops_per_token = 2.0 * prm.model.config.matmul_parameters
        self.tokenizer = prm.tokenizer
        self._queue: deque[Twin] = deque()
        self._known: list[Node] = []  # submitted when their score was known already: reported by the next poll
        # Markers and turns that a step costs beside its text.
        step = max(prm.format.step(1, "x"), prm.format.scored(1, "x"), key=len)
        self._step_overhead = len(step) - len(prm.tokenizer.encode("x", after="\n"))

    def room(self, question: str) -> int:
        """PRM tokens of text that a solution of one step may have in this PRM's context; each further one costs more.

        A solution whose steps do not fit, for all that, ends where they do not: see `submit`.
        """
        return max(2, self.context - len(self._prompt(question)) - self._step_overhead)

    def open(
        self, root: Node, question: str, *, branches: int, paths: int, steps: int, tokens: int, step_tokens: int
    ) -> PrmTree | None:
        """Start a tree for a question, or return `None` while its worst case does not fit.

        branches: alive at most    paths: that go on when a level is over (see `KvDemand`)    steps: of a path
        tokens: PRM tokens of one solution's text    step_tokens: of a step's
        InputError: the question leaves no room in the context.
        """
        prompt = self._prompt(question)
        if len(prompt) + self._step_overhead + 1 > self.context:
            raise InputError(
                f"the problem has {len(prompt)} tokens for the PRM {self.prm.source}, whose context of "
                f"{self.context} holds no step beside them: shorten the problem"
            )
        room = self.context - len(prompt)
        steps = min(steps, tokens, max(1, room // (1 + self._step_overhead)))  # a step has a token at least
        tokens = min(tokens + steps * self._step_overhead, room)
        demand = KvDemand(len(prompt), branches, paths, tokens, step_tokens + self._step_overhead, steps)
        blocks = self.kv.reserve(demand)
        if blocks is None:
            return None
        tree = PrmTree(root, len(prompt), blocks)
        tree.twins[root] = Twin([root], None, "", len(prompt), prompt)
        self._queue.append(tree.twins[root])
        return tree

    def _prompt(self, question: str) -> list[int]:
        check_length(self.tokenizer, question, self.context)
        return self.prm.format.prompt(question)

    def submit(self, tree: PrmTree, node: Node) -> bool:
        """Queue a finished step, and any step before it that has no score yet; False when it will have none.

        That is so for a step without text, and for one that goes beyond the context: there its branch ends.
        """
        if not node.text.strip():
            return False
        twin = self._twin(tree, node)
        if twin is None:
            node.finish, node.cut = "length", "prm_context"
            return False
        if twin.score is not None:
            node.score = twin.score
            self._known.append(node)
        return True

    def release(self, tree: PrmTree, node: Node) -> None:
        """Drop a node's hold on its PRM twin; the KV goes when no other node and no child needs it."""
        twin = tree.twins.pop(node, None)
        if twin is None:
            return
        twin.nodes.remove(node)
        self._known = [each for each in self._known if each is not node]
        if twin.nodes:
            return
        if twin.parent is not None:
            del twin.parent.children[twin.text]
        if twin.handle is not None:
            self.kv.tree.prune(twin.handle)
        if twin in self._queue:
            self._queue.remove(twin)

    def close(self, tree: PrmTree) -> None:
        """Free everything a tree holds. Closing twice is allowed."""
        if tree.closed:
            return
        for node in list(tree.twins):
            self.release(tree, node)
        self.kv.release(tree.reserved_blocks)
        tree.closed = True

    def over(self, tree: PrmTree) -> int:
        """Blocks that a tree holds beyond what it was promised."""
        twins = dict.fromkeys(tree.twins.values())
        fed = [twin.end - (twin.parent.end if twin.parent else 0) - len(twin.pending) for twin in twins]
        return sum(-(-tokens // self.kv.block_slots) for tokens in fed) - tree.reserved_blocks

    @property
    def idle(self) -> bool:
        """True when nothing waits for a score."""
        return not (self._queue or self._known)

    @property
    def pending(self) -> int:
        """Tokens that have not been fed."""
        return sum(len(twin.pending) for twin in self._queue)

    def poll(self, *, least: int = 1) -> list[Node]:
        """Feed one batch of new tokens, if at least so many wait; returns the steps whose scores became known."""
        batch = self._next_batch() if self.pending >= least else []
        scores = self._forward(batch) if batch else []
        done, self._known = self._known, []
        for (twin, rows), score in zip(batch, scores, strict=True):
            twin.pending = twin.pending[rows:]
            if twin.pending:
                continue
            assert twin.handle is not None
            if twin.parent is not None and twin.score is None:
                self.kv.take_back([twin.handle], [twin.tail])
                twin.pending, twin.rest, twin.tail = twin.rest, [], 0
                twin.score = score
                for node in twin.nodes:
                    node.score = score
                done += twin.nodes
            if not twin.pending:
                self.kv.tree.seal(twin.handle)
                twin.sealed = True
            if not (twin.pending and twin.children):  # what is pending is for those below alone
                self._queue.remove(twin)
        return done

    def _forward(self, batch: list[tuple[Twin, int]]) -> list[float]:
        backend, feeds = self.prm.model.backend, [self._feed(twin, rows) for twin, rows in batch]
        with backend.stream("prm"):
            hidden = self.runner.forward(feeds)
            with self.runner.or_take_back(feeds):
                return backend.with_memory(lambda: self.prm.scores(hidden), LOWER)

    def _twin(self, tree: PrmTree, node: Node) -> Twin | None:
        """The record of a node, made and queued where there is none; None where it goes beyond the context."""
        missing: list[Node] = []
        while node not in tree.twins:
            if tree.closed:
                raise StaleNodeError("this tree has been closed: its steps can no longer be scored")
            if node.score is not None:
                raise StaleNodeError(f"node {node.id} was scored and its PRM KV freed: score children before pruning")
            missing.append(node)
            assert node.parent is not None  # the root has a twin while the tree is open
            node = node.parent
        twin: Twin | None = tree.twins[node]
        while missing and twin is not None:
            twin = self._child(tree, twin, missing.pop())
        return twin

    def _child(self, tree: PrmTree, parent: Twin, node: Node) -> Twin | None:
        """The record of a node below `parent`; None where it goes beyond the context."""
        twin = parent.children.get(node.text)
        if twin is not None:
            twin.nodes.append(node)
        else:
            ids, scored = (write(node.depth - 1, node.text) for write in (self.prm.format.step, self.prm.format.scored))
            if parent.end + max(len(ids), len(scored)) > self.context:
                return None
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, scored, strict=False)))
            twin = Twin([node], parent, node.text, parent.end + len(ids), scored, len(scored) - shared, ids[shared:])
            unpaid = 0 if parent.children else len(parent.rest if parent.score is None else parent.pending)
            node.cost.prm_tokens = len(scored) + unpaid
            parent.children[node.text] = twin
            if parent.score is not None and parent.pending and parent not in self._queue:
                self._queue.append(parent)
            self._queue.append(twin)
        tree.twins[node] = twin
        return twin

    def _next_batch(self) -> list[tuple[Twin, int]]:
        """Twins to feed and how many tokens of each: parents before children, up to `batch_rows` tokens."""
        batch: list[tuple[Twin, int]] = []
        room = self.batch_rows
        for twin in self._queue:
            if room <= 0:
                break
            if twin.parent is not None and not twin.parent.sealed:
                continue
            rows = min(room, len(twin.pending))
            batch.append((twin, rows))
            room -= rows
        return batch

    def _feed(self, twin: Twin, rows: int) -> Feed:
        if twin.handle is None:
            tree = self.kv.tree
            if twin.parent is None:
                twin.handle = tree.add_root()
            else:
                assert twin.parent.handle is not None
                twin.handle = tree.fork(twin.parent.handle, 1)[0]
        return Feed(twin.handle, twin.pending[:rows])
