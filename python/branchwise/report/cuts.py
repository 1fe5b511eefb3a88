"""What limits cut short, in words, each with the option that lifts it."""

from __future__ import annotations

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
