"""The public engine: one service under searches, trees grown by hand and their scores."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from branchwise.answers.grade import Grader as AnswerGrader
from branchwise.assemble import load_models, make_config
from branchwise.completions import Completion, Likelihood, Piece, Prompt
from branchwise.config import SAMPLING, EngineConfig, check_flag, check_sampling, check_seed, check_texts
from branchwise.control.budget import take_budget, within
from branchwise.control.knowledge import outlook_of
from branchwise.engine.engine import StepEngine
from branchwise.errors import ConfigError
from branchwise.pair.judges import read_judges
from branchwise.pair.pair import ModelPair
from branchwise.pair.prompts import INSTRUCTION
from branchwise.scoring.confidence import telling
from branchwise.search.by_hand import Opening, StepTree, await_all, expand_all, wait_for
from branchwise.search.completion_call import Completions, Defaults
from branchwise.search.driver import positive_seconds, run, submit
from branchwise.search.likelihood import as_likelihood, submit_likelihoods
from branchwise.search.problems import as_problem, prompt_problem
from branchwise.search.process import enter
from branchwise.search.protocol import Callback
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions, demand_of
from branchwise.search.step_scores import submit_solution, submit_texts
from branchwise.search.streaming import stream
from branchwise.search.ticket import Ticket
from branchwise.strategies.auto import informed
from branchwise.strategies.equal import without_chance
from branchwise.strategies.options import check_count
from branchwise.strategies.protocol import Demand, Strategy
from branchwise.strategies.registry import make_strategy
from branchwise.text.pieces import Pieces
from branchwise.types import Endings, Message, Node, Problem, Result, Sampling, Settings

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from branchwise.call_options import EngineOptions, ManyOptions, SolveOptions, StrategyOptions

_CAPS = ("max_tokens", "max_step_tokens", "confidence_top", "confidence_window")
_ENDINGS = ("delimiter", "stop", "end_at_answer")


class Engine:
    """A policy model and, for strategies that use scores, a process reward model, ready to search.

    policy, prm   folder, `.gguf` file or hub id; without a policy the bundled arithmetic pair is used
    judge         what scores steps beside the PRM or in its place, one or a list: a function of (question, branches), a
                  `...Judge`, a `ValueHead` or its .safetensors, "confidence" (the policy's); other texts are PRMs
    judge_rule    what becomes of the scores of several: "product", "mean", "min" or "first"
    instruction   system message of every question; "" for none. Ignored for prompts given as messages or ids
    options       fields of `EngineConfig`: dtype, kv_memory, max_rows, max_tokens, temperature, seed, ...

    Any number of searches and trees may run at once, from any thread or event loop; each result is what it would be
    alone. Raises ConfigError, CheckpointError, TokenizerError or OutOfMemory, each saying what to change.
    """

    def __init__(
        self,
        policy: str | Path | None = None,
        prm: str | Path | None = None,
        *,
        judge: Any = None,
        judge_rule: str | None = None,
        instruction: str | None = None,
        config: EngineConfig | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        enter()
        if instruction is not None and not isinstance(instruction, str):
            raise ConfigError(f"instruction={instruction!r}: expected the text of a system message, '' for none")
        prm, judges = read_judges(judge, prm)
        if policy is None:
            from branchwise.assets import asset_path

            policy, prm = asset_path("policy-small"), asset_path("prm") if prm is None and not judges else prm
            instruction = instruction or ""
        self.config = telling(make_config(config, dict(options)), judges)
        models = load_models(str(policy), None if prm is None else str(prm), self.config, judges, judge_rule)
        self.resolved = models.resolved
        enter(self.resolved.threads)
        self.recommended = models.recommended  # how the policy's makers would sample: never applied
        text = INSTRUCTION if instruction is None else instruction
        pair = ModelPair(models.policy, models.judge, instruction=text, chat=models.chat)
        # Every thread that runs kernels has a count of workers of its own.
        self._service = Service(pair, partial(torch.set_num_threads, self.resolved.threads))
        self._grader = AnswerGrader()
        weights = self.policy.model.config.matmul_parameters / 1e9
        count = len(judges) + (prm is not None)
        self._outlook = outlook_of(self.config, policy, prm, judges=count, billions=weights)
        stops, words = check_texts("stop", self.config.stop) or (), self.policy.model.config.vocab_size
        defaults = Defaults(self.sampling(), stops, words, self.config)
        self._completions = Completions(self._service, defaults)

    # --- searches ----------------------------------------------------------------------------------------------

    def solve(
        self, question: str | Problem, strategy: str | Strategy = "beam", **options: Unpack[SolveOptions]
    ) -> Result:  # fmt: skip
        """Search for the answer of one question; options as in `submit`. Raises what made the search fail."""
        return wait_for([self.submit(question, strategy, **options)])[0]

    async def asolve(
        self, question: str | Problem, strategy: str | Strategy = "beam", **options: Unpack[SolveOptions]
    ) -> Result:  # fmt: skip
        """As `solve`, without blocking the event loop. Cancelled, it frees its rows and KV at the next step."""
        return await self.submit(question, strategy, **options)

    def submit(
        self,
        question: str | Problem,
        strategy: str | Strategy = "beam",
        *,
        deadline: float | None = None,
        on_event: Callback | None = None,
        seed: int | None = None,
        **options: Unpack[StrategyOptions],
    ) -> Ticket[Result]:
        """Queue a search and return its ticket, to be waited for with `.result()` or `await`.

        strategy: a name with its options (`n=16, expand=4, ...`) or an instance
        deadline: seconds from now, after which the best answer so far is taken (`Result.cuts` counts "time")
        on_event: called with a `Progress` in the thread that runs the service
        Further options: those of `Sampling` (temperature, top_p, ...), and as of the engine delimiter, stop,
        end_at_answer, max_tokens, max_step_tokens, confidence_top, confidence_window; reuse=False: as if there were no
        `prefix_cache`.
        """
        made = self._search_options(strategy, on_event, seed, dict(options))
        until = None if deadline is None else time.monotonic() + positive_seconds(deadline)
        return submit(self._service, as_problem(question), replace(made, deadline=until))

    def solve_many(
        self,
        problems: Iterable[str | Problem],
        strategy: str | Strategy = "beam",
        *,
        max_in_flight: int | None = None,
        deadline: float | None = None,
        on_event: Callback | None = None,
        seed: int | None = None,
        **options: Unpack[ManyOptions],
    ) -> Iterator[Result]:
        """Search many problems at once and yield each result as its search ends; options as in `submit`.

        deadline: seconds for each problem, from when it is taken. A problem that fails has a result with an `error`.
        A result depends on its problem and seed alone, not on what else runs.
        budget_tokens, budget_flops: of all problems together, spent by the strategy "auto" where they gain most (see
            `control.budget`); results come when it is spent. waves: file of what was drawn, to go on from
        """
        others: dict[str, Any] = dict(options)
        budget, waves = take_budget(others)
        made = self._search_options(strategy, on_event, seed, others)
        strategy = without_chance(made.strategy) if made.settings.sampling.is_greedy else made.strategy
        branches = demand_of(strategy, made.settings).branches
        most = max_in_flight if max_in_flight is not None else max(1, self.config.max_rows // branches)
        seconds = None if deadline is None else positive_seconds(deadline)
        if budget is None:
            return run(problems, self._service, made, max_in_flight=most, seconds=seconds)
        return within(budget, problems, self._service, made, self._grader.grade, most, seconds, waves)

    def cancel(self, ticket: Ticket[Any]) -> bool:
        """Give a ticket up; its rows and KV are free at the next step. False when it has ended already."""
        if not isinstance(ticket, Ticket):
            raise ConfigError(f"cancel was given {ticket!r}: expected a ticket, as submit returns")
        self._service.home.check()
        return ticket.cancel()

    # --- trees grown by hand -----------------------------------------------------------------------------------

    def open(
        self, prompt: str | Sequence[Message] | Sequence[int], *, branches: int = 16, seed: int | None = None,
        reuse: bool = True,
    ) -> StepTree:  # fmt: skip
        """Open a tree under a prompt, to be grown by hand: the step-level backend for other frameworks.

        prompt: a question (through the chat template), chat messages or token ids
        branches: that grow at once, as `cost.occupancy` counts; any number may
        While nothing is in flight in it its KV may make room for others: it is computed again when it is needed.
        reuse: False: as if there were no `prefix_cache`
        """
        return wait_for([self._open(prompt, branches, seed, reuse)])[0]

    async def aopen(
        self, prompt: str | Sequence[Message] | Sequence[int], *, branches: int = 16, seed: int | None = None,
        reuse: bool = True,
    ) -> StepTree:  # fmt: skip
        """As `open`, without blocking the event loop."""
        return await self._open(prompt, branches, seed, reuse)

    def _open(
        self, prompt: str | Sequence[Message] | Sequence[int], branches: int, seed: int | None, reuse: bool
    ) -> Ticket[StepTree]:
        check_count("open", "branches", branches)
        problem = prompt_problem(prompt)
        settings = self._settings({"reuse": reuse}, seed)
        settings = replace(settings, speculate=False)  # every call may sample in its own way
        demand = Demand(branches, 0, None, self._service.pair.scores)
        return self._service.submit(Opening(self._service, problem, demand, settings))

    def expand_many(self, entries: Iterable[Sequence[Any]], **options: Any) -> list[list[Node]]:
        """Expand nodes of many trees in one batch; the children of every entry.

        entries: `(tree, node, n)`, or `(tree, node, n, {...})` with options of its own; options as in `StepTree.expand`
        An entry that fails raises its error; others that were done by then keep their children.
        """
        return wait_for(expand_all(entries, options))

    async def aexpand_many(self, entries: Iterable[Sequence[Any]], **options: Any) -> list[list[Node]]:
        """As `expand_many`, without blocking the event loop."""
        return await await_all(expand_all(entries, options))

    # --- completions -------------------------------------------------------------------------------------------

    def complete(self, prompts: Prompt | Iterable[Prompt], n: int = 1, **options: Any) -> list[Completion]:
        """`n` samples of each prompt, all in the same batches: one `Completion` a prompt, in order.

        prompts: one or many; each a text, taken as it is (special tokens may be written out, BOS comes first where the
            model wants it), token ids, or chat messages, which go through the chat template (a last message of the
            assistant is gone on with). Equal ones are fed once
        stop: text that ends a sample, or several: the first to be complete counts, from the first character on and also
            across tokens; it is no part of `text`. None: the engine's `stop`; []: none. Blank lines end nothing
        stop_token_ids: tokens that do the same    include_stop: the text ends behind what stopped it
        ignore_eos: the model's own end is a token like any other
        min_tokens: first tokens in which no stop counts, and among which none is that would end the sample
        max_tokens: at most, within the context; None: the engine's    temperature, top_p, ...: see `Sampling`
        seed: sample i is that of n=1 with seed + i; None: another one for each prompt of each call, from the engine's
            seed; `Completion.seed` tells it
        logprobs: of every token its log-probability (temperature 1, before filters), its rank and so many likeliest
            words, 20 at most, in `Sample.logprobs`    prompt_logprobs: the same of the prompt
        confidence_top, confidence_window: how sure the policy was of each sample; None: the engine's
        reuse: False: as if there were no `prefix_cache`. With it bits depend, by rounding, on where KV that was there
            is cut; `cost.cached_tokens` says how much that was

        At temperature 0 all samples are equal: one is computed, the others are its `repeat`. A prompt that fails raises
        its error, and the others are given up: `submit_completion` keeps them apart.
        """
        call = self._completions.submit(prompts, n, options)
        return call.in_order(wait_for(call.tickets))

    async def acomplete(self, prompts: Prompt | Iterable[Prompt], n: int = 1, **options: Any) -> list[Completion]:
        """As `complete`, without blocking the event loop. Cancelled, it frees its rows and KV at the next step."""
        call = self._completions.submit(prompts, n, options)
        return call.in_order(await await_all(call.tickets))

    def astream(self, prompt: Prompt, n: int = 1, **options: Any) -> AsyncIterator[Piece]:
        """The samples of one prompt while they are written: `async for piece in engine.astream(...)`.

        Options as in `complete`. A piece is text that will not change: whole characters, and nothing that may still
        become part of a stop. The last piece of each sample brings the `Sample`. Left early, or cancelled, it frees its
        rows and KV at the next step.
        """
        wanted, tokenizer = self._completions.one(prompt, n, options), self.policy.tokenizer
        return stream(self._service, wanted, lambda: Pieces(tokenizer, wanted.options.endings))

    def submit_completion(self, prompt: Prompt, n: int = 1, **options: Any) -> Ticket[Completion]:
        """Queue the samples of one prompt and return its ticket, whatever becomes of others; options as `complete`."""
        return self._completions.submit_one(prompt, n, options)

    def log_likelihoods(self, pairs: Iterable[Sequence[Any]], *, reuse: bool = True) -> list[Likelihood]:
        """What the policy thinks of given continuations: one `Likelihood` for each (context, continuation).

        Both are texts or token ids; a text is cut into tokens behind its context. Contexts that pairs share are fed
        once, unless `reuse` is False.
        """
        tickets = submit_likelihoods(self._service, self.policy.tokenizer, pairs, reuse=reuse)
        return [as_likelihood(completion) for completion in wait_for(tickets)]

    async def alog_likelihoods(self, pairs: Iterable[Sequence[Any]], *, reuse: bool = True) -> list[Likelihood]:
        """As `log_likelihoods`, without blocking the event loop."""
        tickets = submit_likelihoods(self._service, self.policy.tokenizer, pairs, reuse=reuse)
        return [as_likelihood(completion) for completion in await await_all(tickets)]

    # --- scores of given texts ---------------------------------------------------------------------------------

    def score_steps(
        self, requests: Iterable[tuple[str, Sequence[str]]], *, reuse: bool = True
    ) -> list[list[float | None]]:
        """P(good) of every step of texts that the policy did not write: `[(question, [step, step, ...]), ...]`.

        The number of a step is what a search gives the same text after the same steps, bit for bit; None: white space
        alone. What requests of one question begin with is scored once. reuse: False: as if there were no `prefix_cache`
        ConfigError without a PRM. InputError: what is no text or empty, too long for the PRM, or not to be kept apart
        by its tokenizer; the others are given up then: `submit_step_scores` keeps them apart.
        """
        call = submit_texts(self._service, requests, reuse=self._reuse(reuse))
        return call.in_order(wait_for(call.tickets))

    async def ascore_steps(
        self, requests: Iterable[tuple[str, Sequence[str]]], *, reuse: bool = True
    ) -> list[list[float | None]]:
        """As `score_steps`, without blocking the event loop."""
        call = submit_texts(self._service, requests, reuse=self._reuse(reuse))
        return call.in_order(await await_all(call.tickets))

    def submit_step_scores(
        self, question: str, steps: Sequence[str], *, reuse: bool = True
    ) -> Ticket[list[float | None]]:
        """Queue the steps of one solution and return their ticket, whatever becomes of others."""
        return submit_solution(self._service, question, steps, reuse=self._reuse(reuse))

    # --- its life ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run everything in a background thread from now on."""
        self._service.start()

    def stop(self) -> None:
        """End the background thread; what is open goes on when somebody waits for it, or at `start`."""
        self._service.stop()

    def close(self) -> None:
        """Free models, KV and threads, and stop the grading process. The engine is of no use afterwards."""
        self._service.close()
        self._grader.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._service.home.is_here:
            self.close()

    @property
    def pair(self) -> ModelPair:
        """The policy and the judge as the service sees them. EngineStateError: the engine is closed."""
        pair = self._service.pair
        assert isinstance(pair, ModelPair)
        return pair

    @property
    def policy(self) -> StepEngine:
        """The step engine: rows, forest, KV and statistics."""
        return cast(StepEngine, self.pair.policy)

    @property
    def judge(self) -> Any:
        """What scores steps, None where nothing does: the PRM with its KV (`Scorer`), or another `Judge`."""
        return self.pair.judge

    # --- options -----------------------------------------------------------------------------------------------

    def sampling(self, **options: float) -> Sampling:
        """The engine's sampling with some numbers replaced. ConfigError for one that cannot work."""
        for name in options:
            if name not in SAMPLING:
                raise ConfigError(f"sampling has no option {name!r}: it has {', '.join(SAMPLING)}")
        sampling = Sampling(**{name: getattr(self.config, name) for name in SAMPLING} | options)
        check_sampling(sampling)
        return sampling

    def _settings(self, options: dict[str, Any], seed: int | None) -> Settings:
        """The settings of a tree; takes what it knows out of `options`."""
        config = self.config
        sampling = self.sampling(**{name: options.pop(name) for name in SAMPLING if name in options})
        given = {name: options.pop(name) for name in (*_CAPS, *_ENDINGS) if name in options}
        config = replace(config, **{name: value for name, value in given.items() if value is not None})  # checked
        if seed is not None:
            check_seed(seed)
        reuse = self._reuse(options.pop("reuse", True))
        return Settings(
            sampling, self._endings(config), config.max_tokens, config.max_step_tokens,
            seed=config.seed if seed is None else seed, reuse=reuse, confidence=config.confidence,
        )  # fmt: skip

    def _reuse(self, wish: object) -> bool:
        check_flag("reuse", wish)
        return bool(wish) and self.config.prefix_cache

    def _endings(self, config: EngineConfig) -> Endings:
        at_answer = config.end_at_answer
        if at_answer is None:
            at_answer = self.policy.tokenizer.chat_template is None
        return Endings(check_texts("delimiter", config.delimiter), check_texts("stop", config.stop) or (), at_answer)

    def _search_options(
        self, strategy: str | Strategy, on_event: Callback | None, seed: int | None, options: dict[str, Any]
    ) -> SearchOptions:
        settings = self._settings(options, seed)
        chosen = informed(make_strategy(strategy, **options), self._outlook)
        if on_event is not None and not callable(on_event):
            raise ConfigError(f"on_event={on_event!r}: expected a function that takes a Progress")
        if demand_of(chosen, settings).scores and not self._service.pair.scores:
            raise ConfigError(
                f"strategy {chosen.name!r} needs step scores: give the engine a PRM with prm=..., or another judge with"
                " judge=..."
            )
        return SearchOptions(chosen, settings, on_event, self._grader.submit, outlook=self._outlook)
