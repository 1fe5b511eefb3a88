"""Policy and PRM behind the driver's protocol: steps come from the step engine, scores from the scorer."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from branchwise._C import lineage_root
from branchwise.engine.branch import StepLimits, Tree
from branchwise.engine.engine import StepEngine
from branchwise.errors import ConfigError, InputError
from branchwise.scoring.scorer import PrmTree, Scorer
from branchwise.search.step_engine import Event
from branchwise.text.chat import encode_prompt
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Message, Node, Problem, Sampling

PROBES = ("12+345=357; 7*8", "Let x be the number of apples.", "\\frac{3}{4} \\cdot 2^{10}", "Thus, the answer is")
MIN_ROWS = 64  # new tokens worth a pass beside a policy that decodes at the same time
OTHER_TOKENIZER = 2  # PRM tokens reserved for each policy token when the two cut text differently


@dataclass(frozen=True, slots=True, eq=False)
class ScoredTree:
    """One open problem: its policy tree and, where scores are wanted, its PRM twin."""

    policy: Tree
    prm: PrmTree | None
    ends: dict[Node, list[int]] = field(default_factory=dict)  # child indices at which the expansions of a node end

    @property
    def root(self) -> Node:
        return self.policy.root


class ScoredEngine:
    """Joins one step engine and one scorer. Early finishers are scored while stragglers decode."""

    def __init__(
        self, engine: StepEngine, scorer: Scorer | None, *, limits: StepLimits, delimiter: str, instruction: str
    ) -> None:
        self.engine = engine
        self.scorer = scorer
        self.limits = limits
        self.delimiter = delimiter
        self.instruction = instruction
        self._prm_tokens = 1 if scorer is None else tokens_for_tokens(engine.tokenizer, scorer.prm.tokenizer)
        self._trees: dict[Node, ScoredTree] = {}  # by root
        self._unscorable: list[Event] = []  # steps without text: reported at the next poll
        self._owners: dict[Node, ScoredTree] = {}  # of the steps that wait for a score
        self._idled = 0.0  # iterations lost, since the last pass, in rows whose branches wait for scores

    def open(
        self, problem: Problem, branches: int, max_steps: int, sampling: Sampling, seed: int, *, use_scores: bool,
        kept: int | None = None,
    ) -> ScoredTree | None:  # fmt: skip
        """Admit a problem in the policy and, where scores are wanted, in the PRM: in both or in neither."""
        limits = self._limits(problem, max_steps) if use_scores else self.limits
        policy = self.engine.open(
            self.prompt_ids(problem), lineage=problem_lineage(problem), branches=branches, max_steps=max_steps,
            limits=limits, sampling=sampling, seed=seed, delimiter=self.delimiter, kept=kept,
        )  # fmt: skip
        if policy is None:
            return None
        prm = None
        if self.scorer is not None and use_scores:
            try:
                tokens, step = policy.limits.max_tokens, policy.limits.max_step_tokens
                prm = self.scorer.open(
                    policy.root, problem.text, branches, self._prm_tokens * tokens, max_steps,
                    kept=kept, max_step_tokens=self._prm_tokens * step,
                )  # fmt: skip
            finally:
                if prm is None:
                    self.engine.close(policy)
            if prm is None:
                return None
        tree = self._trees[policy.root] = ScoredTree(policy, prm)
        return tree

    def expand(self, tree: ScoredTree, node: Node, n: int) -> None:
        self.engine.expand(tree.policy, node, n)
        ends = tree.ends.setdefault(node, [0])
        ends.append(ends[-1] + n)

    def score(self, tree: ScoredTree, nodes: list[Node]) -> None:
        """Queue steps for the PRM. ConfigError when the engine has none."""
        if self.scorer is None or tree.prm is None:
            raise ConfigError("this strategy needs step scores, but the engine has no PRM: pass prm=...")
        for node in nodes:
            if self.scorer.submit(tree.prm, node):
                self._owners[node] = tree
            else:
                self._unscorable.append(Event("scored", tree, node))

    def prune(self, tree: ScoredTree, node: Node) -> None:
        self.engine.prune(tree.policy, node)
        if self.scorer is not None and tree.prm is not None:
            self.scorer.release(tree.prm, node)
            self._owners.pop(node, None)

    def close(self, tree: ScoredTree) -> None:
        """Free everything, and complete the cost record of the root."""
        if self._trees.pop(tree.root, None) is None:
            return
        root = tree.root
        self.engine.close(tree.policy)
        cost = tree.policy.cost
        root.cost.kv_tokens, root.cost.iterations, root.cost.occupancy = cost.kv_tokens, cost.iterations, cost.occupancy
        root.cost.speculated_tokens = cost.speculated_tokens
        own_tokens = root.cost.prefill_tokens + root.cost.speculated_tokens
        root.cost.flops = own_tokens * self.engine.flops_per_token
        if self.scorer is not None and tree.prm is not None:
            root.cost.prm_tokens = tree.prm.prompt_tokens
            root.cost.flops += root.cost.prm_tokens * self.scorer.flops_per_token
            self.scorer.close(tree.prm)
        self._owners = {node: owner for node, owner in self._owners.items() if owner is not tree}
        self._unscorable = [event for event in self._unscorable if event.tree is not tree]

    def poll(self) -> list[Event]:
        """PRM passes as far as they are worth it, else one decode iteration. On a GPU both: the PRM beside a burst."""
        events, self._unscorable = self._unscorable, []
        overlaps = self.engine.overlaps
        if overlaps:
            events += self._generated()
        if self.scorer is not None and not self.scorer.idle:
            self.engine.begin()
            events += self._scored(self.scorer, not self.engine.idle or (overlaps and bool(events)))
        if not overlaps and not events:  # else what was scored may go on first
            events += self._generated()
        return events

    def _generated(self) -> list[Event]:
        """The steps that a decode iteration finished."""
        steps = [] if self.engine.idle else self.engine.poll()
        for _, node in steps:
            node.cost.flops += node.cost.generated_tokens * self.engine.flops_per_token
        return [Event("generated", self._trees[policy.root], node) for policy, node in steps]

    def _scored(self, scorer: Scorer, policy_busy: bool) -> list[Event]:
        """The scores that became known."""
        before = scorer.pending
        nodes = scorer.poll(least=self._least_rows(scorer, policy_busy))
        while self._worth_more(scorer) <= scorer.pending < before:
            before = scorer.pending
            nodes += scorer.poll()
        if nodes:
            self._idled = 0.0
        events = []
        for node in nodes:
            tree = self._owners.pop(node, None)
            node.cost.flops += node.cost.prm_tokens * scorer.flops_per_token
            if tree is not None:  # an ancestor scored on the way was not asked for
                events.append(Event("scored", tree, node))
        return events

    def _least_rows(self, scorer: Scorer, policy_busy: bool) -> int:
        """New tokens that a pass through the PRM should have now.

        A pass reads all weights, so larger ones are cheaper; but branches whose scores are late leave rows of the
        policy empty. So a pass is due when the iterations that were lost in empty rows cost as much as reading the
        weights once more (as when to buy instead of renting skis), about half an iteration of full rows, or it is full.
        """
        if not policy_busy:
            return 1
        if self.engine.overlaps:
            return MIN_ROWS
        blocked, used = self._blocked_rows(), self._used_rows()
        self._idled += blocked / (blocked + used)
        due = 2 * self._idled * self.engine.flops_per_token >= scorer.flops_per_token
        return 1 if due else scorer.batch_rows

    def _worth_more(self, scorer: Scorer) -> float:
        """New tokens for which a pass is followed by one more.

        Passes that are nearly full gain nothing by waiting, while branches without scores fall behind the others and
        are the last to decode, in iterations that are nearly empty. Beside a GPU's policy they take turns.
        """
        return inf if self.engine.overlaps else scorer.batch_rows / 4

    def _used_rows(self) -> int:
        """Rows of the next iteration, as far as `max_rows` allows."""
        rows = self.engine.rows
        return len(rows.growing) + sum(opening.n for opening in rows.openings)

    def _blocked_rows(self) -> int:
        """Rows that stay empty because scores are missing: all of a tree that waits for nothing else, and in other
        trees as many as a complete expansion has steps, as far as nobody else waits for these rows."""
        rows = self.engine.rows
        free = rows.max_rows - self._used_rows()
        if free <= 0:
            return 0
        growing = [(self._trees[item.tree.root], item.branch.node) for item in rows.growing]
        unfinished = {_expansion(tree, node) for tree, node in growing}
        busy_trees = {tree for tree, _ in growing} | {self._trees[item.tree.root] for item in rows.openings}
        idle_trees = set(self._owners.values()) - busy_trees
        blocked = sum(tree.policy.width for tree in idle_trees)
        waiting = {_expansion(tree, node): tree for node, tree in self._owners.items() if tree not in idle_trees}
        blocked += sum(_size(tree, *wish) for wish, tree in waiting.items() if wish not in unfinished)
        return min(blocked, free)

    def prompt_ids(self, problem: Problem) -> list[int]:
        """Token ids of a problem's prompt. InputError when there is nothing to ask."""
        prompt = problem.prompt
        if prompt is None:
            if not problem.text.strip():
                raise InputError(f"problem {problem.id!r} has an empty question: write what is to be solved")
            prompt = self._as_prompt(problem.text)
        return encode_prompt(self.engine.tokenizer, prompt)

    def _limits(self, problem: Problem, max_steps: int) -> StepLimits:
        """The engine's caps, lowered so that a whole solution fits into the PRM's context, too."""
        if self.scorer is None:
            return self.limits
        room = self.scorer.room(problem.text, max_steps) // self._prm_tokens
        return StepLimits(min(self.limits.max_tokens, room), min(self.limits.max_step_tokens, room))

    def _as_prompt(self, text: str) -> str | Sequence[Message]:
        """A question as the policy expects it: a chat where it has a template, else the plain text."""
        if self.engine.tokenizer.chat_template is None:
            return f"{self.instruction}\n\n{text}\n\n" if self.instruction else f"{text}\n\n"
        system: list[Message] = [{"role": "system", "content": self.instruction}] if self.instruction else []
        return [*system, {"role": "user", "content": text}]


def _expansion(tree: ScoredTree, node: Node) -> tuple[Node | None, int]:
    """Which wish a step belongs to: its siblings of the same wish are waited for together."""
    parent = node.parent
    return parent, bisect_right(tree.ends.get(parent, []) if parent else [], node.index)


def _size(tree: ScoredTree, parent: Node | None, wish: int) -> int:
    """How many steps were wished for."""
    if parent is None:
        return 1
    first, end = tree.ends[parent][wish - 1 : wish + 1]
    return end - first


def tokens_for_tokens(policy: Tokenizer, prm: Tokenizer) -> int:
    """PRM tokens to reserve for a policy token: 1 when both cut the probes into as many pieces."""
    same = all(len(prm.encode(text)) <= len(policy.encode(text)) for text in PROBES)
    return 1 if same else OTHER_TOKENIZER


def problem_lineage(problem: Problem) -> int:
    """Key of a problem's random numbers, from its id: problems draw independently, in whatever order they run."""
    digest = hashlib.blake2b(problem.id.encode(), digest_size=8).digest()
    return lineage_root(int.from_bytes(digest, "little"))
