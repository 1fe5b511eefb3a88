"""What limits cut short, each with the option that lifts it, and what judges could not score: in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from branchwise.types import Cut

_LIMITS: dict[Cut, tuple[str, str]] = {
    "steps": ("the number of steps", "raise --max-steps"),
    "tokens": ("the tokens of a solution", "raise --max-tokens"),
    "step_tokens": ("the tokens of a step", "raise --max-step-tokens"),
    "context": ("the policy's context", "another --policy has a longer one"),
    "prm_context": ("the PRM's context", "another --prm has a longer one"),
    "time": ("the deadline", "give it more time"),
}


def cut_lines(cuts: Mapping[Cut, int]) -> list[str]:
    """ "3 branches were cut by the number of steps: raise --max-steps", a line for each limit."""
    lines = []
    for cut, count in sorted(cuts.items(), key=lambda item: -item[1]):
        limit, lift = _LIMITS.get(cut, (f"the limit of {cut}", "raise it"))  # a file may hold those of another version
        lines.append(f"{count:,} {'branch was' if count == 1 else 'branches were'} cut by {limit}: {lift}")
    return lines


def unjudged_lines(unjudged: Mapping[str, int], most: int = 3) -> list[str]:
    """ "2 steps have no score, their branches rank last: judge checker raised ...", the most frequent reasons."""
    reasons = Counter(unjudged).most_common()
    lines = [
        f"{count:,} {'step has' if count == 1 else 'steps have'} no score, so that branches rank last: {why}"
        for why, count in reasons[:most]
    ]
    rest = sum(count for _, count in reasons[most:])
    return [*lines, f"{rest:,} more have none for {len(reasons) - most} other reasons"] if rest else lines
