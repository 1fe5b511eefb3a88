"""What the engine keeps for every step of every tree: its KV node, the tokens still to be fed, who needs it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from branchwise.text.steps import StepDetector
from branchwise.types import Cost, Node, Sampling


@dataclass(frozen=True, slots=True)
class StepLimits:
    """When steps and solutions end. `max_tokens` counts a whole solution, `max_step_tokens` one step."""

    max_tokens: int
    max_step_tokens: int


@dataclass(slots=True, eq=False)
class Branch:
    """The engine's record of one node.

    A token is fed to the model one iteration after it was drawn, so the last token of a finished step is `pending`
    until somebody expands the node. Its hidden state then serves all children, and later expansions too.
    """

    node: Node
    parent: Branch | None
    handle: int  # KV node
    end: int  # tokens on the path, prompt and this node's included
    pending: list[int]  # tokens of this node that are not in the KV yet
    step: int = 0  # state of the step detector
    hidden: Tensor | None = None  # [hidden], after the last token; set by the engine when `pending` runs empty
    holders: int = 1  # its owner, and every child whose KV is held
    released: bool = False  # the owner's hold is gone
    ahead: bool = False  # nobody has asked for it yet


@dataclass(slots=True, eq=False)
class Tree:
    """One problem in the engine: its nodes, how it samples, what it has been promised and what it cost."""

    root: Node
    sampling: Sampling
    seed: int
    detector: StepDetector
    limits: StepLimits
    prompt_tokens: int
    reserved_blocks: int
    max_steps: int
    speculates: bool  # whether steps may be written ahead
    branches: dict[Node, Branch] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    kv_tokens: int = 0  # slots held now
    width: int = 1  # branches at most: what occupancy is measured against
    closed: bool = False

    def may_go_on(self, node: Node) -> bool:
        """Whether a finished step can have children."""
        return node.finish == "stop" and node.depth < self.max_steps

    def hold(self, tokens: int) -> None:
        """Count slots that were just filled."""
        self.kv_tokens += tokens
        self.cost.kv_tokens = max(self.cost.kv_tokens, self.kv_tokens)

    def let_go(self, branch: Branch) -> None:
        """One holder less, upwards while nothing needs a node; mirrors what the KV tree frees."""
        current: Branch | None = branch
        while current is not None:
            current.holders -= 1
            if current.holders:
                return
            start = current.parent.end if current.parent else 0
            self.kv_tokens -= current.end - start - len(current.pending)
            current.hidden = None
            del self.branches[current.node]
            current = current.parent

    def count_iteration(self, rows: int, bytes_read: int) -> None:
        """Count an iteration in which `rows` branches of this tree drew a token."""
        cost = self.cost
        cost.occupancy += (rows / self.width - cost.occupancy) / (cost.iterations + 1)
        cost.iterations += 1
        cost.kv_bytes_read += bytes_read
