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
    sealed: bool = False
    holds: int = 1
    tokens: list[int] = field(default_factory=list)  # a number for each, never used twice
    children: list[ModelNode] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def start(self) -> int:
        return 0 if self.parent is None else self.parent.start + self.parent.length

    @property
    def n_blocks(self) -> int:
        return -(-self.length // BLOCK)

    @property
    def path_tokens(self) -> list[int]:
        """What is read from the root on."""
        return ([] if self.parent is None else self.parent.path_tokens) + self.tokens


class KvTreeMachine(RuleBasedStateMachine):
    """Random trees in a pool that is often full. `check()` runs after every operation."""

    @initialize(n_blocks=st.integers(1, 24))
    def start(self, n_blocks: int) -> None:
        self.tree = KvTree(n_blocks, BLOCK)
        self.live: list[ModelNode] = []
        self.stale: list[int] = []
        self.seen: set[int] = set()
        self.memory: dict[int, int] = {}  # slot -> token, as a pass over a model writes it
        self.written = 0

    def pick(self, data: st.DataObject, *, held: bool = True, sealed: bool | None = None) -> ModelNode | None:
        nodes = [node for node in self.live if (node.holds > 0 or not held) and sealed in (None, node.sealed)]
        return data.draw(st.sampled_from(nodes)) if nodes else None

    def add(self, handle: int, parent: ModelNode | None) -> None:
        assert handle not in self.seen, "a handle came back"
        self.seen.add(handle)
        node = ModelNode(handle, parent)
        self.live.append(node)
        if parent is not None:
            parent.children.append(node)

    def slots(self, handle: int) -> list[int]:
        blocks = self.tree.blocks(handle)
        return [blocks[at // BLOCK] * BLOCK + at % BLOCK for at in range(self.tree.length(handle))]

    def read(self, handle: int | None) -> list[int]:
        """What a path holds, by the tree's own word on parents and blocks."""
        if handle is None:
            return []
        return self.read(self.tree.parent(handle)) + [self.memory[slot] for slot in self.slots(handle)]

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
            new = range(self.written, self.written + n_tokens)
            self.written += n_tokens
            node.tokens += new
            self.memory.update(zip(self.slots(node.handle)[-n_tokens:] if n_tokens else [], new, strict=True))

    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        if node := self.pick(data, sealed=False):
            length = data.draw(st.integers(0, node.length))
            kept = self.tree.blocks(node.handle)[: -(-length // BLOCK)]
            self.tree.truncate(node.handle, length)
            del node.tokens[length:]
            assert self.tree.blocks(node.handle) == kept

    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        if node := self.pick(data, sealed=False):
            self.tree.seal(node.handle)
            node.sealed = True

    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        if node := self.pick(data):
            self.tree.hold(node.handle)
            node.holds += 1

    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        if not (node := self.pick(data, sealed=True)):
            return
        length = data.draw(st.integers(-1, node.length + BLOCK))
        if not 0 < length < node.length or length % BLOCK:
            with pytest.raises(ValueError, match="multiple of the block size 4 from 4 to less than"):
                self.tree.split(node.handle, length)
            return
        front = self.tree.split(node.handle, length)
        assert front not in self.seen, "a handle came back"
        self.seen.add(front)
        head = ModelNode(front, node.parent, sealed=True, tokens=node.tokens[:length], children=[node])
        if node.parent is not None:
            siblings = node.parent.children
            siblings[siblings.index(node)] = head
        node.parent, node.tokens = head, node.tokens[length:]
        self.live.append(head)

    @rule(data=st.data())
    def prune(self, data: st.DataObject) -> None:
        if not (node := self.pick(data)):
            return
        self.tree.prune(node.handle)
        node.holds -= 1
        up: ModelNode | None = node
        while up is not None and not up.holds and not up.children:
            self.live.remove(up)
            self.stale.append(up.handle)
            if up.parent is not None:
                up.parent.children.remove(up)
            up = up.parent

    @rule(data=st.data())
    def ask_what_would_be_free(self, data: st.DataObject) -> None:
        held = [node for node in self.live if node.holds]
        asked = data.draw(st.lists(st.sampled_from(held), unique_by=id)) if held else []
        left = {id(node): node.holds + len(node.children) for node in self.live}
        gone = 0
        for node in asked:
            up: ModelNode | None = node
            while up is not None:
                left[id(up)] -= 1
                if left[id(up)]:
                    break
                gone += up.n_blocks
                up = up.parent
        assert self.tree.releasable_blocks([node.handle for node in asked]) == gone

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), method=st.sampled_from(["length", "blocks", "seal", "prune", "hold", "parent"]))
    def use_a_stale_handle(self, data: st.DataObject, method: str) -> None:
        with pytest.raises(StaleNodeError, match="freed"):
            getattr(self.tree, method)(data.draw(st.sampled_from(self.stale)))

    @rule(data=st.data())
    def misuse(self, data: st.DataObject) -> None:
        if node := self.pick(data, held=False, sealed=True):
            for call in (self.tree.seal, lambda handle: self.tree.append(handle, 1)):
                with pytest.raises(ValueError, match="it is sealed" if node.holds else "was pruned"):
                    call(node.handle)
        if node := self.pick(data, sealed=False):
            for call in (self.tree.fork, self.tree.split):
                with pytest.raises(ValueError, match="seal it first"):
                    call(node.handle, 1)
        if (node := self.pick(data, held=False)) and not node.holds:
            for call in (self.tree.hold, self.tree.prune, lambda handle: self.tree.split(handle, BLOCK)):
                with pytest.raises(ValueError, match="was pruned"):
                    call(node.handle)

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
            assert tree.n_holds(handle) == node.holds
            assert self.read(handle) == node.path_tokens
            assert tree.n_children(handle) == len(node.children)
            assert tree.parent(handle) == (node.parent.handle if node.parent else None)
        held = [block for node in self.live for block in tree.blocks(node.handle)]
        assert len(held) == len(set(held)) == tree.n_blocks - tree.n_free_blocks


TestKvTree = KvTreeMachine.TestCase
TestKvTree.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)


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
