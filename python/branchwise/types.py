"""The nouns of a search, shared by every layer: problem, node, sampling, settings, cost, result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from branchwise.confidence import Confidence, ConfidenceOptions, TraceConfidence
from branchwise.config import check_feed, check_sampling, check_texts, check_whole
from branchwise.errors import BranchwiseError, ConfigError

if TYPE_CHECKING:
    from branchwise.strategies.protocol import Strategy

FinishReason = Literal["stop", "eos", "length"]
"""Why a step ended: its delimiter, the end of the solution (a token or a text), or a token cap (a truncated step)."""

Cut = Literal["steps", "tokens", "step_tokens", "context", "prm_context", "time"]
"""The limit that ended a branch: the number of its steps, the tokens of a solution or of a step, the context of the
policy or of the PRM, the deadline."""

LIFTS: Mapping[Cut, str] = MappingProxyType(
    {
        "steps": "max_steps",
        "tokens": "max_tokens",
        "step_tokens": "max_step_tokens",
        "context": "policy",
        "prm_context": "prm",
        "time": "deadline",
    }
)
"""The option that lifts each limit; a context takes another model."""

Aggregate = Literal["last", "min", "prod", "mean"]
Message = dict[str, str]


@dataclass(slots=True)
class Cost:
    """What something cost. Token counts are exact, bytes computed from the attention plan, seconds wall time."""

    generated_tokens: int = 0
    speculated_tokens: int = 0  # written ahead, and not wanted in the end
    cancelled_tokens: int = 0  # written and judged for steps that were given up before they were reported
    rebuilt_tokens: int = 0  # fed once more, to either model, as their KV had made room for others
    prefill_tokens: int = 0
    prm_tokens: int = 0
    cached_tokens: int = 0  # of prompts and judged steps, not fed: their KV was there from earlier ones
    kv_tokens: int = 0  # slots held in the policy's KV tree at its peak
    kv_bytes_read: int = 0
    iterations: int = 0
    occupancy: float = 0.0  # mean share of row slots in use, 0..1
    seconds: float = 0.0
    flops: float = 0.0  # 2 x parameters x tokens of every model that ran, attention excluded
    prm_flops: float = 0.0  # of these, what `prm_tokens` took

    def add(self, other: Cost) -> None:
        """Add the counters of another record; `kv_tokens` keeps the larger, `occupancy` the mean by iterations."""
        iterations = self.iterations + other.iterations
        if iterations:
            busy = self.occupancy * self.iterations + other.occupancy * other.iterations
            self.occupancy = busy / iterations
        self.iterations = iterations
        self.kv_tokens = max(self.kv_tokens, other.kv_tokens)
        tokens = ("generated", "speculated", "cancelled", "rebuilt", "prefill", "prm", "cached")
        for name in (*(f"{kind}_tokens" for kind in tokens), "kv_bytes_read", "seconds", "flops", "prm_flops"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


LEAST_TEMPERATURE = 1e-6  # below it greedy: logits are no finer than this, and divided by less they overflow
LEAST_SHARE = 1e-12  # of top-p: below the sampler's unit of mass, only the likeliest word is left


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 and `min_p` 0 switch a filter off.

    Penalties come first, and change the logits of words that are there already, as in transformers and vLLM:
    repetition_penalty   of the prompt and the branch: a logit l > 0 becomes l / penalty, any other l * penalty; 1: off
    presence_penalty     is taken once from the logit of every word that the branch has written; 0: off
    frequency_penalty    is taken from it each time that the branch has written the word; 0: off
    """

    temperature: float = 0.8
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @property
    def penalises(self) -> bool:
        """Whether it matters which words were there before."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def is_greedy(self) -> bool:
        """Whether every token is the likeliest one, so that equal prompts are gone on with equally."""
        return self.temperature < LEAST_TEMPERATURE or self.top_k == 1 or self.top_p <= LEAST_SHARE


@dataclass(frozen=True, slots=True)
class Endings:
    """Which texts and tokens end a step, and which the whole solution.

    delimiters    any of these, byte by byte, ends a step; (): nothing does; None: a blank line, or one of white space,
                  outside of code fences, formulas and environments. Where something stays open, a step of half its
                  tokens ends at a blank line anyway
    stops         any of these, byte by byte, ends the solution: the first to be complete, or the first named here of
                  several that end together
    at_answer     so does the end of a line with a boxed answer, and a line that begins with "Problem:" or "Question:"
    stop_tokens   so does any of these tokens
    ignore_eos    the model's own end-of-sequence tokens do not
    include_stop  what stopped the solution, a text or a token, is part of its text
    """

    delimiters: tuple[str, ...] | None = None
    stops: tuple[str, ...] = ()
    at_answer: bool = False
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop: bool = False


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """What the model thought of a token, at temperature 1, before penalties and filters.

    rank: 1 + the words that are likelier    top: the likeliest words with their log-probabilities, as many as asked for
    """

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How one step is written: how its tokens are drawn, what ends it, and its tokens at most.

    logprobs    of every token so many likeliest words go to `Node.logprobs`; None: nothing does, which costs nothing
    confidence  of every token how sure the policy was goes to `Node.confidence`, out of the pass over the vocabulary
                that draws it; None: nothing does, which costs nothing
    min_tokens  before as many are written nothing ends it: no stop counts, and no token that would end it is drawn
    seed        of its own: child i of an expansion is the one that an expansion by 1 with seed + i gives; None: that of
                the step before, and each child has random numbers by its place in the tree
    feed        text that each child begins with, given and not drawn; special tokens may be written out
    """

    sampling: Sampling
    endings: Endings
    max_tokens: int
    logprobs: int | None = None
    confidence: ConfidenceOptions | None = None
    min_tokens: int = 0
    seed: int | None = None
    feed: str = ""


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """A wish for what the model thinks of the tokens of a prompt, from index `start` on; see `StepOptions.logprobs`."""

    most: int
    start: int = 1  # nothing comes before the first token


