"""What the engine keeps for every tree and every node of it: KV, tokens still to be fed, who needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from branchwise.engine.kv import Lease
from branchwise.engine.kv_step import KvStep
from branchwise.engine.seen_words import SeenWords
from branchwise.text.steps import State, StepDetector
from branchwise.types import Cost, Cut, Node, Settings, StepOptions


@dataclass(slots=True, eq=False)
class NodeState(KvStep):
    """The engine's record of one node.

    A token is fed to the model one iteration after it was drawn, so the last token of a finished step is missing in the
    KV until somebody expands the node. Its hidden state then serves all children, and later expansions too.
    """

    node: Node
    options: StepOptions  # how it is written; a step written ahead of it is written alike
    detector: StepDetector
    begun: State  # of the step detector, before the first token
    automaton: State  # after the last one
    seed: int  # of its random numbers
    most: int  # tokens on its path at most, the prompt's included
    limit: Cut  # what that stands for
    hidden: Tensor | None = None  # [width], after the last token; set by the engine when all are fed
    sum: Tensor | None = None  # [pooled] fp32, of the states that tokens of its path were drawn from, see `StatePool`
    last: Tensor | None = None  # [pooled] fp32, of these the last, until it is done
    asked: int = 0  # children asked for so far: the next one's index
    released: bool = False  # the owner's hold is gone
    speculative: bool = False  # nobody has asked for it yet
    seen: SeenWords | None = None  # while it grows, where penalties ask for it

    @property
    def is_young(self) -> bool:
        """Whether nothing may end it yet."""
        least = self.options.min_tokens
        return least > 0 and self.drawn < least

    @property
    def drawn(self) -> int:
        """Its tokens that were not given."""
        return len(self.node.tokens) - self.node.given

    @property
    def first(self) -> NodeState:
        """The prompt that its path begins with."""
        state = self
        while state.parent is not None:
            state = state.parent
        return state


@dataclass(slots=True, eq=False)
class PolicyTree:
    """One tree in the engine: its nodes, how it is written, what it holds and what it cost.

    The tokens, hidden states and automata of a paused tree are kept; its KV is gone, and its rows wait.
    """

    root: Node
    settings: Settings  # caps lowered to what the context holds
    prompt: Sequence[int]
    lease: Lease
    max_steps: int | None  # on a path
    speculates: bool  # whether steps may be written ahead
    width: int  # branches at most: what occupancy is measured against
    states: dict[Node, NodeState] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    paused: bool = False
    closed: bool = False

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt)

    def shared(self, first: NodeState) -> Sequence[int]:
        """A prompt, as far as its KV may come from others: not where somebody wants to know more of its tokens."""
        wish = self.settings.prompt_logprobs
        return first.tokens if wish is None else first.tokens[: wish.start - 1]

    def seen_words(self, state: NodeState) -> SeenWords | None:
        """What a growing step has before it and in it, as far as its penalties want to know; counted once."""
        sampling = state.options.sampling
        if state.seen is None and sampling.penalises:
            given = state.first.tokens if sampling.repetition_penalty != 1 else ()
            state.seen = SeenWords(given, [token for step in state.node.path for token in step.tokens])
        return state.seen

    def may_go_on(self, node: Node) -> bool:
        """Whether a finished step can have children."""
        return node.finish == "stop" and (self.max_steps is None or node.depth < self.max_steps)

    def feed(self, state: NodeState, count: int) -> None:
        """So many more tokens of a step are in the KV."""
        self.cost.rebuilt_tokens += state.feed(count, self.lease)

    def let_go(self, state: NodeState) -> None:
        """One holder less, upwards while nothing needs a node, which frees its KV."""
        for gone in state.let_go(self.lease):
            gone.hidden = None
            del self.states[gone.node]

    def count_iteration(self, rows: int, bytes_read: int) -> None:
        """Count an iteration in which `rows` branches of this tree drew a token."""
        cost = self.cost
        cost.occupancy += (rows / self.width - cost.occupancy) / (cost.iterations + 1)
        cost.iterations += 1
        cost.kv_bytes_read += bytes_read
