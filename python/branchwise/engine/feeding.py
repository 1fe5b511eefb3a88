"""Which tokens the next pass puts into the KV: of every path only what it lacks, step by step from the root."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from branchwise.engine.kv_step import next_to_feed
from branchwise.engine.policy_tree import NodeState, PolicyTree
from branchwise.engine.rows import Growing, Opening


class Feeding(NamedTuple):
    """The first tokens of a step that the KV lacks."""

    tree: PolicyTree
    state: NodeState
    tokens: int


def paths_to_feed(openings: Sequence[Opening], returning: Sequence[Growing], room: int) -> list[Feeding]:
    """What comes next on the paths of new steps, and of those whose KV is rebuilt up to the token drawn last.

    room: tokens, about; a long step, and all that come after it, take several passes
    """
    wanted = [(opening.tree, opening.parent, True) for opening in openings]
    wanted += [(item.tree, item.state, False) for item in returning]
    feedings: dict[NodeState, Feeding] = {}
    for tree, last, is_new in wanted:
        state = next_to_feed(last)
        missing = state.missing - (state is last and not is_new)
        if missing and state not in feedings and (is_new or room > 0):
            feedings[state] = Feeding(tree, state, min(missing, max(1, room)))
            room -= feedings[state].tokens
    return list(feedings.values())
