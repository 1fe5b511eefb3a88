"""Policies that think at length before they answer: votes of what follows the thoughts, and thoughts that end in time.

Thoughts are not searched: judges of steps rate them poorly, and no search within them was found to pay.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

from branchwise.answers.extract import extract_answer
from branchwise.answers.reading import read
from branchwise.answers.vote import choose
from branchwise.errors import ConfigError
from branchwise.strategies.options import check_count, check_limit, check_whole
from branchwise.strategies.protocol import Action, Ask, Demand, Drop, Limits, Random, Reply, State
from branchwise.types import Candidate, Node, Problem, Sampling, Selection

PARAGRAPH = "\n\n"
PROBE = "... Oh, I suddenly got the answer to the whole problem, **Final Answer**\n\n\\[ \\boxed{"
PROBE_TOKENS = 20
DOUBT = re.compile(r"\b(?:wait|hold|but|okay|no|hmm)\b", re.IGNORECASE)
WAIT = "Wait"
ENDLESS = 1 << 20  # tokens of a paragraph at most: the solution's own cap comes first


@dataclass(slots=True)
class Thread:
    """One solution as it is written. thoughts, probed: tokens so far, and at the last probe    answers: of probes"""

    waits: int
    thoughts: int = 0
    probed: int = 0
    answers: list[str | None] = field(default_factory=list)
    answering: bool = False
    closed: str = ""  # what ended the thoughts, if that was not the policy


@dataclass(slots=True)
class ThinkingState(State):
    """A search of solutions with thoughts; `wishes` are the actions to propose next.

    beginnings  what is asked of the root next, by lane: all at once, when nothing asked before is in flight there, so
                that the places of its children depend on no timing
    """

    threads: list[Thread] = field(default_factory=list)
    wishes: list[Action] = field(default_factory=list)
    beginnings: dict[int, Ask] = field(default_factory=dict)
    begun: int = 0  # asks of the root in flight


@dataclass(frozen=True, slots=True)
class Thinking:
    """n solutions of a policy that thinks first; the most frequent answer behind the thoughts wins.

    interval  tokens of thoughts after which the answer so far is probed, at the end of a paragraph; None: never
    stable    equal answers of probes in a row, none of them in doubt, that end the thoughts
    budget    tokens of thoughts at most, after which they are ended; None: as many as a solution may have
    waits     times that the end of the thoughts is taken back, and "Wait" written in its place
    end       what ends the thoughts: one token of the policy

    Ended thoughts are closed by `end`, and the policy writes its answer. Ties: the smallest lineage path. Sources:
    Fu et al., Certaindex (Dynasor), arXiv 2412.20993 (probes); Muennighoff et al., s1, arXiv 2501.19393 (budget,
    waits). Raises ConfigError for a bad option.
    """

    n: int = 16
    interval: int | None = field(default=None, kw_only=True)
    stable: int = field(default=3, kw_only=True)
    budget: int | None = field(default=None, kw_only=True)
    waits: int = field(default=0, kw_only=True)
    end: str = field(default="</think>", kw_only=True)
    name: ClassVar[str] = "thinking"

    def __post_init__(self) -> None:
        for option in ("n", "stable"):
            check_count(self.name, option, getattr(self, option))
        for option in ("interval", "budget"):
            check_limit(self.name, option, getattr(self, option))
        check_whole(self.name, "waits", self.waits, 0)
        if not isinstance(self.end, str) or not self.end.strip():
            raise ConfigError(f"thinking: end is {self.end!r}, expected the token that ends thoughts, as in '</think>'")

    def demand(self, limits: Limits) -> Demand:
        """n whole paths, of a policy that has the token."""
        return Demand(self.n, self.n, None, scores=False, tokens=(self.end,))

    def start(self, problem: Problem, root: Node, random: Random) -> ThinkingState:
        """Ask for n first paragraphs."""
        state = ThinkingState(problem, root, threads=[Thread(self.waits) for _ in range(self.n)])
        for lane in range(self.n):
            self._think(state, lane, root)
        return state

    def propose(self, state: State) -> list[Action]:
        """Return the next wish of every solution whose last one has been observed."""
        assert isinstance(state, ThinkingState)
        wishes, state.wishes = state.wishes, []
        if not state.begun:
            wishes += [ask for _, ask in sorted(state.beginnings.items())]
            state.begun, state.beginnings = len(state.beginnings), {}
        return wishes

    def observe(self, state: State, replies: list[Reply]) -> None:
        """Let each solution think on, be probed, or answer."""
        assert isinstance(state, ThinkingState)
        for reply in replies:
            (child,), lane = reply.nodes, reply.ask.lane
            assert isinstance(lane, int)
            state.begun -= reply.ask.node is state.root
            if reply.ask.feed == PROBE:
                self._probed(state, lane, child)
                continue
            state.live.discard(reply.ask.node)
            if state.threads[lane].answering:
                self._answer(state, lane, child)
            else:
                self._thought(state, lane, child)

    def _thought(self, state: ThinkingState, lane: int, child: Node) -> None:
        """A paragraph of thoughts, or the end of them."""
        thread = state.threads[lane]
        thread.thoughts += len(child.tokens) - child.given
        thought, end, _ = child.text.partition(self.end)
        spent = self.budget is not None and thread.thoughts >= self.budget
        if end and thread.waits and not spent and child.finish != "length":
            thread.waits -= 1
            parent = self._instead(state, child)
            self._think(state, lane, parent, _apart(parent, thought) + WAIT)
        elif end:
            self._answer(state, lane, child)
        elif child.finish == "length" and spent and child.cut is None:  # cut by the budget, in mid-paragraph
            self._close(state, lane, self._instead(state, child), thought, "budget")
        elif child.is_final:
            self._over(state, child)
        elif spent:
            self._close(state, lane, child, "", "budget")
        elif self.interval is not None and thread.thoughts - thread.probed >= self.interval:
            thread.probed = thread.thoughts
            state.live.add(child)
            greedy = Sampling(temperature=0.0)
            state.wishes.append(Ask(child, 1, feed=PROBE, stop=[], max_tokens=PROBE_TOKENS, sampling=greedy, lane=lane))
        else:
            self._think(state, lane, child)

    def _probed(self, state: ThinkingState, lane: int, probe: Node) -> None:
        """The answer so far: the thoughts are over when it has not changed for some time."""
        assert probe.parent is not None
        thread, drawn = state.threads[lane], probe.text.removeprefix(PROBE)
        answer = None if DOUBT.search(drawn) else extract_answer(probe.text)
        thread.answers.append(None if answer is None else read(answer).text)
        state.wishes.append(Drop(probe))
        last = thread.answers[-self.stable :]
        if len(last) == self.stable and last[0] is not None and len(set(last)) == 1:
            self._close(state, lane, probe.parent, "", "probes")
        else:
            self._think(state, lane, probe.parent)

    def _think(self, state: ThinkingState, lane: int, node: Node, feed: str | None = None) -> None:
        """One more paragraph."""
        left = ENDLESS if self.budget is None else self.budget - state.threads[lane].thoughts
        self._ask(state, lane, Ask(node, 1, stop=(PARAGRAPH, self.end), max_tokens=left, feed=feed, lane=lane))

    def _close(self, state: ThinkingState, lane: int, node: Node, thought: str, why: str) -> None:
        """End the thoughts behind a node, and what was written after it."""
        thread = state.threads[lane]
        thread.answering, thread.closed = True, why
        self._ask(state, lane, Ask(node, 1, feed=f"{_apart(node, thought)}{self.end}{PARAGRAPH}", lane=lane))

    def _answer(self, state: ThinkingState, lane: int, child: Node) -> None:
        """A step of the answer."""
        state.threads[lane].answering = True
        if child.is_final:
            self._over(state, child)
        else:
            self._ask(state, lane, Ask(child, 1, lane=lane))

    def _ask(self, state: ThinkingState, lane: int, ask: Ask) -> None:
        """The next step of a solution."""
        if ask.node is state.root:
            state.beginnings[lane] = ask
        else:
            state.live.add(ask.node)
            state.wishes.append(ask)

    def _instead(self, state: ThinkingState, child: Node) -> Node:
        """Where another one takes the place of a step."""
        assert child.parent is not None
        state.wishes.append(Drop(child))
        return child.parent

    def _over(self, state: ThinkingState, child: Node) -> None:
        state.live.discard(child)
        state.finished.append(child)
        state.wishes.append(Drop(child))

    def select(self, state: State) -> Selection:
        """Return the most frequent answer, and how many thoughts were ended, and by what."""
        assert isinstance(state, ThinkingState)
        growing = [node for node in state.live if node is not state.root]
        candidates = [self._candidate(node, state.copies) for node in (*state.finished, *growing)]
        selection = choose(candidates, "majority")
        ended = [thread.closed for thread in state.threads]
        counts = [f"{ended.count(by)} of {self.n} thoughts ended by {by}" for by in ("probes", "budget") if by in ended]
        return Selection(
            selection.chosen, selection.candidates, selection.votes, "; ".join([selection.why, *counts])
        )  # fmt: skip

    def _candidate(self, node: Node, count: int) -> Candidate:
        text = node.branch_text
        _, end, answer = text.rpartition(self.end)
        stated = extract_answer(answer) if end else None
        return Candidate(node, text, stated, [], None, node.finish if node.is_final else "length", count)


def _apart(node: Node, thought: str) -> str:
    """A thought, ended by a new line; "" where the node before it ends with one already."""
    before = thought or node.text
    return thought if not before or before[-1].isspace() else f"{thought}\n"
