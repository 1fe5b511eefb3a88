"""What a strategy is: a pure rule over nodes that asks for steps, is told what became of them, and picks an answer.

It never tokenises, calls no model and owns no KV, and it is written as if it were alone: what it decides depends on
problem, seed and replies, never on what else runs or on who was faster.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from branchwise.confidence import ConfidenceOptions
from branchwise.types import Decision, Message, Node, Problem, Sampling, Selection


@dataclass(frozen=True, slots=True)
class Limits:
    """What a search may use: tokens of a solution and of a step at most."""

    tokens: int
    step_tokens: int


@dataclass(frozen=True, slots=True)
class Demand:
    """What a search may need at once: `branches` is a promise, the rest helps to guess how many searches fit at once.

    branches    steps that grow, or wait to be observed, at the same time at most
    paths       branches that go on while the others are dropped; each owns a path of its own, the others one step of it
    steps       of a path at most; None: as many as its tokens allow
    scores      whether replies carry step scores, unless an `Ask` says otherwise
    confidence  whether nodes tell how sure the policy was; None: as the run has it
    tokens      that the policy must have, as they are written: a policy without them is refused
    """

    branches: int
    paths: int
    steps: int | None
    scores: bool
    confidence: ConfidenceOptions | None = None
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """A wish for `n` chains below `node`, each `steps` steps long or as long as it goes. None: the run's default.

    prompt      they begin anew: below a further prompt that is planted under `node` and read instead of all that is
                above (`nodes[0].prompt` of the reply, which may be asked for more); a question as text, chat messages
                or token ids. The judge is told the question, or the last user turn of messages, and nothing of ids
    feed        text that each chain begins with: given, not drawn, and not counted by `max_tokens`; special tokens may
                be written out. The first tokens of a step that were given are `Node.given` in number
    sampling    how their tokens are drawn    max_tokens: of one step
    stop        text that ends a step, or several; []: nothing does but the end of the solution and the cap
    score       True: every step; "last": each chain's last one (its ancestors are judged on the way); False: none;
                None: as the demand says
    lane        replies come in the order of the asks of a lane, one by one; default: one lane for the whole search
    """

    node: Node
    n: int
    steps: int = field(default=1, kw_only=True)
    prompt: str | Sequence[Message] | Sequence[int] | None = field(default=None, kw_only=True)
    feed: str | None = field(default=None, kw_only=True)
    sampling: Sampling | None = field(default=None, kw_only=True)
    stop: str | Sequence[str] | None = field(default=None, kw_only=True)
    max_tokens: int | None = field(default=None, kw_only=True)
    score: bool | Literal["last"] | None = field(default=None, kw_only=True)
    lane: Hashable = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Drop:
    """A node is wanted no more, with all below it; asks in flight there are cancelled and leave no node.

    An inner node falls with the last node below it. One that is in `State.finished` keeps its place as a solution.
    """

    node: Node


@dataclass(frozen=True, slots=True)
class Finish:
    """The search is over, whatever is in flight."""


Action: TypeAlias = Ask | Drop | Finish


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of an ask: the last node of every chain, in order of child index, scored as it was asked."""

    ask: Ask
    nodes: list[Node]


@dataclass(slots=True)
class State:
    """What a strategy remembers of one problem; most strategies add fields of their own."""

    problem: Problem
    root: Node
    finished: list[Node] = field(default_factory=list)  # solutions: drawn and kept as such by whoever reads the tree
    live: set[Node] = field(default_factory=set)  # branches that go on: what is left to choose from at a deadline
    copies: int = 1  # equal branches that each one stands for
    equal: int = 0  # branches that went on beside one of the same text, over all levels
    decisions: list[Decision] = field(default_factory=list)  # of a rule that chooses among others


class Random(Protocol):
    """Random numbers of one search, keyed by seed and lineage: the same seed is the same search."""

    def __call__(self, node: Node, draw: int) -> float:
        """Number `draw` of a node, in [0, 1)."""
        ...


class Strategy(Protocol):
    """A decision rule. The service calls `start`, then `propose`, and after every reply `observe` and `propose`.

    `observe` gets one reply at a time: in the order of the asks within a lane, in any order between lanes. The search
    is over when `propose` returns nothing and nothing is in flight, or when it says `Finish`. When a deadline cuts it
    short, `select` chooses among what there is.
    """

    # Read-only, so that a frozen dataclass is a strategy.
    @property
    def name(self) -> str: ...

    def demand(self, limits: Limits) -> Demand: ...
    def start(self, problem: Problem, root: Node, random: Random) -> State: ...
    def propose(self, state: State) -> list[Ask | Drop | Finish]: ...
    def observe(self, state: State, replies: list[Reply]) -> None: ...
    def select(self, state: State) -> Selection: ...
