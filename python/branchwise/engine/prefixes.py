"""Sealed KV nodes that stay after their trees are gone, found again by the token ids of their paths.

The cache mirrors the KV tree: an entry is a node that it holds, below the entry of the node's parent. Nodes at the same
place may begin with the same tokens, since KV can be shared only up to a border of blocks, or of the chunks in which
attention reads a node (`Planner`, counted from the node's start). A cut at a chunk border changes no arithmetic.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from branchwise._C import KvTree

ID = array("i").itemsize  # bytes of a token id
Known = Tensor | float
"""What a model said behind a token: a policy's hidden state, [hidden], or a PRM's score."""


@dataclass(slots=True, eq=False)
class Prefix:
    """A node that the cache holds, and what the model said behind its last token, where that is known."""

    handle: int
    tokens: bytes  # of this node alone, as `_packed`
    parent: Prefix | None
    children: Siblings
    known: Known | None = None

    @property
    def length(self) -> int:
        return len(self.tokens) // ID


@dataclass(frozen=True, slots=True)
class Match:
    """The longest kept beginning of some ids: the KV node that ends with it, to fork from or to hold, and its length.

    known: of the end of all ids, where that is found
    """

    handle: int | None = None
    length: int = 0
    known: Known | None = None


class Siblings:
    """Entries below the same one, in the order of their tokens, which no two have in common."""

    __slots__ = ("_entries", "_keys")

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._entries: list[Prefix] = []

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._entries)

    def get(self, tokens: bytes) -> Prefix | None:
        """The entry of exactly these tokens."""
        at = bisect_left(self._keys, tokens)
        return self._entries[at] if at < len(self._keys) and self._keys[at] == tokens else None

    def add(self, entry: Prefix) -> None:
        at = bisect_left(self._keys, entry.tokens)
        self._keys.insert(at, entry.tokens)
        self._entries.insert(at, entry)

    def remove(self, entry: Prefix) -> None:
        at = bisect_left(self._keys, entry.tokens)
        del self._keys[at], self._entries[at]

    def whole(self, tokens: bytes) -> Iterator[Prefix]:
        """The entries that `tokens` begin with, longest first."""
        left = tokens
        while at := bisect_right(self._keys, left):
            key = self._keys[at - 1]
            n_common = _common(key, left)
            if n_common * ID == len(key):
                yield self._entries[at - 1]
                n_common -= 1
            left = tokens[: n_common * ID]

    def nearest(self, tokens: bytes) -> tuple[Prefix, int] | None:
        """The entry that has most first tokens in common with `tokens`, and how many; in this order it is a neighbour
        of the place where `tokens` would be."""
        at = bisect_left(self._keys, tokens)
        found = [(_common(self._keys[i], tokens), i) for i in (at - 1, at) if 0 <= i < len(self._keys)]
        n_common, i = max(found, default=(0, 0))
        return (self._entries[i], n_common) if n_common else None


@dataclass(frozen=True, slots=True, order=True)
class _Found:
    """A way to begin: `length` tokens in all, up to the end of an entry or, better not, in the middle of it."""

    length: int
    is_whole: bool
    entry: Prefix = field(compare=False)
    cut: int = field(compare=False)  # tokens of the entry


class PrefixCache:
    """A cache of prefixes in one KV tree. chunk: slots that attention reads at a time (`Planner.chunk_slots`).

    Least recently used entries go when `evict` is told so; until then they keep their blocks.
    """

    def __init__(self, tree: KvTree, chunk: int) -> None:
        self._tree = tree
        self._chunk = chunk
        self._roots = Siblings()
        self._entries: OrderedDict[int, Prefix] = OrderedDict()  # by handle; those used last come last

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def n_blocks(self) -> int:
        """Blocks of all entries, used by others or not."""
        size = self._tree.block_size
        return sum(-(-entry.length // size) for entry in self._entries.values())

    @property
    def n_evictable(self) -> int:
        """Blocks that `evict` could free."""
        return self._tree.releasable_blocks(list(self._entries))

    # --- finding -----------------------------------------------------------------------------------------------

    def match(self, ids: Sequence[int], *, exact: bool) -> Match:
        """The longest beginning of `ids` that is kept, all of them only where it is known what the model said there.

        exact: only what leaves the bits of all that follows as if `ids` were fed into one node. Otherwise nodes may
        be cut at any border of blocks, unless somebody may still go on below them.
        """
        tokens = _packed(ids)
        found = max(self._ways(tokens, exact), default=None)
        if found is None:
            return Match()
        entry = found.entry if found.is_whole else self._split(found.entry, found.cut)
        self._touch(entry)
        return Match(entry.handle, found.length, entry.known if found.length == len(ids) else None)

    def follow(self, handle: int, ids: Sequence[int]) -> Match:
        """The child of a node that holds exactly `ids`."""
        entry = self._entries.get(handle)
        child = None if entry is None else entry.children.get(_packed(ids))
        if child is None:
            return Match()
        self._touch(child)
        return Match(child.handle, len(ids), child.known)

    def shared(self, ids: Sequence[int], others: Sequence[int], *, exact: bool) -> int:
        """How long a beginning `match` could find for `ids` once `others`, which are in use, are known, too."""
        n_common = _common(_packed(ids), _packed(others))
        if n_common == len(others) and (n_common == len(ids) or not exact):
            return n_common
        return min(n_common, len(ids) - 1) // self._chunk * self._chunk

    def _ways(self, tokens: bytes, exact: bool) -> Iterator[_Found]:
        """All beginnings that could be taken, some shorter ones left out."""
        n_tokens = len(tokens) // ID
        levels = [(self._roots, 0)]
        while levels:
            siblings, start = levels.pop()
            rest = tokens[start * ID :]
            for entry in siblings.whole(rest):
                end = start + entry.length
                if end < n_tokens and not (exact and end % self._chunk):
                    yield _Found(end, True, entry, entry.length)
                    levels.append((entry.children, end))
                elif end == n_tokens and entry.known is not None:
                    yield _Found(end, True, entry, entry.length)
            if (near := siblings.nearest(rest)) is not None:
                entry, n_common = near
                n_common = min(n_common, entry.length - 1, n_tokens - 1 - start)
                cut = self._border(entry, n_common, exact)
                if cut:
                    yield _Found(start + cut, False, entry, cut)

    def _border(self, entry: Prefix, n_tokens: int, exact: bool) -> int:
        """Where a node may be cut, within its first `n_tokens`."""
        coarse, fine = (n_tokens // unit * unit for unit in (self._chunk, self._tree.block_size))
        return coarse if exact or fine == coarse or self._is_used(entry) else fine

    def _is_used(self, entry: Prefix) -> bool:
        """Whether anybody but the cache holds a node or one below it."""
        tree, below = self._tree, [entry]
        for each in below:  # grows as it is read
            if tree.n_holds(each.handle) > 1 or tree.n_children(each.handle) > len(each.children):
                return True
            below += each.children
        return False

    def _split(self, entry: Prefix, cut: int) -> Prefix:
        """The new entry of an entry's first tokens."""
        head = Prefix(self._tree.split(entry.handle, cut), entry.tokens[: cut * ID], entry.parent, Siblings())
        siblings = self._siblings(entry.parent)
        siblings.remove(entry)
        entry.tokens, entry.parent = entry.tokens[cut * ID :], head
        siblings.add(head)
        head.children.add(entry)
        self._entries[head.handle] = head
        return head

    # --- keeping -----------------------------------------------------------------------------------------------

    def offer(self, handle: int, ids: Sequence[int], known: Known | None = None) -> None:
        """Keep a sealed node with the tokens `ids`, unless it is empty, kept already, or below one that is not kept."""
        above = self._tree.parent(handle)
        parent = None if above is None else self._entries.get(above)
        if not ids or (above is not None and parent is None) or handle in self._entries:
            return
        tokens = _packed(ids)
        siblings = self._siblings(parent)
        entry = siblings.get(tokens)
        if entry is None:
            entry = Prefix(handle, tokens, parent, Siblings())
            self._tree.hold(handle)
            self._entries[handle] = entry
            siblings.add(entry)
        entry.known = known if entry.known is None else entry.known
        self._touch(entry)

    def evict(self, n_blocks: int) -> int:
        """Free at least so many blocks, if others do not need them, of entries used least recently; returns how many.

        What somebody needs counts as used just now.
        """
        tree, before, needed = self._tree, self._tree.n_free_blocks, 0
        while tree.n_free_blocks - before < n_blocks and needed < len(self._entries):
            handle = next(iter(self._entries))
            if tree.n_holds(handle) > 1 or tree.n_children(handle):
                self._entries.move_to_end(handle)
                needed += 1
            else:
                self._drop(self._entries[handle])
                needed = 0
        return tree.n_free_blocks - before

    def clear(self) -> None:
        """Hold nothing any more."""
        for handle in self._entries:
            self._tree.prune(handle)
        self._entries.clear()
        self._roots = Siblings()

    def _drop(self, entry: Prefix) -> None:
        self._siblings(entry.parent).remove(entry)
        del self._entries[entry.handle]
        self._tree.prune(entry.handle)

    def _siblings(self, parent: Prefix | None) -> Siblings:
        return self._roots if parent is None else parent.children

    def _touch(self, entry: Prefix | None) -> None:
        """An entry was used, and with it all above, which go after it."""
        while entry is not None:
            self._entries.move_to_end(entry.handle)
            entry = entry.parent


def _packed(ids: Sequence[int]) -> bytes:
    """Token ids as bytes: compared and sliced at the speed of memory."""
    return array("i", ids).tobytes()


def _common(one: bytes, other: bytes) -> int:
    """First tokens that both have in common."""
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size // ID
    return int((np.frombuffer(one[:size], np.int32) != np.frombuffer(other[:size], np.int32)).argmax())
