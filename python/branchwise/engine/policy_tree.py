"""What the engine keeps for every tree and every node of it: KV, tokens still to be fed, who needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from branchwise.engine.seen_words import SeenWords
from branchwise.text.steps import State, StepDetector
from branchwise.types import Cost, Node, Settings, StepOptions


@dataclass(slots=True, eq=False)
class NodeState:
    """The engine's record of one node.

    A token is fed to the model one iteration after it was drawn, so the last token of a finished step is `pending`
    until somebody expands the node. Its hidden state then serves all children, and later expansions too.
    """

    node: Node
    parent: NodeState | None
    handle: int  # KV node
    end: int  # tokens on the path, prompt and this node's included
    pending: list[int]  # tokens of this node that are not in the KV yet
    options: StepOptions  # how it is written; a step written ahead of it is written alike
    detector: StepDetector
    begun: State  # of the step detector, before the first token
    automaton: State  # after the last one
    seed: int  # of its random numbers
    hidden: Tensor | None = None  # [hidden], after the last token; set by the engine when `pending` runs empty
    holders: int = 1  # its owner, and every child whose KV is held
    asked: int = 0  # children asked for so far: the next one's index
    released: bool = False  # the owner's hold is gone
    speculative: bool = False  # nobody has asked for it yet
    seen: SeenWords | None = None  # while it grows, where penalties ask for it

    @property
    def is_young(self) -> bool:
        """Whether nothing may end it yet."""
        return len(self.node.tokens) < self.options.min_tokens


@dataclass(slots=True, eq=False)
class PolicyTree:
    """One tree in the engine: its nodes, how it is written, what it has been promised and what it cost."""

    root: Node
    settings: Settings  # caps lowered to what the context holds
    prompt: Sequence[int]
    reserved_blocks: int
    max_steps: int
    speculates: bool  # whether steps may be written ahead
    width: int  # branches at most: what occupancy is measured against
    states: dict[Node, NodeState] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    kv_tokens: int = 0  # slots held now
    closed: bool = False

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt)

    def seen_words(self, state: NodeState) -> SeenWords | None:
        """What a growing step has before it and in it, as far as its penalties want to know; counted once."""
        sampling = state.options.sampling
        if state.seen is None and sampling.penalises:
            given = self.prompt if sampling.repetition_penalty != 1 else ()
            state.seen = SeenWords(given, [token for step in state.node.path for token in step.tokens])
        return state.seen

    def may_go_on(self, node: Node) -> bool:
        """Whether a finished step can have children."""
        return node.finish == "stop" and node.depth < self.max_steps

    def hold(self, tokens: int) -> None:
        """Count slots that were just filled."""
        self.kv_tokens += tokens
        self.cost.kv_tokens = max(self.cost.kv_tokens, self.kv_tokens)

    def let_go(self, state: NodeState) -> None:
        """One holder less, upwards while nothing needs a node; mirrors what the KV tree frees."""
        current: NodeState | None = state
        while current is not None:
            current.holders -= 1
            if current.holders:
                return
            start = current.parent.end if current.parent else 0
            self.kv_tokens -= current.end - start - len(current.pending)
            current.hidden = None
            del self.states[current.node]
            current = current.parent

    def blocks(self, size: int) -> int:
        """KV blocks of `size` slots that its nodes fill now."""
        starts = {state: state.parent.end if state.parent else 0 for state in self.states.values()}
        return sum(-(-(state.end - start - len(state.pending)) // size) for state, start in starts.items())

    def count_iteration(self, rows: int, bytes_read: int) -> None:
        """Count an iteration in which `rows` branches of this tree drew a token."""
        cost = self.cost
        cost.occupancy += (rows / self.width - cost.occupancy) / (cost.iterations + 1)
        cost.iterations += 1
        cost.kv_bytes_read += bytes_read
