"""What a policy, a judge and a pair of them must do. Whoever does it can take their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from branchwise.engine.kv import Lease
from branchwise.errors import BranchwiseError
from branchwise.strategies.protocol import Demand
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Cost, Node, Problem, Settings, StepOptions


class OpenTree(Protocol):
    """An open tree: a prompt and all steps below it."""

    @property
    def root(self) -> Node: ...
    @property
    def prompt(self) -> Sequence[int]:
        """Token ids of the prompt."""
        ...


TreeT = TypeVar("TreeT", bound=OpenTree)


class PolicyTree(OpenTree, Protocol):
    """A tree as a policy knows it."""

    @property
    def settings(self) -> Settings:
        """Those it was opened with, caps lowered to what the model's context holds."""
        ...

    @property
    def cost(self) -> Cost:
        """What it cost beside what its nodes say: iterations, occupancy, kv_, speculated_, ... tokens."""
        ...

    @property
    def lease(self) -> Lease | None:
        """What it holds of the policy's KV; None: that is none of our business."""
        ...

    @property
    def width(self) -> int:
        """Branches at most."""
        ...


class JudgeTree(Protocol):
    """A tree as a judge knows it."""

    @property
    def root(self) -> Node: ...
    @property
    def prompt_tokens(self) -> int:
        """Fed of the prompt."""
        ...

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, not fed."""
        ...

    @property
    def rebuilt_tokens(self) -> int:
        """Fed once more, as their KV had made room for others."""
        ...

    @property
    def leases(self) -> Sequence[Lease]:
        """Of the caches that it holds KV in."""
        ...


class RowLoad(Protocol):
    """The rows of a policy's next iteration: steps that grow, and trees with so many new ones to begin."""

    @property
    def max_rows(self) -> int: ...
    @property
    def growing(self) -> Sequence[tuple[Any, Node]]: ...
    @property
    def openings(self) -> Sequence[tuple[Any, int]]: ...
    @property
    def used(self) -> int:
        """Rows of both, also beyond `max_rows`."""
        ...


class Policy(Protocol):
    """Writes steps of many trees in one batch; its trees are `PolicyTree`s of its own kind.

    `expand` only queues; `poll` runs one iteration. The n children of an `expand` have the n indices from the one it
    returns, are in `node.children` by the time they are reported, and carry tokens, text, logprob, finish and cost.
    A logprob of NaN: the model gave no token to go on with.
    """

    tokenizer: Tokenizer
    context: int  # tokens that the model can see
    flops_per_token: float
    source: str  # where the model is from

    @property
    def overlaps(self) -> bool:
        """Whether steps are decoded while other work goes on, after `begin`."""
        ...

    @property
    def idle(self) -> bool:
        """True when nothing is queued or growing."""
        ...

    @property
    def load(self) -> RowLoad: ...

    def open(
        self, prompt: Sequence[int], *, lineage: int, branches: int, paths: int, steps: int | None, settings: Settings
    ) -> Any:
        """Start a tree, which holds nothing yet. OutOfMemory: it never fits. InputError: bad prompt."""
        ...

    def plant(self, tree: Any, node: Node, prompt: Sequence[int], settings: Settings) -> Node:
        """A further prompt as the next child of a node, of which it reads nothing: it can be expanded at once.

        settings: `max_tokens` and `limit` of what grows from it
        InputError: bad prompt. OutOfMemory: it never fits. StaleNodeError as for `expand`.
        """
        ...

    def expand(self, tree: Any, node: Node, n: int, options: StepOptions) -> int:
        """Queue n more children; the index of the first. StaleNodeError: the node was pruned, or it has ended."""
        ...

    def prune(self, tree: Any, node: Node) -> None:
        """The node will not be expanded again; its descendants may be in use. A growing step is abandoned."""
        ...

    def cancel(self, tree: Any, parent: Node, first: int, n: int) -> list[Node]:
        """Take children `first` to `first + n` out of the tree with all below them; those that had begun."""
        ...

    def close(self, tree: Any) -> None:
        """Free everything; again, it does nothing."""
        ...

    def pause(self, tree: Any) -> None:
        """Free the KV of a tree and let its rows wait. What is asked of it meanwhile waits, too."""
        ...

    def resume(self, tree: Any) -> None:
        """Let a paused tree go on: what it writes is the same, bit for bit."""
        ...

    def shed(self, tree: Any) -> bool:
        """Free the KV of a tree's steps that nothing grows from now; False: there was none."""
        ...

    def begin(self) -> None:
        """Queue work on the device without waiting for it, where the policy can. OutOfMemory: nothing has changed."""
        ...

    def poll(self) -> list[tuple[Any, Node]]:
        """Run one iteration; the steps that it finished. OutOfMemory: nothing has changed."""
        ...


