"""Who holds KV: how many trees begin, what goes first when memory is short, and who waits meanwhile.

Nothing is reserved. A tree begins when what such trees hold on average fits beside the others; where that was too
hopeful, the youngest tree that runs is paused and its KV freed, until there is room for it. The oldest one always
moves, so all come to an end. What a tree writes depends on none of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from branchwise.engine.kv import Lease
from branchwise.pair.protocol import Judge, Policy
from branchwise.pair.tree import PairTree

SPARE = 8  # one in so many blocks is free when a paused tree goes on: to be written before another one is paused


class Room:
    """The KV of a policy and a judge, shared out among trees, which are always given in the order of their age."""

    def __init__(self, policy: Policy, judge: Judge | None) -> None:
        self._policy = policy
        self._judge = judge
        self.pauses = 0  # so far

    def admits(self, tree: PairTree, running: Sequence[PairTree]) -> bool:
        """Whether a tree may begin, or go on, beside those that run."""
        held = [lease for other in running for lease in other.leases]
        return not running or all(_fits(lease, held, paused=tree.paused) for lease in tree.leases)

    def resume(self, paused: Sequence[PairTree], running: Sequence[PairTree]) -> None:
        """Let paused trees go on while they fit, the oldest first, and that one anyway where nothing else runs."""
        for tree in paused:
            if not self.admits(tree, running):
                return
            tree.paused = False
            if tree.policy is not None:
                self._policy.resume(tree.policy)
            running = [*running, tree]

    def pause(self, tree: PairTree) -> None:
        """Free the KV of a tree, and let its rows wait. What of it waits for scores goes on."""
        tree.paused = True
        self.pauses += 1
        if tree.policy is not None:
            self._policy.pause(tree.policy)
        self._shed(tree, of_judge=True)

    def make(self, resting: Sequence[PairTree], running: Sequence[PairTree], *, of_judge: bool) -> bool:
        """Free some KV of the policy, or of the judge; False: the oldest tree holds all of it, and needs what it holds.

        What goes first costs least: KV of trees that rest, then all of the youngest tree that runs, then what the
        oldest one does not need at the moment. Steps written ahead and cached prefixes are gone by now.
        """
        if any(self._shed(tree, of_judge=of_judge) for tree in resting):
            return True
        if len(running) > 1:
            _learn([lease for tree in running for lease in tree.leases])
            self.pause(running[-1])
            return True
        return any(self._shed(tree, of_judge=of_judge) for tree in running)

    def only_first(self, trees: Iterable[PairTree]) -> None:
        """Free all KV of the judge but what the step needs that has waited longest for its score."""
        for tree in trees:
            for judged in tree.judges.values():
                assert self._judge is not None
                self._judge.shed(judged, hard=True)

    def _shed(self, tree: PairTree, *, of_judge: bool) -> bool:
        if not of_judge:
            return tree.policy is not None and self._policy.shed(tree.policy)
        return self._judge is not None and sum(map(self._judge.shed, tree.judges.values())) > 0


def _learn(leases: Sequence[Lease]) -> None:
    """Too much was begun: trees like those that run hold more than was expected of them."""
    for cache in dict.fromkeys(lease.cache for lease in leases):
        own = [lease for lease in leases if lease.cache is cache and lease.longest]
        if own:
            held = sum(lease.blocks - lease.prompt for lease in own)
            cache.learn(max(cache.share, held / sum(lease.longest for lease in own)))


def _fits(lease: Lease, held: Sequence[Lease], *, paused: bool) -> bool:
    """Whether there is room for what a tree is expected to hold, and with something to spare for what it has held."""
    cache = lease.cache
    taken = sum(max(each.blocks, each.expected) for each in held if each.cache is cache)
    least = lease.peak_blocks + cache.n_blocks // SPARE if paused else 0
    return taken + max(least, lease.expected) <= cache.n_blocks
