"""KvTree against a plain Python model under random operations, and every refusal by name."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from branchwise._C import KvTree
from branchwise.errors import OutOfMemory, StaleNodeError

BLOCK = 4


@dataclass(eq=False)
class ModelNode:
    """What a node should be: the obvious version."""

    handle: int
    parent: ModelNode | None
    length: int = 0
    sealed: bool = False
    owned: bool = True
    children: list[ModelNode] = field(default_factory=list)

    @property
    def start(self) -> int:
        return 0 if self.parent is None else self.parent.start + self.parent.length

    @property
    def n_blocks(self) -> int:
        return -(-self.length // BLOCK)


class KvTreeMachine(RuleBasedStateMachine):
    """Random trees in a pool that is often full. `check()` runs after every operation."""

    @initialize(n_blocks=st.integers(1, 24))
    def start(self, n_blocks: int) -> None:
        self.tree = KvTree(n_blocks, BLOCK)
        self.live: list[ModelNode] = []
        self.stale: list[int] = []
        self.seen: set[int] = set()

    def pick(self, data: st.DataObject, *, owned: bool = True, sealed: bool | None = None) -> ModelNode | None:
        nodes = [node for node in self.live if node.owned >= owned and sealed in (None, node.sealed)]
        return data.draw(st.sampled_from(nodes)) if nodes else None

    def add(self, handle: int, parent: ModelNode | None) -> None:
        assert handle not in self.seen, "a handle came back"
        self.seen.add(handle)
        node = ModelNode(handle, parent)
        self.live.append(node)
        if parent is not None:
            parent.children.append(node)

    @property
    def free_blocks(self) -> int:
        return self.tree.n_blocks - sum(node.n_blocks for node in self.live)

    @rule()
    def add_root(self) -> None:
        self.add(self.tree.add_root(), None)

    @rule(data=st.data(), n=st.integers(1, 4))
    def fork(self, data: st.DataObject, n: int) -> None:
        if node := self.pick(data, sealed=True):
            for handle in self.tree.fork(node.handle, n):
                self.add(handle, node)

    @rule(data=st.data(), n_tokens=st.integers(0, 3 * BLOCK))
    def append(self, data: st.DataObject, n_tokens: int) -> None:
        if not (node := self.pick(data, sealed=False)):
            return
        needed = -(-(node.length + n_tokens) // BLOCK) - node.n_blocks
        if needed > self.free_blocks:
            blocks = self.tree.blocks(node.handle)
            with pytest.raises(OutOfMemory, match="prune branches"):
                self.tree.append(node.handle, n_tokens)
            assert self.tree.blocks(node.handle) == blocks
        else:
            self.tree.append(node.handle, n_tokens)
            node.length += n_tokens

    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        if node := self.pick(data, sealed=False):
            length = data.draw(st.integers(0, node.length))
            kept = self.tree.blocks(node.handle)[: -(-length // BLOCK)]
            self.tree.truncate(node.handle, length)
            node.length = length
            assert self.tree.blocks(node.handle) == kept

    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        if node := self.pick(data, sealed=False):
            self.tree.seal(node.handle)
            node.sealed = True

    @rule(data=st.data())
    def prune(self, data: st.DataObject) -> None:
        if not (node := self.pick(data)):
            return
        self.tree.prune(node.handle)
        node.owned = False
        up: ModelNode | None = node
        while up is not None and not up.owned and not up.children:
            self.live.remove(up)
            self.stale.append(up.handle)
            if up.parent is not None:
                up.parent.children.remove(up)
            up = up.parent

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), method=st.sampled_from(["length", "blocks", "seal", "prune", "parent", "is_sealed"]))
    def use_a_stale_handle(self, data: st.DataObject, method: str) -> None:
        with pytest.raises(StaleNodeError, match="freed"):
            getattr(self.tree, method)(data.draw(st.sampled_from(self.stale)))

    @rule(data=st.data())
    def misuse(self, data: st.DataObject) -> None:
        if node := self.pick(data, sealed=True):
            for call in (self.tree.seal, lambda handle: self.tree.append(handle, 1)):
                with pytest.raises(ValueError, match="it is sealed"):
                    call(node.handle)
        if node := self.pick(data, sealed=False):
            with pytest.raises(ValueError, match="seal it first"):
                self.tree.fork(node.handle, 1)

    @invariant()
    def agrees_with_the_model(self) -> None:
        tree = self.tree
        tree.check()
        assert tree.n_nodes == len(self.live)
        assert tree.n_free_blocks == self.free_blocks
        assert tree.held_slots == (tree.n_blocks - self.free_blocks) * BLOCK
        for node in self.live:
            handle = node.handle
            assert tree.length(handle) == node.length
            assert tree.start(handle) == node.start
            assert tree.is_sealed(handle) == node.sealed
            assert tree.n_children(handle) == len(node.children)
            assert tree.parent(handle) == (node.parent.handle if node.parent else None)
        held = [block for node in self.live for block in tree.blocks(node.handle)]
        assert len(held) == len(set(held)) == tree.n_blocks - tree.n_free_blocks


TestKvTree = KvTreeMachine.TestCase
TestKvTree.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_chain_of_pruned_ancestors_is_freed_at_once():
    tree = KvTree(100, BLOCK)
    chain = [tree.add_root()]
    for _ in range(50):
        tree.append(chain[-1], 3)
        tree.seal(chain[-1])
        chain += tree.fork(chain[-1], 1)
    for node in chain[:-1]:
        tree.prune(node)
    assert (tree.n_nodes, tree.n_free_blocks) == (51, 50)
    tree.prune(chain[-1])
    assert (tree.n_nodes, tree.n_free_blocks, tree.held_slots) == (0, 100, 0)
    with pytest.raises(StaleNodeError, match="pruned and freed"):
        tree.length(chain[25])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tree, node: KvTree(0), "n_blocks is 0, expected at least 1"),
        (lambda tree, node: KvTree(-5), "n_blocks is -5"),
        (lambda tree, node: KvTree(8, 0), "block_size is 0"),
        (lambda tree, node: KvTree(2**31 - 1, 32), "slots are numbered in int32"),
        (lambda tree, node: tree.append(node, -1), "append -1 tokens, expected at least 0"),
        (lambda tree, node: tree.truncate(node, 3), "truncate to 3 tokens, expected 0 to 2"),
        (lambda tree, node: (tree.seal(node), tree.truncate(node, 0)), "it is sealed"),
        (lambda tree, node: (tree.seal(node), tree.fork(node, 0)), "fork into 0 children"),
        (lambda tree, node: (tree.seal(node), tree.fork(node, 1), tree.prune(node), tree.prune(node)), "was pruned"),
    ],
)
def test_mistakes_are_refused(call, message):
    tree = KvTree(8, BLOCK)
    node = tree.add_root()
    tree.append(node, 2)
    with pytest.raises(ValueError, match=message):
        call(tree, node)
    tree.check()


@pytest.mark.parametrize("handle", [0, -1, 2**63 - 1, 1 << 32 | 7])
def test_handles_that_were_never_issued_are_stale(handle):
    tree = KvTree(8, BLOCK)
    tree.add_root()
    with pytest.raises(StaleNodeError, match="not in this KV tree"):
        tree.seal(handle)