class Judge(Protocol):
    """Scores steps. Its trees are its own record of the policy's; scores appear in `node.score`."""

    tokenizer: Tokenizer
    flops_per_token: float
    batch_rows: int  # new tokens of a full pass

    @property
    def idle(self) -> bool:
        """True when nothing waits for a score."""
        ...

    @property
    def pending(self) -> int:
        """Tokens that have not been fed."""
        ...

    def flops(self, tree: Any) -> float:
        """What a tree cost beside its steps: the question, and what was fed once more."""
        ...

    def room(self, question: str) -> int:
        """Tokens that the text of a solution may have at most."""
        ...

    def open(
        self, root: Node, question: str, *, branches: int, paths: int, steps: int | None, tokens: int, step_tokens: int,
        reuse: bool,
    ) -> Any:  # fmt: skip
        """Start a tree. OutOfMemory: it never fits. InputError: the question is too long."""
        ...

    def check_text(self, index: int, text: str) -> None:
        """InputError: it cannot score this text as step `index` (from 0) of any solution."""
        ...

    def submit(self, tree: Any, node: Node) -> bool:
        """Queue a finished step, and those before it that have no score; False when it will have none.

        A step that is too long for the judge gets `finish` "length" and `cut` "prm_context".
        """
        ...

    def release(self, tree: Any, node: Node) -> None:
        """The node, and what will come below it, needs no more scores."""
        ...

    def close(self, tree: Any) -> None:
        """Free everything; again, it does nothing."""
        ...

    def shed(self, tree: Any, *, hard: bool = False) -> bool:
        """Free the KV of a tree's steps that nothing in the queue comes below; False: there was none.

        hard: of all but the path of the step that has waited longest
        """
        ...

    @property
    def first(self) -> Node:
        """The root of the tree that has waited longest."""
        ...

    def give_up(self, tree: Any) -> None:
        """Score nothing that is queued of a tree, unless it is submitted again."""
        ...

    def poll(self, *, least: int = 1, alone: bool = False) -> list[Node]:
        """Run one pass if at least so many tokens wait; the nodes whose scores became known.

        alone: with nothing but the step that has waited longest    OutOfMemory: nothing has changed
        """
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """A node that a turn of the pair finished: its step is complete, or its score is set; or why neither can be.

    "failed", at the root: nothing that is in flight in this tree can go on.
    """

    kind: Literal["generated", "scored", "failed"]
    tree: OpenTree
    node: Node
    error: BranchwiseError | None = None


class Pair(Protocol[TreeT]):
    """A policy and a judge, or none, in one batch: all that a search knows of models.

    `expand` and `score` only queue; `poll` runs one turn and returns what it finished, in any order. `score` leaves
    `node.score` None only for a step whose text is blank, or too long for the judge. Every node is pruned at most once.
    No event of a tree follows after `close`, which also completes `root.cost`: what belongs to no single step.
    """

    @property
    def idle(self) -> bool:
        """True when nothing is queued: `poll` would do nothing."""
        ...

    @property
    def scores(self) -> bool:
        """Whether there is a judge."""
        ...

    def open(self, problem: Problem, demand: Demand, settings: Settings) -> TreeT | None:
        """Admit a problem, or return None while it must wait for others that run. OutOfMemory: it never fits."""
        ...

    def open_texts(self, root: Node, question: str, *, reuse: bool) -> TreeT | None:
        """Admit texts to the judge that the policy has not written, all nodes below a root; else as `open`.

        InputError: there are some that it cannot score. They may be given to `score`, and nothing else of the tree.
        """
        ...

    def plant(self, tree: TreeT, node: Node, problem: Problem, settings: Settings, *, scores: bool) -> Node:
        """A further prompt in an open tree, as the next child of a node; the policy reads nothing of what is above.

        problem: its prompt, and for the judge its question    settings: as the tree was opened with
        scores: steps below shall be judged, so that the judge has to be ready for them
        InputError: the prompt cannot be. OutOfMemory: it never fits. The tree is as it was then.
        """
        ...

    def expand(self, tree: TreeT, node: Node, n: int, options: StepOptions) -> int: ...
    def score(self, tree: TreeT, nodes: Sequence[Node]) -> None: ...
    def prune(self, tree: TreeT, node: Node) -> None: ...
    def cancel(self, tree: TreeT, parent: Node, first: int, n: int) -> None: ...
    def close(self, tree: TreeT) -> None: ...
    def poll(self) -> list[Event]: ...

    def free(self) -> None:
        """Let go of models and KV, whoever still holds this pair."""
        ...
