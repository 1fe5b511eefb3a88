"""Scores steps on the PRM's own KV tree: every step costs its own tokens once, whatever came before it.

Branches that say the same are one path of that tree: a step that a sibling has written already costs nothing, and its
score is the very same number, so that ties between equal branches are ties on every device. So it is with steps that
other trees have left in the cache of prefixes. The KV of what is scored may be dropped while scores and tokens are
kept; it is fed again, step by step, when a step below it comes.

A step may be written otherwise where it is read than for the steps below it, and be read more than once. Its KV node
holds one of these texts after another; what two of them begin with alike is fed once.
"""

from __future__ import annotations

import reprlib
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Any

from branchwise.engine.kv import KvCache, KvDemand, Lease
from branchwise.engine.kv_step import KvStep, next_to_feed, shed
from branchwise.engine.memory import LOWER
from branchwise.engine.prefixes import Match
from branchwise.engine.runner import Feed, Runner
from branchwise.errors import InputError, StaleNodeError
from branchwise.scoring.prm import Prm
from branchwise.text.length import check_length
from branchwise.types import Node

PASSED = 0.5  # in a check: the good word is the likelier one, or as likely


@dataclass(slots=True, eq=False)
class Twin(KvStep):
    """The PRM's record of the policy nodes that say the same: the prompt for a root, one step for any other."""

    tree: PrmTree
    nodes: list[Node]  # that hold it
    payer: Node  # the first of them
    text: str = ""  # what the children of its parent are told apart by
    ids: list[int] = field(default_factory=list)  # its tokens once it is scored: what those below it read
    further: list[list[int]] = field(default_factory=list)  # what is read in their place before it is scored
    shared: int = 0  # first tokens that all these have in common: others are fed for the score alone, and taken back
    rest: int = 0  # tokens that then take their place, for those below; the first of them pays
    score: float | None = None
    memo: Any = None  # what a scorer of another kind keeps of it
    children: dict[str, Twin] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class PrmTree:
    """One problem as the PRM sees it."""

    root: Node
    prompt_tokens: int
    lease: Lease
    reuse: bool
    cached_tokens: int = 0  # of the prompt, that were not fed
    rebuilt_tokens: int = 0
    twins: dict[Node, Twin] = field(default_factory=dict)
    closed: bool = False

    @property
    def leases(self) -> list[Lease]:
        return [self.lease]


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
        self._queue: deque[Twin] = deque()  # whose score, or of a root whose KV, is wanted
        self._known: list[Node] = []  # submitted when their score was known already: reported by the next poll
        # Markers and turns that a step costs beside its text.
        longest = max(map(len, (prm.format.step(1, "x"), *prm.format.readings(1, "x"))))
        self._step_overhead = longest - len(prm.tokenizer.encode("x", after="\n"))

    def flops(self, tree: PrmTree) -> float:
        """What a tree cost beside its steps: the question, and what was fed once more."""
        return (tree.prompt_tokens + tree.rebuilt_tokens) * self.flops_per_token

    def room(self, question: str) -> int:
        """PRM tokens of text that a solution of one step may have in this PRM's context; each further one costs more.

        A solution whose steps do not fit, for all that, ends where they do not: see `submit`.
        """
        return max(2, self.context - len(self._prompt(question)) - self._step_overhead)

    def open(
        self, root: Node, question: str, *, branches: int, paths: int, steps: int | None, tokens: int, step_tokens: int,
        reuse: bool = True,
    ) -> PrmTree:  # fmt: skip
        """Start a tree for a question; its prompt is fed with the next pass.

        branches: alive at most    paths: that go on when a level is over    steps: of a path (see `KvDemand`)
        tokens: PRM tokens of one solution's text    step_tokens: of a step's    reuse: see `Settings`
        InputError: the question leaves no room in the context. OutOfMemory: its first steps alone never fit.
        """
        prompt = self._prompt(question)
        if len(prompt) + self._step_overhead + 1 > self.context:
            raise InputError(
                f"the problem has {len(prompt)} tokens for the PRM {self.prm.source}, whose context of "
                f"{self.context} holds no step beside them: shorten the problem"
            )
        tokens = min(tokens, self.context - len(prompt))
        demand = KvDemand(len(prompt), branches, paths, tokens, step_tokens + self._step_overhead, steps)
        tree = PrmTree(root, len(prompt), self.kv.lease(demand), reuse)
        tree.twins[root] = Twin(None, prompt, 0, tree, [root], root, ids=prompt)
        self._queue.append(tree.twins[root])
        self._take_kept(tree.twins[root])
        return tree

    def check_text(self, index: int, text: str) -> None:
        """InputError: a token of step `index` (from 0) would begin before it, were all one text."""
        if not self.prm.format.is_apart(index, text):
            raise InputError(
                f"step {index + 1}, {reprlib.repr(text)}, cannot be kept apart: the tokenizer of the PRM "
                f"{self.prm.source} joins its beginning with what stands before it; begin it with another character"
            )

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
            if node not in self._known:
                self._known.append(node)
        elif twin not in self._queue:  # it was given up
            self._queue.append(twin)
        return True

    def release(self, tree: PrmTree, node: Node) -> None:
        """Drop a node's hold on its PRM twin; the KV goes when no other node and no child needs it."""
        twin = tree.twins.pop(node, None)
        if twin is None:
            return
        twin.nodes.remove(node)
        self._known = [each for each in self._known if each is not node]
        if not twin.nodes:
            if twin.parent is not None:
                del twin.parent.children[twin.text]
            if twin in self._queue:
                self._queue.remove(twin)
        twin.let_go(tree.lease)

    def close(self, tree: PrmTree) -> None:
        """Free everything a tree holds. Closing twice is allowed."""
        if tree.closed:
            return
        for node in list(tree.twins):
            self.release(tree, node)
        tree.closed = True

    def shed(self, tree: PrmTree, *, hard: bool = False) -> bool:
        """Free the KV of a tree's steps that nothing in the queue comes below; False: there was none.

        hard: of all but the path of the step that has waited longest
        """
        queued = islice(self._queue, 1) if hard else self._queue
        return shed(tree.twins.values(), [twin for twin in queued if twin.tree is tree], tree.lease)

    @property
    def first(self) -> Node:
        """The root of the tree that has waited longest."""
        return self._queue[0].tree.root

    def give_up(self, tree: PrmTree) -> None:
        """Score nothing that is queued of a tree, unless it is submitted again."""
        self._queue = deque(twin for twin in self._queue if twin.tree is not tree)

    @property
    def idle(self) -> bool:
        """True when nothing waits for a score."""
        return not (self._queue or self._known)

    @property
    def pending(self) -> int:
        """Tokens that have not been fed."""
        return sum(twin.missing for twin in self._queue)

    def poll(self, *, least: int = 1, alone: bool = False) -> list[Node]:
        """Feed one batch of new tokens, if at least so many wait; returns the steps whose scores became known.

        alone: no other than the one that has waited longest
        OutOfMemory: nothing was fed.
        """
        batch = self._next_batch(1 if alone else len(self._queue)) if self.pending >= least else {}
        scores = self._forward(batch) if batch else []
        for (twin, count), score in zip(batch.items(), scores, strict=True):
            twin.tree.rebuilt_tokens += twin.feed(count, twin.tree.lease)
            if twin.missing:
                continue
            if twin.parent is not None and twin.score is None:
                if twin.further and score >= PASSED:
                    self._read_on(twin)
                    continue
                score = 0.0 if twin.further and score < PASSED else score
                self._turn_to(twin, twin.ids, twin.shared)
            self._settle(twin, score)
            if not twin.missing:
                self._seal(twin, score)
        done, self._known = self._known, []
        return done

    def _read_on(self, twin: Twin) -> None:
        """A check is passed: the next one, or the score, is read at other tokens, of which one at least is fed."""
        ids = twin.further.pop(0)
        kept = min(_alike(twin.tokens, ids), len(ids) - 1)
        self._turn_to(twin, ids, kept)
        twin.payer.cost.prm_tokens += len(ids) - kept

    def _turn_to(self, twin: Twin, ids: list[int], kept: int) -> None:
        """Have other tokens behind the first ones. They are fed when they are wanted."""
        tail = twin.fed - kept
        self.kv.take_back([twin.open(self.kv)], [tail])
        twin.feed(-tail, twin.tree.lease)
        twin.tokens = ids

    def _settle(self, twin: Twin, score: float) -> None:
        """What was wanted of a step is in the KV, and its score known."""
        if twin in self._queue:
            self._queue.remove(twin)
        if twin.parent is not None and twin.score is None:
            twin.score, twin.further = score, []
            for node in twin.nodes:
                node.score = score
            self._known += twin.nodes

    def _seal(self, twin: Twin, score: float) -> None:
        """A step is whole: it is kept with its score for those that say the same; a prompt has none that matters."""
        handle = twin.open(self.kv)
        self.kv.tree.seal(handle)
        if twin.tree.reuse:
            known = score if twin.score is None else twin.score
            self.kv.prefixes.offer(handle, twin.tokens[self.kv.tree.start(handle) - twin.start :], known)

    def _forward(self, batch: dict[Twin, int]) -> list[float]:
        backend = self.prm.model.backend
        feeds = [Feed(twin.open(self.kv), twin.upcoming(count)) for twin, count in batch.items()]
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
            twin.holders += 1
        else:
            written, index = self.prm.format, node.depth - 1
            ids, readings = written.step(index, node.text), written.readings(index, node.text)
            start = parent.start + len(parent.ids)
            if start + max(map(len, (ids, *readings))) > self.context:
                return None
            shared = min(_alike(ids, each) for each in readings)
            first, *further = readings
            twin = parent.children[node.text] = Twin(
                parent, first, start, tree, [node], node, node.text, ids, further, shared, len(ids) - shared
            )
            node.cost.prm_tokens = len(first) + parent.rest
            parent.rest = 0
            parent.holders += 1
            self._queue.append(twin)
            self._take_kept(twin)
        tree.twins[node] = twin
        return twin

    def _take_kept(self, twin: Twin, *, feeding: Collection[Twin] | None = None) -> Twin | None:
        """Take steps on the path to this one from the cache of prefixes, as long as they are there whole.

        feeding: what is going to be fed; then a prompt may also be taken in part
        Returns the first step that has to be fed, or this one; None: it has to wait for what is fed already.
        """
        prefixes = self.kv.prefixes
        while True:
            step = next_to_feed(twin)
            if step.handle is not None or not step.tree.reuse:
                return step
            above = None if step.parent is None else step.parent.handle
            match = prefixes.match(step.ids, exact=True) if above is None else prefixes.follow(above, step.ids)
            if any(self._gives_more(other, step, match.length) for other in feeding or ()):
                return None
            whole = match.length == len(step.ids)
            if whole or feeding is not None:
                self._start_from(step, match)
            if not whole:
                return step

    def _gives_more(self, other: Twin, step: Twin, length: int) -> bool:
        """Whether a step that is being fed saves feeding more of `step` than `length` tokens, which are kept."""
        if other is step or not other.tree.reuse:
            return False
        if step.parent is None:
            return other.parent is None and self.kv.prefixes.shared(step.tokens, other.tokens, exact=True) > length
        return other.parent is not None and other.parent.handle == step.parent.handle and other.tokens == step.ids

    def _start_from(self, step: Twin, match: Match) -> None:
        first_time, wanted, tree = step.most_fed == 0 and step.score is None, len(step.tokens), step.tree
        if match.length == len(step.ids):
            step.tokens, step.rest = step.ids, 0
        step.start_from(match, tree.lease)
        if first_time and step.parent is None:
            tree.prompt_tokens, tree.cached_tokens = tree.prompt_tokens - step.fed, step.fed
        elif first_time and step.fed:
            step.payer.cost.prm_tokens -= wanted
            step.payer.cost.cached_tokens = step.fed
        if not step.missing:
            assert isinstance(match.known, float)
            self._settle(step, match.known)

    def _next_batch(self, most: int) -> dict[Twin, int]:
        """Twins to feed for `most` in the queue, and how many tokens of each: parents first, `batch_rows` in all."""
        batch: dict[Twin, int] = {}
        room = self.batch_rows
        for wanted in list(islice(self._queue, most)):
            if room <= 0:
                break
            twin = self._take_kept(wanted, feeding=batch)
            if twin is not None and twin.missing and twin not in batch:
                batch[twin] = min(room, twin.missing)
                room -= batch[twin]
        return batch


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
