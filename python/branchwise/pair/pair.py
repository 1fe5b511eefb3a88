"""A policy and a judge in one batch: steps come from the one, scores from the other, early finishers first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from branchwise.chat_options import NO_OPTIONS, ChatOptions
from branchwise.engine.kv import KvFull
from branchwise.errors import CheckpointError, ConfigError, OutOfMemory
from branchwise.pair.prompts import problem_lineage, prompt_digest, prompt_ids
from branchwise.pair.protocol import Event, Judge, JudgeTree, Policy
from branchwise.pair.room import Room
from branchwise.pair.timing import PassTiming
from branchwise.pair.tree import PairTree
from branchwise.strategies.protocol import Demand
from branchwise.text.tokenizer import Tokenizer
from branchwise.tree import root_of, walk
from branchwise.types import Cost, Node, Problem, Settings, StepOptions

PROBES = ("12+345=357; 7*8", "Let x be the number of apples.", "\\frac{3}{4} \\cdot 2^{10}", "Thus, the answer is")
OTHER_TOKENIZER = 2  # judge's tokens expected for each policy token when the two cut text differently

Value = TypeVar("Value")


class ModelPair:
    """A `Pair` of a policy and a judge; early finishers are scored while stragglers decode.

    instruction: system message of every question that is no ready prompt; "" for none
    chat: what the policy's chat template is given beside messages
    """

    def __init__(
        self, policy: Policy, judge: Judge | None, *, instruction: str, chat: ChatOptions = NO_OPTIONS
    ) -> None:
        self.policy = policy
        self.judge = judge
        self.instruction = instruction
        self.chat = chat
        self._room = Room(policy, judge)
        self._timing = None if judge is None else PassTiming(policy, judge)
        self._judge_tokens = 1 if judge is None else tokens_for_tokens(policy.tokenizer, judge.tokenizer)
        self._same_tokens = judge is not None and cut_alike(policy.tokenizer, judge.tokenizer)
        self._trees: dict[Node, PairTree] = {}  # by root, oldest first
        self._events: list[Event] = []  # for the end of the next poll; steps that get no score, too
        self._waiting: dict[Node, PairTree] = {}  # trees of the steps that wait for a score

    @property
    def scores(self) -> bool:
        return self.judge is not None

    @property
    def idle(self) -> bool:
        waits = self._events or any(tree.paused for tree in self._trees.values())
        return self.policy.idle and not waits and (self.judge is None or self.judge.idle)

    def open(self, problem: Problem, demand: Demand, settings: Settings) -> PairTree | None:
        """Admit a problem to the policy and, where scores are wanted, to the judge: to both or to neither.

        Those that are paused go on before others begin.
        """
        if demand.scores and self.judge is None:
            raise ConfigError("step scores are needed, but the engine has no judge: give it a PRM with prm=...")
        self._check_tokens(demand)
        ids = self._prompt(problem)
        policy = self.policy.open(
            ids, lineage=problem_lineage(problem, ids),
            settings=replace(self._within_context(problem, settings, scores=demand.scores), states=demand.scores),
            branches=demand.branches, paths=demand.paths, steps=demand.steps,
        )  # fmt: skip
        policy.root.prompt_digest = prompt_digest(ids)
        tree = PairTree(policy, demand=demand)
        if demand.scores:
            try:
                self._judge_below(tree, policy.root, problem.text)
            except BaseException:
                self.policy.close(policy)
                raise
        return self._admit(tree)

    def plant(self, tree: PairTree, node: Node, problem: Problem, settings: Settings, *, scores: bool) -> Node:
        """A further prompt in an open tree; the judge is told its question, where steps below shall be judged."""
        ids = self._prompt(problem)
        planted = self.policy.plant(tree.policy, node, ids, self._within_context(problem, settings, scores=scores))
        planted.text, planted.prompt_digest = problem.text, prompt_digest(ids)
        try:
            if scores:
                self._judge_below(tree, planted, problem.text)
        except BaseException:
            self.policy.cancel(tree.policy, node, planted.index, 1)
            raise
        tree.planted.append(planted)
        return planted

    def _check_tokens(self, demand: Demand) -> None:
        """ConfigError: the policy lacks a token that the search is about."""
        tokenizer = self.policy.tokenizer
        for token in demand.tokens:
            ids = tokenizer.encode(token, special=True, after="\n")
            if len(ids) != 1 or tokenizer.token_bytes(ids[0]) != token.encode():  # special ones leave no text to see
                raise ConfigError(
                    f"the policy {self.policy.source} has no token {token!r}, which this strategy needs: take a policy"
                    " that has it, or another strategy, such as majority"
                )

    def _prompt(self, problem: Problem) -> list[int]:
        return prompt_ids(
            self.policy.tokenizer, problem, self.instruction, chat=self.chat, context=self.policy.context
        )  # fmt: skip

    def _judge_below(self, tree: PairTree, prompt: Node, question: str) -> JudgeTree:
        """The judge's tree for the steps below a prompt, opened where there is none. ConfigError: there is no judge."""
        judge, demand, policy = self.judge, tree.demand, tree.policy
        if judge is None or demand is None or policy is None or not demand.scores:
            raise ConfigError("step scores are needed, but the engine has no judge: give it a PRM with prm=...")
        if prompt not in tree.judges:
            caps, per_token = policy.settings, self._judge_tokens
            tree.judges[prompt] = judge.open(
                prompt, question, branches=demand.branches, paths=demand.paths, steps=demand.steps,
                tokens=per_token * caps.max_tokens, step_tokens=per_token * min(caps.max_step_tokens, caps.max_tokens),
                reuse=caps.reuse,
            )  # fmt: skip
        return tree.judges[prompt]

    def open_texts(self, root: Node, question: str, *, reuse: bool) -> PairTree | None:
        """Admit texts to the judge alone: the nodes below a root. How long they are nobody has to guess."""
        if self.judge is None:
            raise ConfigError("step scores are needed, but the engine has no judge: give it a PRM with prm=...")
        for node in walk(root):
            if node is not root:
                self.judge.check_text(node.depth - 1, node.text)
        judge = self.judge.open(
            root, question, branches=1, paths=0, steps=None, tokens=1, step_tokens=1, reuse=reuse
        )  # fmt: skip
        return self._admit(PairTree(None, {root: judge}))

    def _admit(self, tree: PairTree) -> PairTree | None:
        running, others = self._shared()
        if any(other.paused for other in others) or not self._room.admits(tree, running):
            self._close(tree)
            return None
        self._trees[tree.root] = tree
        return tree

    def _shared(self, *, written: bool = False) -> tuple[list[PairTree], list[PairTree]]:
        """The open trees that run, and those that are paused or rest, each oldest first. written: by the policy only"""
        load = self.policy.load
        roots = {tree.root for tree, _ in (*load.growing, *load.openings)}
        roots |= {event.tree.root for event in self._events} | {tree.root for tree in self._waiting.values()}
        running: list[PairTree] = []
        others: list[PairTree] = []
        for root, tree in self._trees.items():
            if written and tree.policy is None:
                continue
            (running if root in roots and not tree.paused else others).append(tree)
        return running, others

    def pause(self, tree: PairTree) -> None:
        """Free the KV of a tree. It goes on as soon as there is room, and comes to the same end, bit for bit."""
        self._room.pause(tree)

    def expand(self, tree: PairTree, node: Node, n: int, options: StepOptions) -> int:
        """Queue n more children of a node; the index of the first."""
        first = self.policy.expand(tree.policy, node, n, options)
        tree.expanded(node, first, n)
        return first

    def score(self, tree: PairTree, nodes: Sequence[Node]) -> None:
        """Queue steps for the judge. ConfigError when there is none."""
        for node in nodes:
            prompt = node.prompt
            judged = tree.judges.get(prompt) or self._judge_below(tree, prompt, prompt.text)
            assert self.judge is not None
            if self.judge.submit(judged, node):
                self._waiting[node] = tree
            else:
                self._events.append(Event("scored", tree, node))

    def prune(self, tree: PairTree, node: Node) -> None:
        """Free what nobody below needs."""
        self.policy.prune(tree.policy, node)
        self._release(tree, node)

    def cancel(self, tree: PairTree, parent: Node, first: int, n: int) -> None:
        """Take back an expansion: its children leave the tree with all below them."""
        assert tree.policy is not None
        for node in self.policy.cancel(tree.policy, parent, first, n):
            self._release(tree, node)
            tree.cancelled_flops += len(node.tokens) * self.policy.flops_per_token
            if self.judge is not None and node.score is not None:
                tree.policy.cost.cancelled_tokens += node.cost.prm_tokens
                tree.cancelled_flops += node.cost.prm_flops

    def close(self, tree: PairTree) -> None:
        """Free everything, and complete the cost record of the root."""
        if self._trees.pop(tree.root, None) is None:
            return
        for lease in tree.leases:
            lease.learn()
        self._close(tree)
        cost, spent = tree.root.cost, Cost() if tree.policy is None else tree.policy.cost
        for name in ("kv_tokens", "iterations", "occupancy", "speculated_tokens", "cancelled_tokens", "rebuilt_tokens"):
            setattr(cost, name, getattr(spent, name))
        beside = cost.prefill_tokens + cost.speculated_tokens + cost.rebuilt_tokens
        cost.flops = beside * self.policy.flops_per_token + tree.cancelled_flops
        for prompt in tree.planted:
            prompt.cost.flops = prompt.cost.prefill_tokens * self.policy.flops_per_token
        for prompt, judged in tree.judges.items():
            assert self.judge is not None
            _add_judged(prompt.cost, judged, self.judge.flops(judged))
        self._waiting = {node: owner for node, owner in self._waiting.items() if owner is not tree}
        self._events = [event for event in self._events if event.tree is not tree]

    def _close(self, tree: PairTree) -> None:
        if tree.policy is not None:
            self.policy.close(tree.policy)
        for judged in tree.judges.values():
            assert self.judge is not None
            self.judge.close(judged)

    def free(self) -> None:
        """Let go of both models; nothing works afterwards."""
        del self.policy, self.judge, self._timing, self._room
        self._trees.clear()

    def poll(self) -> list[Event]:
        """Passes of the judge as far as they are worth it, else one decode iteration. On a GPU both, side by side.

        Trees are paused where memory is short, and go on as soon as there is room.
        """
        paused = [tree for tree in self._trees.values() if tree.paused]
        if paused:
            self._room.resume(paused, self._shared()[0])
        overlaps = self.policy.overlaps
        if overlaps:
            self._generate()
        if self.judge is not None and self._timing is not None and not self.judge.idle:
            self._with_room(self.policy.begin)
            policy_busy = not self.policy.idle or (overlaps and bool(self._events))
            self._score(self.judge, self._timing, policy_busy)
        if not overlaps and not self._events:  # else what was scored may go on first
            self._generate()
        events, self._events = self._events, []
        return events

    def _generate(self) -> None:
        """One decode iteration."""
        steps = [] if self.policy.idle else self._with_room(self.policy.poll) or []
        for policy, node in steps:
            written = node.cost.generated_tokens + node.cost.prefill_tokens  # the latter were given
            node.cost.flops += written * self.policy.flops_per_token
            self._events.append(Event("generated", self._trees[policy.root], node, self._damage(node)))

    def _with_room(self, work: Callable[[], Value]) -> Value | None:
        """Let the policy work, with KV freed as it needs; None: that failed a tree."""
        while True:
            try:
                return work()
            except KvFull as error:
                running, others = self._shared(written=True)
                if not self._room.make(others, running, of_judge=False):
                    self._fail(running[0], error)
                    return None
            except OutOfMemory as error:  # the device's, of which a tree less takes less
                self._fail(self._shared(written=True)[0][-1], error)
                return None

    def _damage(self, node: Node) -> CheckpointError | None:
        """What to say of a step that the policy could not write."""
        if not math.isnan(node.logprob):
            return None
        return CheckpointError(
            f"{self.policy.source}: the policy gave NaN or infinity for token {len(node.tokens) + 1} of step "
            f"{node.lineage_path}; its checkpoint is damaged or its dtype overflows, try another dtype"
        )

    def _score(self, judge: Judge, timing: PassTiming, policy_busy: bool) -> None:
        """Passes of the judge, as many as are due."""
        waiting = {node: tree for node, tree in self._waiting.items() if not tree.paused}
        before, least = judge.pending, timing.least_rows(policy_busy, self._trees, waiting)
        scored = self._take_scores(judge, self._pass(judge, least))
        while timing.worth_more <= judge.pending < before:
            before = judge.pending
            scored |= self._take_scores(judge, self._pass(judge, 1))
        if scored:
            timing.passed()

    def _pass(self, judge: Judge, least: int) -> list[Node]:
        """A pass of the judge, with KV freed as it needs; at the worst one for a single step, with no other KV kept."""
        try:
            while True:
                try:
                    return judge.poll(least=least)
                except KvFull:
                    running, others = self._shared()
                    if not self._room.make(others, running, of_judge=True):
                        break
            self._room.only_first(self._trees.values())
            return judge.poll(alone=True)
        except OutOfMemory as error:
            tree = self._trees[root_of(judge.first)]
            for judged in tree.judges.values():
                judge.give_up(judged)
            self._fail(tree, error)
            return []

    def _fail(self, tree: PairTree, error: OutOfMemory) -> None:
        """What is in flight in a tree has to end."""
        self._events.append(Event("failed", tree, tree.root, error))

    def _take_scores(self, judge: Judge, nodes: Sequence[Node]) -> bool:
        """Report the scores that became known; whether there are any."""
        for node in nodes:
            tree = self._waiting.pop(node, None)
            spent = node.cost.prm_tokens * judge.flops_per_token
            node.cost.prm_flops += spent
            node.cost.flops += spent
            if tree is not None:  # an ancestor scored on the way was not asked for
                self._events.append(Event("scored", tree, node))
        return bool(nodes)

    def _release(self, tree: PairTree, node: Node) -> None:
        judged = tree.judges.get(node.prompt)
        if self.judge is not None and judged is not None:
            self.judge.release(judged, node)
            self._waiting.pop(node, None)
        self._events = [event for event in self._events if event.node is not node]

    def _within_context(self, problem: Problem, settings: Settings, *, scores: bool) -> Settings:
        """The cap of a solution, lowered to the judge's context where both models cut text alike.

        Where they do not, nobody knows beforehand: a branch ends with the step that no longer fits.
        """
        if self.judge is None or not scores or not self._same_tokens:
            return settings
        room = self.judge.room(problem.text)
        return settings if settings.max_tokens <= room else replace(settings, max_tokens=room, limit="prm_context")


def _add_judged(cost: Cost, judged: JudgeTree, flops: float) -> None:
    """What a judge's tree cost beside its steps, in the record of its prompt."""
    cost.prm_tokens = judged.prompt_tokens
    cost.rebuilt_tokens += judged.rebuilt_tokens
    cost.cached_tokens += judged.cached_tokens
    cost.prm_flops = flops
    cost.flops += flops


def tokens_for_tokens(policy: Tokenizer, judge: Tokenizer) -> int:
    """Judge's tokens to expect for a policy token: 1 when both cut the probes into as many pieces."""
    same = all(len(judge.encode(text)) <= len(policy.encode(text)) for text in PROBES)
    return 1 if same else OTHER_TOKENIZER


def cut_alike(policy: Tokenizer, judge: Tokenizer) -> bool:
    """Whether both cut the probes into as many pieces, so that a cap in tokens means the same to both."""
    return all(len(judge.encode(text)) == len(policy.encode(text)) for text in PROBES)
