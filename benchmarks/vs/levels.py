"""Beam search and DVTS as a rival's user would write them, with the rule of `branchwise.strategies.levels`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Step:
    """One step of a branch; `kept` says that it was continued or finished, so that its tokens were not in vain."""

    path: tuple[int, ...]
    parent: Step | None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    score: float = 0.0
    ended: bool = False
    kept: bool = False

    @property
    def branch(self) -> list[Step]:
        """The steps from the first to this one."""
        return [*(self.parent.branch if self.parent else []), self]

    @property
    def branch_tokens(self) -> list[int]:
        """Tokens of the whole branch."""
        return [token for step in self.branch for token in step.tokens]

    @property
    def branch_text(self) -> str:
        """Text of the whole branch."""
        return "".join(step.text for step in self.branch)


def first_levels(n: int, group_size: int) -> list[list[Step]]:
    """The first level of every group; its steps are still to be generated and scored."""
    return [[Step((begin + i,), None) for i in range(group_size)] for begin in range(0, n, group_size)]


def next_level(level: list[Step], expand: int) -> list[Step]:
    """The next level of a group whose steps are all scored; empty when every branch has ended.

    Ended branches keep their slots; the best max(1, slots // expand) of the others share the slots that are left.
    """
    alive = sorted((step for step in level if not step.ended), key=lambda step: (-step.score, step.path))
    for step in level:
        step.kept = step.ended
    if not alive:
        return []
    kept = max(1, len(alive) // expand)
    each, extra = divmod(len(alive), kept)
    children = []
    for place, step in enumerate(alive[:kept]):
        step.kept = True
        children += [Step((*step.path, i), step) for i in range(each + (place < extra))]
    return children
