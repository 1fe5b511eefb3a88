"""All open trees of an engine: which steps they have, and who still holds the KV of each.

A step is held by its owner until `prune`, and by every child that is kept; the last one to let go frees it. Steps that
were written ahead, before anybody asked for them, are the first to go when memory is short. Then the KV of steps that
stay may go for a while: of a paused tree, or of all that nothing grows from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from branchwise._C import lineage_child
from branchwise.confidence import Confidence
from branchwise.engine.kv import KvCache, KvDemand
from branchwise.engine.kv_step import shed
from branchwise.engine.policy_tree import NodeState, PolicyTree
from branchwise.engine.prefixes import Match
from branchwise.engine.rows import Growing, Opening, RowQueue
from branchwise.errors import ConfigError, OutOfMemory, StaleNodeError
from branchwise.text.steps import StepDetector
from branchwise.tree import walk
from branchwise.types import Endings, Node, Settings, StepOptions


class Forest:
    """The trees on one KV cache, and what they want of the rows."""

    def __init__(self, kv: KvCache, rows: RowQueue, detectors: Mapping[Endings, StepDetector]) -> None:
        self.kv = kv
        self.rows = rows
        self.detectors = detectors
        self.finished: list[tuple[PolicyTree, Node]] = []  # steps that the next poll reports

    def open(
        self, prompt: Sequence[int], *, lineage: int, demand: KvDemand, settings: Settings, speculates: bool
    ) -> PolicyTree:
        """Plant a tree. OutOfMemory: it could never grow."""
        root = Node(id=0, parent=None, index=0, depth=0, lineage=lineage)
        tree = PolicyTree(
            root, settings, list(prompt), self.kv.lease(demand), max_steps=demand.steps, speculates=speculates,
            width=demand.branches,
        )  # fmt: skip
        options = settings.step()
        detector = self.detectors[settings.endings]
        start = detector.start
        most = len(prompt) + settings.max_tokens
        tree.states[root] = NodeState(
            None, list(prompt), 0, root, options, detector, start, start, settings.seed, most, settings.limit
        )
        root.cost.prefill_tokens = len(prompt)
        return tree

    def plant(self, tree: PolicyTree, node: Node, prompt: Sequence[int], settings: Settings) -> Node:
        """A further prompt as the next child of a node, of which it reads nothing; settings: caps of what it bears.

        OutOfMemory: its first step alone never fits. StaleNodeError as for `expand`.
        """
        above = self._open_state(tree, node)
        self.kv.lease(KvDemand(len(prompt), 1, 1, 1, 1, None))  # whether it fits at all
        self.rows.ahead.drop_opening(above)  # what was written ahead would be its child of the same index
        self._free(tree, self.rows.ahead.take_below(above))
        index, above.asked = above.asked, above.asked + 1
        planted = Node(
            len(tree.states), node, index, 0, lineage_child(node.lineage, index), list(prompt), given=len(prompt),
            is_prompt=True, finish="stop",
        )  # fmt: skip
        planted.cost.prefill_tokens = len(prompt)
        node.children.append(planted)
        options, detector = tree.settings.step(), self.detectors[tree.settings.endings]
        tree.states[planted] = NodeState(
            None, planted.tokens, 0, planted, options, detector, detector.start, detector.start, tree.settings.seed,
            len(prompt) + settings.max_tokens, settings.limit,
        )  # fmt: skip
        return planted

    def expand(self, tree: PolicyTree, node: Node, n: int, options: StepOptions, feed: Sequence[int] = ()) -> int:
        """Queue `n` more children of a node and return the index of the first, which may have been written ahead.

        feed: the tokens of `options.feed`
        ConfigError: n < 1. OutOfMemory: never so many. StaleNodeError: its KV is gone, or it has ended.
        """
        if n < 1:
            raise ConfigError(f"expand with n={n}: expected at least 1 child")
        state = self._open_state(tree, node)
        if n > self.kv.n_blocks:
            raise OutOfMemory(
                f"{n} children take a KV block each, there are {self.kv.n_blocks}: lower n, or raise kv_memory"
            )
        self.detectors[options.endings]  # made here, so that a bad one is this caller's error and not an iteration's
        first, state.asked = state.asked, state.asked + n
        adopted = self._adopt(tree, state, options)
        if n > adopted:
            self.rows.wish(Opening(tree, state, first + adopted, n - adopted, options, asked=first, feed=feed))
        return first

    def _open_state(self, tree: PolicyTree, node: Node) -> NodeState:
        """That of a node which can have children. StaleNodeError: its KV is gone, or it has ended."""
        state = tree.states.get(node)
        if tree.closed or state is None or state.released:
            raise StaleNodeError(
                f"node {node.lineage_path} was pruned or its tree closed: it can no longer be expanded"
            )
        if node.is_final or (node.parent is not None and node.finish is None):
            raise StaleNodeError(
                f"node {node.lineage_path} has finish {node.finish!r}: only a step that stopped can be expanded"
            )
        return state

    def frees(self, tree: PolicyTree, node: Node, options: StepOptions) -> bool:
        """Whether expanding a node frees what was written ahead of it, because it is wanted in another way."""
        state = tree.states.get(node)
        child = None if state is None else self.rows.ahead.children.get(state)
        return child is not None and child.state.options != options

    def _adopt(self, tree: PolicyTree, parent: NodeState, options: StepOptions) -> int:
        """Take over the first child of a step if it was written ahead as it is wanted; returns how many were gained."""
        self.rows.ahead.drop_opening(parent)
        child = self.rows.ahead.children.get(parent)
        if child is None:
            return 0
        if child.state.options != options:
            self._free(tree, self.rows.ahead.take_below(parent))
            return 0
        self.rows.adopt(child)
        node = child.state.node
        parent.node.children.append(node)
        tree.cost.generated_tokens += len(node.tokens)
        tree.cost.speculated_tokens -= len(node.tokens)
        if node.finish is not None:
            self.finished.append((tree, node))
        return 1

    def ready(self, opening: Opening, begun: Sequence[Opening]) -> bool:
        """Whether an opening's turn has come; False while more of its prompt than is kept is fed for those that begin.

        Its tree has a place in the KV then, behind what is kept of the prompt.
        """
        tree, root = opening.tree, opening.parent.first
        settings, prefixes = tree.settings, self.kv.prefixes
        if root.handle is not None or not settings.reuse:
            return True
        prompt = tree.shared(root)
        match = prefixes.match(prompt, exact=settings.exact)
        for other in begun:
            fed = other.parent.first
            if fed.missing and other.tree.settings.reuse and (
                prefixes.shared(prompt, fed.tokens, exact=settings.exact) > match.length
            ):  # fmt: skip
                return False
        self._root(tree, root, match)
        return True

    def place(self, tree: PolicyTree, state: NodeState) -> None:
        """The prompt of a step whose KV is rebuilt gets a place in the KV, behind what is kept of it."""
        root = state.first
        if root.handle is None and tree.settings.reuse:
            self._root(tree, root, self.kv.prefixes.match(tree.shared(root), exact=tree.settings.exact))

    def _root(self, tree: PolicyTree, root: NodeState, match: Match) -> None:
        """Give a root its KV node, behind what is kept of its prompt."""
        is_first = root.most_fed == 0
        root.start_from(match, tree.lease)
        root.open(self.kv)
        if not root.missing:
            assert not isinstance(match.known, float)
            root.hidden = match.known
        if is_first:
            root.node.cost.prefill_tokens -= root.fed
            root.node.cost.cached_tokens = root.fed

    def seal(self, tree: PolicyTree, state: NodeState) -> None:
        """A step is whole; a prompt's KV is kept for others that begin alike."""
        handle = state.open(self.kv)
        self.kv.tree.seal(handle)
        if state.parent is None and tree.settings.reuse:
            self.kv.prefixes.offer(handle, state.tokens[self.kv.tree.start(handle) :], state.hidden)

    def _leave(self, tree: PolicyTree, state: NodeState) -> None:
        """Keep what a completion wrote: later prompts may go on from it."""
        settings, node = tree.settings, state.node
        wrote = node.finish is not None and not math.isnan(node.logprob)
        if settings.exact or not settings.reuse or state.handle is None or not wrote:
            return
        if state.missing:
            self.kv.tree.seal(state.handle)
        self.kv.prefixes.offer(state.handle, state.tokens[: state.fed])

    def begin_children(self, opening: Opening) -> list[Growing]:
        """The steps an opening asked for, on fresh KV blocks, that draw now; their parent must be sealed.

        Those that begin with given tokens return first, as if their KV had been dropped.
        """
        assert opening.parent.handle is not None
        handles = self.kv.tree.fork(opening.parent.handle, opening.n)
        begun = [self._begin_child(opening, opening.first + place, handle) for place, handle in enumerate(handles)]
        if not opening.feed:
            return begun
        for child in begun:
            self._give(child, opening.feed)
        return []

    def _give(self, child: Growing, feed: Sequence[int]) -> None:
        """Begin a step with given tokens; where they leave no room for a drawn one, the branch ends before them."""
        tree, state = child.tree, child.state
        node = state.node
        if state.end + len(feed) >= state.most:
            node.finish, node.cut = "length", state.limit
            self.finished.append((tree, node))
            return
        node.tokens.extend(feed)
        node.given = node.cost.prefill_tokens = len(feed)
        state.automaton = state.detector.skip(state.automaton, feed)
        self.rows.returning.append(child)

    def take_back(self, openings: Sequence[Opening]) -> None:
        """Undo `begin_children`: nothing is known of those children, and their openings come first in the queue."""
        for opening in openings:
            if opening.speculative:
                self._free(opening.tree, self.rows.ahead.take_below(opening.parent))
            else:
                self.cancel(opening.tree, opening.parent.node, opening.first, opening.n)
        self.rows.put_back([], openings)

    def _begin_child(self, opening: Opening, index: int, handle: int) -> Growing:
        tree, parent, options = opening.tree, opening.parent, opening.options
        own = options.seed is not None  # child i is drawn as a first child with seed + i
        lineage = lineage_child(parent.node.lineage, 0 if own else index)
        seed = (options.seed + index - opening.asked) % 2**64 if options.seed is not None else parent.seed
        node = Node(id=len(tree.states), parent=parent.node, index=index, depth=parent.node.depth + 1, lineage=lineage)
        if options.confidence is not None:
            before = parent.node.confidence
            same = before is not None and before.options == options.confidence
            node.confidence = Confidence(options.confidence, before if same else None)
        parent.holders += 1
        alike = options.endings == parent.options.endings
        detector = parent.detector if alike else self.detectors[options.endings]
        start = detector.next_step(parent.automaton) if alike else detector.start
        state = NodeState(
            parent, node.tokens, parent.end, node, options, detector, start, start, seed, parent.most, parent.limit,
            handle=handle, speculative=opening.speculative,
        )  # fmt: skip
        tree.states[node] = state
        child = Growing(tree, state)
        if opening.speculative:
            self.rows.ahead.children[parent] = child
        else:
            parent.node.children.append(node)
        return child

    def prune(self, tree: PolicyTree, node: Node) -> None:
        """Drop the owner's hold on a node, and what was written ahead of it. A growing step is abandoned."""
        state = tree.states.get(node)
        if state is not None and not state.released:
            self._free(tree, [state, *self.rows.ahead.take_below(state)])

    def cancel(self, tree: PolicyTree, parent: Node, first: int, n: int) -> list[Node]:
        """Take back a wish: children `first` to `first + n` of a node leave the tree with all below them.

        Returns the nodes that had begun, parents first; their KV is free.
        """
        wanted = range(first, first + n)
        state = tree.states.get(parent)
        if state is not None:
            self.rows.cancel(state, first, n)
        gone = [child for child in parent.children if child.index in wanted]
        parent.children = [child for child in parent.children if child.index not in wanted]
        for node in gone:  # grows as it is read: breadth first
            gone += node.children
            self.prune(tree, node)  # with its place in every queue
            tree.cost.generated_tokens -= len(node.tokens) - node.given
            tree.cost.cancelled_tokens += len(node.tokens)
            tree.root.cost.kv_bytes_read += node.cost.kv_bytes_read
        return gone

    def drop_ahead(self, only: PolicyTree | None = None) -> bool:
        """Free all that was written ahead, or that of one tree, and begin nothing of it; False: there was nothing."""
        ahead = self.rows.ahead
        children = [(item.tree, parent) for parent, item in ahead.children.items() if only in (None, item.tree)]
        heads = [(tree, parent) for tree, parent in children if not parent.speculative]
        found = ahead.drop_openings(only) or bool(heads)
        for tree, parent in heads:
            self._free(tree, ahead.take_below(parent))
        return found

    def pause(self, tree: PolicyTree) -> None:
        """Free the KV of a tree and let its rows wait until `resume`; what was written ahead in it is gone."""
        self.drop_ahead(tree)
        self.rows.park(tree)
        tree.paused = True
        self.shed(tree)

    def resume(self, tree: PolicyTree) -> None:
        """Let the rows of a paused tree go on; the KV that they need is rebuilt on the way."""
        tree.paused = False
        self.rows.unpark(tree)

    def shed(self, tree: PolicyTree) -> bool:
        """Free the KV of every step that no row needs now, until one does; False: there was none."""
        return shed(tree.states.values(), self.rows.wanted(tree), tree.lease)

    def close(self, tree: PolicyTree) -> None:
        """Free everything a tree holds. Closing twice is allowed."""
        if tree.closed:
            return
        for node in list(tree.states):
            self.prune(tree, node)
        if tree.settings.states:
            for node in walk(tree.root):  # those that nobody has read
                node.states = None
        tree.cost.kv_tokens = tree.lease.peak_tokens
        tree.closed = True

    def _free(self, tree: PolicyTree, states: list[NodeState]) -> None:
        self.rows.forget(states)
        for state in states:
            if state.speculative:
                tree.root.cost.kv_bytes_read += state.node.cost.kv_bytes_read
            state.released = True
            self._leave(tree, state)
            tree.let_go(state)
        nodes = {state.node for state in states}
        self.finished = [(tree, node) for tree, node in self.finished if node not in nodes]
