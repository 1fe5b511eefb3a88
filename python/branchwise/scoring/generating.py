"""A model that writes as a judge: it analyses a step, and the probability of the word that follows is the score."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from branchwise._C import lineage_root
from branchwise.config import check_sampling, check_whole
from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import Lease
from branchwise.engine.policy_tree import PolicyTree
from branchwise.errors import BranchwiseError, ConfigError, InputError
from branchwise.scoring.verdicts import VERDICTS, Verdict
from branchwise.text.user_text import encode_guarded
from branchwise.types import Endings, Node, Sampling, Settings, StepOptions, TokenLogprob

READ = 20  # likeliest words among which the verdict is looked for
GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True)
class GeneratingJudge:
    """A model that writes as a judge.

    verdict   how it is asked: "genprm", "thinkprm", or a `Verdict` of one's own (see `prompt_verdict`)
    model     folder, `.gguf` file or hub id; None: the policy itself
    samples   analyses of a step, whose verdicts are averaged    sampling: of the analyses
    max_tokens  of an analysis at most
    """

    verdict: str | Verdict
    model: str | Path | None = None
    samples: int = 1
    sampling: Sampling = GREEDY
    max_tokens: int = 2048

    def __post_init__(self) -> None:
        if not isinstance(self.verdict, Verdict) and self.verdict not in VERDICTS:
            known = ", ".join(VERDICTS)
            raise ConfigError(f"verdict={self.verdict!r}: expected one of {known}, or a Verdict as of prompt_verdict()")
        check_whole("samples", self.samples, 1)
        check_whole("max_tokens", self.max_tokens, 1)
        check_sampling(self.sampling)
        if self.samples > 1 and self.sampling.is_greedy:
            raise ConfigError(f"samples={self.samples} at temperature 0 are all equal: give a sampling, or samples=1")

    @property
    def name(self) -> str:
        return self.verdict if isinstance(self.verdict, str) else "writer"

    @property
    def asked(self) -> Verdict:
        """How it is asked."""
        return self.verdict if isinstance(self.verdict, Verdict) else VERDICTS[self.verdict]


@dataclass(slots=True, eq=False)
class Case:
    """A branch to be judged, for all nodes that say the same."""

    tree: CaseTree
    steps: tuple[str, ...]
    nodes: list[Node]
    values: list[float] = field(default_factory=list)  # P(good) by every analysis that is done
    replies: list[str] = field(default_factory=list)
    score: float | None = None
    failed: str | None = None
    tokens: int = 0

    @property
    def known(self) -> bool:
        return self.score is not None or self.failed is not None


@dataclass(slots=True, eq=False)
class CaseTree:
    """One problem as the judge sees it."""

    root: Node
    question: str
    cases: dict[tuple[str, ...], Case] = field(default_factory=dict)
    prompt_tokens: int = 0  # counted with the steps
    cached_tokens: int = 0
    rebuilt_tokens: int = 0
    leases: tuple[Lease, ...] = ()  # what it holds is not shared with searches


class GeneratingScorer:
    """A `Judge` that lets a model write, on a KV cache of its own."""

    batch_rows = 1

    def __init__(self, engine: StepEngine, judge: GeneratingJudge) -> None:
        self.engine = engine
        self.tokenizer = engine.tokenizer
        self.flops_per_token = engine.flops_per_token
        self.verdict = judge.asked
        self.samples = judge.samples
        stops = Endings((), self.verdict.stops, include_stop=True)
        self._analysis = StepOptions(judge.sampling, stops, judge.max_tokens)
        self._word = StepOptions(GREEDY, Endings(()), 1, logprobs=READ)
        self._waiting: list[Case] = []
        self._running: dict[Node, tuple[PolicyTree, Case, str | None]] = {}  # by root; the analysis before a verdict
        self._done: list[Node] = []

    @property
    def idle(self) -> bool:
        """True when nothing waits for a score."""
        return not (self._waiting or self._running or self._done)

    @property
    def pending(self) -> int:
        """Branches that wait or are being judged."""
        return len(self._waiting) + len(self._running) + len(self._done)

    @property
    def first(self) -> Node:
        """The root of the tree that has waited longest."""
        cases = [case for _, case, _ in self._running.values()] + self._waiting
        return cases[0].tree.root

    def flops(self, tree: CaseTree) -> float:
        """All is counted with the steps."""
        return 0.0

    def room(self, question: str) -> int:
        """Tokens of a solution beside what the judge writes about it."""
        return max(2, self.engine.context - self._analysis.max_tokens - len(self.tokenizer.encode(question)) - 256)

    def open(self, root: Node, question: str, **sizes: Any) -> CaseTree:
        """Start a tree for a question; KV is taken as it is needed."""
        return CaseTree(root, question)

    def check_text(self, index: int, text: str) -> None:
        """Any text can be asked about."""

    def submit(self, tree: CaseTree, node: Node) -> bool:
        """Queue a finished step, and those before it that have no score; False for one without text."""
        if not node.text.strip():
            return False
        for step in node.path:
            if step.text.strip() and step.score is None and step.unjudged is None:
                self._case(tree, step)
        return True

    def _case(self, tree: CaseTree, node: Node) -> None:
        steps = tuple(step.text for step in node.path if step.text.strip())
        case = tree.cases.get(steps)
        if case is None:
            case = tree.cases[steps] = Case(tree, steps, [])
            self._waiting.append(case)
        if node in case.nodes:
            return
        case.nodes.append(node)
        if case.known:
            self._tell(case, [node])

    def release(self, tree: CaseTree, node: Node) -> None:
        """The node needs no score any more; what nobody waits for is not begun."""
        for case in tree.cases.values():
            if node in case.nodes and not case.known:
                case.nodes.remove(node)
        self._waiting = [case for case in self._waiting if case.nodes]
        self._done = [each for each in self._done if each is not node]

    def give_up(self, tree: CaseTree) -> None:
        """Judge nothing more of a tree."""
        self._waiting = [case for case in self._waiting if case.tree is not tree]
        for root, (policy, case, _) in list(self._running.items()):
            if case.tree is tree:
                self.engine.close(policy)
                del self._running[root]

    def close(self, tree: CaseTree) -> None:
        """Forget a tree."""
        self.give_up(tree)

    def shed(self, tree: CaseTree, *, hard: bool = False) -> bool:
        """There is none to give: a case begins when its worst case fits."""
        return False

    def poll(self, *, least: int = 1, alone: bool = False) -> list[Node]:
        """Begin what fits, let the model write one token of each; the steps whose scores became known."""
        self._begin()
        if not self.engine.idle:
            for policy, node in self.engine.poll():
                self._take(policy, node)
        done, self._done = self._done, []
        return done

    def _begin(self) -> None:
        """Begin cases in order while all that run fit at their longest; one alone begins anyway."""
        later: list[Case] = []
        for case in self._waiting:
            ready = not self.verdict.in_turns or self._before(case) is None or self._before(case).known  # type: ignore[union-attr]
            if ready and self._fits():
                self._start(case)
            else:
                later.append(case)
        self._waiting = later

    def _before(self, case: Case) -> Case | None:
        """The case of the step before, which an earlier turn is about."""
        return case.tree.cases.get(case.steps[:-1]) if len(case.steps) > 1 else None

    def _fits(self) -> bool:
        longest = (
            self.engine.context
            if not self._running
            else max(
                len(policy.prompt) + self.samples * self._analysis.max_tokens for policy, _, _ in self._running.values()
            )
        )
        blocks = -(-longest // self.engine.kv.block_slots) + self.samples
        return not self._running or (len(self._running) + 1) * blocks <= self.engine.kv.n_blocks

    def _start(self, case: Case) -> None:
        try:
            before = [case.tree.cases[case.steps[:place]].replies for place in range(1, len(case.steps))]
            replies = [each[0] for each in before if each] if self.verdict.in_turns else []
            text = self.verdict.conversation(self.tokenizer, case.tree.question, case.steps, replies)
            ids = encode_guarded(self.tokenizer, text, bos=self.tokenizer.add_bos and self.tokenizer.bos_id is not None)
            self._write(case, ids, self.samples, self._analysis, None)
        except BranchwiseError as error:
            self._fail(case, str(error))

    def _write(self, case: Case, ids: Sequence[int], n: int, options: StepOptions, analysis: str | None) -> None:
        settings = Settings(
            options.sampling, options.endings, options.max_tokens, options.max_tokens, speculate=False
        )  # fmt: skip
        key = hashlib.blake2b(repr((case.steps, case.tree.question, list(ids))).encode(), digest_size=8).digest()
        lineage = lineage_root(int.from_bytes(key, "little"))
        policy = self.engine.open(ids, lineage=lineage, branches=n, paths=n, steps=1, settings=settings)
        if policy.settings.max_tokens < options.max_tokens and analysis is None:
            self.engine.close(policy)
            raise InputError(
                f"the judge's context of {self.engine.context} does not hold {len(ids)} tokens and an analysis of"
                f" {options.max_tokens}: lower its max_tokens"
            )
        case.tokens += len(ids)
        self._running[policy.root] = policy, case, analysis
        self.engine.expand(policy, policy.root, n, options)

    def _take(self, policy: PolicyTree, node: Node) -> None:
        """A reply is written: ask for its verdict, or read it."""
        if policy.root not in self._running:
            return
        _, case, analysis = self._running[policy.root]
        case.tokens += len(node.tokens)
        over = sum(child.finish is not None for child in policy.root.children) == (
            self.samples if analysis is None else 1
        )
        if over:
            del self._running[policy.root]
        try:
            if math.isnan(node.logprob):
                self._fail(case, "the judge gave NaN: its checkpoint is damaged or its dtype overflows")
            elif analysis is None and not case.known:
                tail = self.tokenizer.encode(self.verdict.tail, after=node.text or "x")
                self._write(case, [*policy.prompt, *node.tokens, *tail], 1, self._word, node.text)
            elif not case.known:
                assert node.logprobs is not None
                self._count(case, self._probability(node.logprobs[0]), analysis or "")
        except BranchwiseError as error:
            self._fail(case, str(error))
        finally:
            if over:
                self.engine.close(policy)

    def _probability(self, word: TokenLogprob) -> float:
        """P(good) against P(bad) of the next word, over all ways to begin either; 1/2 where it begins neither."""
        good, bad = self.verdict.good.lower(), self.verdict.bad.lower()
        mass = {good: 0.0, bad: 0.0}
        for token, logprob in word.top:
            begun = self.tokenizer.decode([token]).strip().lower()
            if begun:
                for each in (good, bad):
                    mass[each] += math.exp(logprob) if each.startswith(begun) else 0.0
        total = mass[good] + mass[bad]
        return mass[good] / total if total > 0 else 0.5

    def _count(self, case: Case, value: float, analysis: str) -> None:
        case.values.append(value)
        case.replies.append(self.verdict.reply(analysis, value >= 0.5))
        if len(case.values) == self.samples:
            case.score = math.fsum(case.values) / self.samples
            self._tell(case, case.nodes)

    def _fail(self, case: Case, why: str) -> None:
        if not case.known:
            case.failed = f"the judge that writes gave no verdict: {why}"
            self._tell(case, case.nodes)

    def _tell(self, case: Case, nodes: Sequence[Node]) -> None:
        for node in nodes:
            node.score, node.unjudged = case.score, case.failed
            if node is case.nodes[0]:
                node.cost.prm_tokens += case.tokens  # the first one pays
        self._done += nodes
