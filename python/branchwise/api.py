"""The public engine: a facade over step engine, PRM scoring and search."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from branchwise import _C, env
from branchwise.answers.grade import Grader as AnswerGrader
from branchwise.backend.memory import return_freed
from branchwise.backend.select import open_backend
from branchwise.config import EngineConfig, ResolvedConfig, check_sampling
from branchwise.engine.branch import StepLimits
from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import KvCache
from branchwise.engine.memory import check_weights, kv_blocks, resolve_dtype
from branchwise.errors import ConfigError
from branchwise.models.load import load_decoder
from branchwise.scoring.prm import load_prm
from branchwise.scoring.scorer import Scorer
from branchwise.search.driver import run
from branchwise.search.registry import make_strategy
from branchwise.search.scored_engine import ScoredEngine
from branchwise.search.step_engine import Callback
from branchwise.step_tree import StepTree
from branchwise.types import Message, Problem, Result, Sampling, Strategy
from branchwise.weights import open_checkpoint

INSTRUCTION = (
    "Solve the problem step by step. Put a blank line between steps, and end with the final answer in \\boxed{}."
)
_SAMPLING_OPTIONS = ("temperature", "top_p", "top_k", "min_p")


class Engine:
    """A policy model and, for strategies that use scores, a process reward model, ready to search.

    policy, prm   folder, `.gguf` file or hub id; without a policy the bundled arithmetic pair is used
    instruction   system message of every question; "" for none. Ignored for prompts given as messages or ids
    options       fields of `EngineConfig`: dtype, kv_memory, max_rows, max_tokens, temperature, seed, ...

    Raises ConfigError, CheckpointError, TokenizerError or OutOfMemory, each saying what to change.
    """

    def __init__(
        self,
        policy: str | Path | None = None,
        prm: str | Path | None = None,
        *,
        instruction: str | None = None,
        config: EngineConfig | None = None,
        **options: Any,
    ) -> None:
        if policy is None:
            from branchwise.assets import asset_path

            policy, prm = asset_path("policy-small"), prm or asset_path("prm")
            instruction = instruction or ""
        self.config = make_config(config, options)
        check_isa()
        threads = self.config.threads or env.threads()
        if threads is not None:
            torch.set_num_threads(threads)
        self._load(str(policy), None if prm is None else str(prm))
        limits = StepLimits(self.config.max_tokens, self.config.max_step_tokens)
        text = INSTRUCTION if instruction is None else instruction
        self.backend = ScoredEngine(
            self.steps, self.scorer, limits=limits, delimiter=self.config.delimiter, instruction=text
        )
        self._grader: AnswerGrader | None = None

    def _load(self, policy: str, prm: str | None) -> None:
        """Read both models, then divide the KV budget so that both can hold the same problems."""
        config = self.config
        backend = open_backend(config.device)
        checkpoint = open_checkpoint(policy)
        judge_checkpoint = open_checkpoint(prm) if prm is not None else None
        dtype = resolve_dtype(config.dtype, checkpoint, backend)
        given = [each for each in (checkpoint, judge_checkpoint) if each is not None]
        cache = None if config.weight_cache is None else backend.weight_cache(config.weight_cache)
        check_weights(backend, given, dtype, config.weights)
        tokenizer = checkpoint.tokenizer()
        return_freed()
        model = load_decoder(checkpoint, dtype, backend, weights=config.weights, cache=cache)
        judge = None
        if judge_checkpoint is not None:
            judge = load_prm(judge_checkpoint, dtype, backend, config.prm_format, config.weights, cache)
        memory = backend.kv_budget() if config.kv_memory is None else config.kv_memory
        configs = [model.config] + ([judge.model.config] if judge is not None else [])
        blocks = kv_blocks(configs, dtype, backend, memory)
        kv = KvCache(model.config, blocks, dtype, backend, memory)
        self.steps = StepEngine(
            model, tokenizer, kv, max_rows=config.max_rows, prefill_rows=config.prefill_rows, speculate=config.speculate
        )
        self.scorer: Scorer | None = None
        if judge is not None:
            judge_kv = KvCache(judge.model.config, blocks, dtype, backend, memory)
            self.scorer = Scorer(judge, judge_kv, batch_rows=config.prefill_rows)
        judge_blocks = blocks if judge is not None else 0
        name = str(dtype).removeprefix("torch.")
        self.resolved = ResolvedConfig(
            str(backend.device), name, config.weights, blocks, judge_blocks, memory, torch.get_num_threads()
        )

    def solve(self, question: str | Problem, strategy: str | Strategy = "beam", **options: Any) -> Result:
        """Search for the answer of one question; options as in `solve_many`."""
        return next(iter(self.solve_many([question], strategy, **options)))

    def solve_many(
        self,
        problems: Iterable[str | Problem],
        strategy: str | Strategy = "beam",
        *,
        max_in_flight: int | None = None,
        seed: int | None = None,
        on_event: Callback | None = None,
        **options: Any,
    ) -> Iterator[Result]:
        """Search many problems at once and yield each result as its search ends.

        strategy: a name with its options (`n=16, expand=4, ...`) or an instance. Further options: temperature, top_p,
        top_k, min_p. A result depends on its problem and seed alone, not on what else runs.
        """
        sampling = self.sampling(**{name: options.pop(name) for name in _SAMPLING_OPTIONS if name in options})
        chosen = make_strategy(strategy, **options)
        if chosen.uses_scores and self.scorer is None:
            raise ConfigError(f"strategy {chosen.name!r} needs step scores: give the engine a PRM with prm=...")
        in_flight = max_in_flight if max_in_flight is not None else max(1, self.config.max_rows // chosen.n)
        return run(
            (as_problem(problem) for problem in problems),
            chosen,
            self.backend,
            max_in_flight=in_flight,
            sampling=sampling,
            seed=self.config.seed if seed is None else seed,
            on_event=on_event,
            grade=self._grade,
        )

    def open(
        self, prompt: str | Sequence[Message] | Sequence[int], *, branches: int = 16, seed: int | None = None
    ) -> StepTree:
        """Open a tree under a prompt, to be grown by hand: the step-level backend for other frameworks.

        prompt: a question (through the chat template), chat messages or token ids    branches: alive at most
        """
        if isinstance(prompt, str):
            problem = as_problem(prompt)
        else:
            problem = Problem(id=_digest(repr(prompt)), text=_last_text(prompt), prompt=prompt)
        seed = self.config.seed if seed is None else seed
        return StepTree(self.backend, problem, branches, self.sampling(), seed)

    def sampling(self, **options: float) -> Sampling:
        """The engine's sampling with some numbers replaced. ConfigError for one that cannot work."""
        config = self.config
        sampling = Sampling(config.temperature, config.top_p, config.top_k, config.min_p)
        sampling = replace(sampling, **options)  # type: ignore[arg-type]
        check_sampling(sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p)
        return sampling

    def _grade(self, answer: str | None, gold: str) -> bool:
        if self._grader is None:
            self._grader = AnswerGrader()
        return self._grader(answer, gold)

    def close(self) -> None:
        """Stop the grading process, if one was started. The engine can be used again afterwards."""
        if self._grader is not None:
            self._grader.close()
            self._grader = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_config(config: EngineConfig | None, options: dict[str, Any]) -> EngineConfig:
    """`config` with `options` on top. ConfigError names the nearest valid option for an unknown one."""
    from branchwise.search.options import nearest

    known = list(EngineConfig.__dataclass_fields__)
    for name in options:
        if name not in known:
            raise ConfigError(f"unknown engine option {name!r}: known are {', '.join(known)}{nearest(name, known)}")
    return replace(config or EngineConfig(), **options)


def check_isa() -> None:
    """Raise ConfigError when BRANCHWISE_CPU_ISA names kernels that do not exist or cannot run here."""
    try:
        _C.isa()
    except ValueError as error:
        raise ConfigError(str(error)) from None


def as_problem(problem: str | Problem) -> Problem:
    """A question as a `Problem`, with the digest of its text as its id."""
    return Problem(id=_digest(problem), text=problem) if isinstance(problem, str) else problem


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _last_text(prompt: Sequence[Any]) -> str:
    """What the PRM is told of a prompt given as messages: the last user turn."""
    users = [message["content"] for message in prompt if isinstance(message, dict) and message.get("role") == "user"]
    return str(users[-1]) if users else ""