@dataclass(frozen=True, slots=True)
class Settings:
    """How the steps of a tree are written unless an ask says otherwise; `max_tokens` counts a whole solution."""

    sampling: Sampling = Sampling()
    endings: Endings = Endings()
    max_tokens: int = 2048
    max_step_tokens: int = 512
    limit: Cut = "tokens"  # what `max_tokens` stands for: the option, or a context that holds less
    seed: int = 0
    speculate: bool = True  # steps may be written ahead where the engine does so
    reuse: bool = True  # KV of earlier prompts and steps that begin alike is taken, and left for later ones
    states: bool = False  # `Node.states` of finished steps are kept, where the engine has a tap
    exact: bool = True  # but only where no bit of a result depends on it; else also what is cut elsewhere
    prompt_logprobs: PromptLogprobs | None = None  # of the prompt, in `logprobs` of the root
    confidence: ConfidenceOptions | None = None  # see `StepOptions`

    def step(
        self,
        sampling: Sampling | None = None,
        stop: str | Sequence[str] | None = None,
        max_tokens: int | None = None,
        feed: str | None = None,
    ) -> StepOptions:
        """The options of a step, None meaning: as here; `stop` ends the step, an empty list: nothing does.

        feed: text that it begins with; `max_tokens` counts what comes after it
        ConfigError for one that cannot work.
        """
        drawn = self.sampling if sampling is None else sampling
        if not isinstance(drawn, Sampling):
            raise ConfigError(f"sampling={drawn!r}: expected a Sampling, as in Sampling(temperature=0.8)")
        check_sampling(drawn)
        if max_tokens is not None:
            check_whole("max_tokens", max_tokens, 1)
        delimiters = check_texts("stop", stop)
        return StepOptions(
            drawn,
            self.endings if delimiters is None else replace(self.endings, delimiters=delimiters),
            self.max_step_tokens if max_tokens is None else max_tokens,
            confidence=self.confidence,
            feed="" if feed is None else check_feed(feed),
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """A question to solve. `prompt` is a string, chat messages or token ids; `answer` is the gold answer, if known.

    strategy, sampling, seed: of this problem alone; None: those of the run
    """

    id: str
    text: str
    prompt: str | Sequence[Message] | Sequence[int] | None = None  # None: `text` through the chat template
    answer: str | None = None
    seed: int | None = None
    strategy: Strategy | None = None
    sampling: Sampling | None = None


@dataclass(slots=True, eq=False)
class Node:
    """One reasoning step in the tree of a problem. The root (id 0) holds the prompt and has no score.

    A search may plant further prompts: such a node stands below a step, but the policy reads it, and what comes below
    it, as if nothing were above. Paths, branches and depths begin there anew.
    """

    id: int  # unique within its tree, in order of creation by (parent, child index)
    parent: Node | None = field(repr=False)
    index: int  # which child of its parent
    depth: int  # root and prompts 0, first step 1
    lineage: int  # 64-bit hash of the path of child indices: the key of its random numbers
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    given: int = 0  # of the tokens, the first ones that were given and not drawn
    is_prompt: bool = False  # a further prompt: `text` is its question, `tokens` are all given
    logprob: float = 0.0  # sum over the tokens that were drawn, model distribution at temperature 1
    logprobs: list[TokenLogprob] | None = None  # of each drawn token, where asked for; of the root: of the prompt
    confidence: Confidence | None = field(default=None, repr=False)  # how sure the policy was, where that was asked for
    score: float | None = None  # judge's P(good) of this step; None until scored, or when it has no text
    scores_by: dict[str, float | None] | None = None  # what each of several judges said
    states: Any = field(default=None, repr=False)  # [2 * pooled], the policy's own, until a value head has read them
    unjudged: str | None = None  # why a judge that was asked gave no score: the branch ranks last
    finish: FinishReason | None = None
    stopped_by: str | int | None = None  # the text or token of `Endings` that ended the solution
    cut: Cut | None = None  # the limit that ended the branch here
    cost: Cost = field(default_factory=Cost)
    children: list[Node] = field(default_factory=list, repr=False)
    pruned: bool = False  # given up before it was finished
    prompt_digest: str | None = None  # of root and prompts: tells them apart (see `Result.prompt_digest`)

    @property
    def path(self) -> list[Node]:
        """The steps from the first one to this, without the prompt."""
        steps: list[Node] = []
        node = self
        while node.parent is not None and not node.is_prompt:
            steps.append(node)
            node = node.parent
        return steps[::-1]

    @property
    def prompt(self) -> Node:
        """The prompt that its path begins with: the root, or one that was planted."""
        node = self
        while node.parent is not None and not node.is_prompt:
            node = node.parent
        return node

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
        """Child indices from the root, across prompts: the total order used by every tie-break."""
        indices: list[int] = []
        node = self
        while node.parent is not None:
            indices.append(node.index)
            node = node.parent
        return tuple(indices[::-1])

    @property
    def is_final(self) -> bool:
        """True when the branch ended: end of sequence or a cap. A step that stopped at its delimiter may go on."""
        return self.finish in ("eos", "length")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One finished trajectory and its extracted answer (`None`: no answer could be found)."""

    node: Node
    text: str
    answer: str | None
    scores: list[float]
    score: float | None  # aggregate of `scores`
    finish: FinishReason | None
    count: int = 1  # equal ones that it stands for, itself included
    confidence: TraceConfidence | None = None  # how sure the policy was of it, where that was asked for


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen candidate, why it was chosen, and the weight of every answer class (largest first)."""

    chosen: Candidate | None
    candidates: list[Candidate]
    votes: list[tuple[str, float]]
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What a controller chose between two waves, and what it went by.

    solutions   drawn before    right: probability that the answer they lead to is right    gain: of it, as expected of
                what was chosen, or of the best that was not worth it
    difficulty  "easy", "medium" or "hard" for this policy; "" before anything is known
    chosen      "tree", "chains", "beam", "dvts" or "stop"    n: solutions of it
    """

    solutions: int
    right: float
    gain: float
    difficulty: str
    chosen: str
    n: int
    why: str


@dataclass(slots=True)
class Result:
    """The outcome of a search. `tree` is the root node; `cost` covers everything that ran for this problem.

    A search that failed has an `error` and no answer; one that was cut short by its deadline has the best answer so
    far. `cuts` counts the branches that each limit ended (see `Cut`, and `LIFTS` for what to raise), `equal` those that
    went on beside one of the same text (see `State.equal`), `unjudged` steps that a judge gave no score, by the reason.
    `confidence` is the probability that the answer is right, `calibrated` whether it was measured on problems like
    these or is a rule of thumb. `decisions` are those of a controller.
    """

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
    cuts: dict[Cut, int] = field(default_factory=dict)
    equal: int = 0
    unjudged: dict[str, int] = field(default_factory=dict)
    confidence: float | None = None
    calibrated: bool = False
    decisions: list[Decision] = field(default_factory=list)
    error: BranchwiseError | None = None

    @property
    def prompt_digest(self) -> str | None:
        """BLAKE2b of the token ids that the policy started from; None where it did not start."""
        return self.tree.prompt_digest


Grader = Callable[[str | None, str], bool | Future[bool]]
"""Whether an answer equals the gold answer, or the promise to say so."""
