"""The nouns of a search, shared by every layer: problem, node, expansion, cost, result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Finish = Literal["stop", "eos", "length"]
"""Why a step ended: its delimiter, the end-of-sequence token, or a token cap (a truncated step)."""

Aggregate = Literal["last", "min", "prod", "mean"]
Message = dict[str, str]


@dataclass(slots=True)
class Cost:
    """What something cost. Token counts are exact, bytes computed from the attention plan, seconds wall time."""

    generated_tokens: int = 0
    speculated_tokens: int = 0  # written ahead, and not wanted in the end
    prefill_tokens: int = 0
    prm_tokens: int = 0
    kv_tokens: int = 0  # slots held in the policy's KV tree at its peak
    kv_bytes_read: int = 0
    iterations: int = 0
    occupancy: float = 0.0  # mean share of row slots in use, 0..1
    seconds: float = 0.0
    flops: float = 0.0  # 2 x parameters x tokens of every model that ran, attention excluded

    def add(self, other: Cost) -> None:
        """Add the counters of another record; `kv_tokens` keeps the larger, `occupancy` the mean by iterations."""
        iterations = self.iterations + other.iterations
        if iterations:
            busy = self.occupancy * self.iterations + other.occupancy * other.iterations
            self.occupancy = busy / iterations
        self.iterations = iterations
        self.kv_tokens = max(self.kv_tokens, other.kv_tokens)
        counters = ("generated_tokens", "speculated_tokens", "prefill_tokens", "prm_tokens", "kv_bytes_read")
        for name in (*counters, "seconds", "flops"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class Problem:
    """A question to solve. `prompt` is a string, chat messages or token ids; `answer` is the gold answer, if known."""

    id: str
    text: str
    prompt: str | Sequence[Message] | Sequence[int] | None = None  # None: `text` through the chat template
    answer: str | None = None
    seed: int | None = None  # None: the engine's seed


@dataclass(slots=True, eq=False)
class Node:
    """One reasoning step in the tree of a problem. The root (id 0) holds the prompt and has no score."""

    id: int  # unique within its tree, in order of creation by (parent, child index)
    parent: Node | None
    index: int  # which child of its parent
    depth: int  # root 0, first step 1
    lineage: int  # 64-bit hash of the path of child indices: the key of its random numbers
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprob: float = 0.0  # sum over this step's tokens, model distribution at temperature 1
    score: float | None = None  # PRM's P(good) of this step; None until scored, or when it has no text
    finish: Finish | None = None
    cost: Cost = field(default_factory=Cost)
    children: list[Node] = field(default_factory=list)
    pruned: bool = False  # set by the search driver

    @property
    def path(self) -> list[Node]:
        """The steps from the first one to this, without the root."""
        steps: list[Node] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            steps.append(node)
            node = node.parent
        return steps[::-1]

    @property
    def scores(self) -> list[float]:
        """Step scores of the path, root to leaf; steps without a score are left out."""
        return [step.score for step in self.path if step.score is not None]

    @property
    def branch_text(self) -> str:
        """The solution so far: the text of every step on the path."""
        return "".join(step.text for step in self.path)

    @property
    def lineage_path(self) -> tuple[int, ...]:
        """Child indices from the root: the total order used by every tie-break."""
        return tuple(step.index for step in self.path)

    @property
    def is_final(self) -> bool:
        """True when the branch ended: end of sequence or a cap. A step that stopped at its delimiter may go on."""
        return self.finish in ("eos", "length")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 and `min_p` 0 switch a filter off."""

    temperature: float = 0.8
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


@dataclass(frozen=True, slots=True)
class Expand:
    """A wish of a strategy: `n` children of `node`, each one step long."""

    node: Node
    n: int


@dataclass(frozen=True, slots=True)
class Expanded:
    """The answer to an `Expand`: all its children, in order of child index, scored if the strategy uses scores."""

    node: Node
    children: list[Node]


@dataclass(slots=True)
class SearchState:
    """What a strategy remembers about one problem. `live` nodes may still be expanded; all else is freed."""

    problem: Problem
    root: Node
    live: set[Node] = field(default_factory=set)
    finished: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One finished trajectory and its extracted answer (`None`: no answer could be found)."""

    node: Node
    text: str
    answer: str | None
    scores: list[float]
    score: float | None  # aggregate of `scores`
    finish: Finish | None


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen candidate, why it was chosen, and the weight of every answer class (largest first)."""

    chosen: Candidate | None
    candidates: list[Candidate]
    votes: list[tuple[str, float]]
    why: str


class Strategy(Protocol):
    """A pure decision rule over nodes. It never tokenises, calls no model and owns no KV.

    The driver calls `start`, then `propose` and `observe` in turn. `observe` receives each expansion as it completes,
    in any order: decisions may depend on the set, never on the order. The search is over when `propose` returns nothing
    and nothing is in flight.

    A strategy may also have `kept: int`: branches that go on when a level is over and the others are pruned. Admission
    then reserves a whole path for each of these only, and one step for each of the n.
    """

    # Read-only, so that a frozen dataclass is a strategy.
    @property
    def name(self) -> str: ...
    @property
    def n(self) -> int: ...  # branches alive at most: what admission reserves for
    @property
    def max_steps(self) -> int: ...
    @property
    def uses_scores(self) -> bool: ...

    def start(self, problem: Problem, root: Node) -> SearchState: ...
    def propose(self, state: SearchState) -> list[Expand]: ...
    def observe(self, state: SearchState, results: list[Expanded]) -> None: ...
    def select(self, state: SearchState) -> Selection: ...


@dataclass(slots=True)
class Result:
    """The outcome of a search. `tree` is the root node; `cost` covers everything that ran for this problem."""

    problem: Problem
    answer: str | None
    text: str
    score: float | None
    scores: list[float]
    votes: list[tuple[str, float]]
    candidates: list[Candidate]
    cost: Cost
    tree: Node
    strategy: str
    why: str
    correct: bool | None = None  # graded against `problem.answer` when that is known


Grader = Callable[[str | None, str], bool]
