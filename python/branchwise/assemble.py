"""From engine options to a policy and a judge that are ready: checkpoints, backends, memory."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from branchwise import _C, env
from branchwise.backend.base import Backend, WeightCache
from branchwise.backend.memory import return_freed
from branchwise.backend.select import open_backend
from branchwise.chat_options import NO_OPTIONS, ChatOptions
from branchwise.config import EngineConfig, ResolvedConfig
from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import KvCache
from branchwise.engine.memory import LOWER, Home, check_memory, kv_blocks, resolve_dtype
from branchwise.engine.tap import NO_TAP
from branchwise.errors import ConfigError
from branchwise.models.decoder import Decoder
from branchwise.models.load import load_decoder
from branchwise.pair.judges import OwnJudge, check_rule, make_judge
from branchwise.pair.protocol import Judge
from branchwise.scoring.generating import GeneratingJudge
from branchwise.scoring.implicit import ImplicitJudge
from branchwise.scoring.likelihood import LikelihoodScorer
from branchwise.scoring.prm import Prm, load_likelihood, load_prm
from branchwise.scoring.scorer import Scorer
from branchwise.scoring.value_head import ValueHead
from branchwise.strategies.options import nearest
from branchwise.text.chat import check_options
from branchwise.text.tokenizer import Tokenizer
from branchwise.weights import open_checkpoint
from branchwise.weights.checkpoint import Checkpoint
from branchwise.weights.identity import identity
from branchwise.weights.recommended import Recommended

SMALLER = "take a smaller model, or a device with more room (device, prm_device),"


@dataclass(frozen=True, slots=True)
class Models:
    """What an engine runs."""

    policy: StepEngine
    judge: Judge | None
    chat: ChatOptions
    recommended: Recommended
    resolved: ResolvedConfig


@dataclass(frozen=True, slots=True)
class Place:
    """A device, and what models there have in common."""

    backend: Backend
    dtype: torch.dtype
    cache: WeightCache | None

    def told(self) -> tuple[str, str, str]:
        """Device, kernels and dtype, as `ResolvedConfig` has them."""
        return str(self.backend.device), self.backend.kernels(), str(self.dtype).removeprefix("torch.")

    def kv(self, models: Sequence[Decoder], kv_memory: int | None) -> tuple[list[KvCache], int]:
        """A cache for each model, all of as many blocks, so that they hold the same problems; and bytes of them all."""
        memory = self.backend.kv_budget() if kv_memory is None else kv_memory
        blocks = kv_blocks([model.config for model in models], self.dtype, self.backend, memory)

        def made() -> list[KvCache]:
            return [KvCache(model.config, blocks, self.dtype, self.backend, memory) for model in models]

        return self.backend.with_memory(made, f"lower kv_memory, which is {memory / 2**20:,.0f} MiB"), memory


def load_models(
    policy: str, prm: str | None, config: EngineConfig, judges: Sequence[OwnJudge] = (), rule: str | None = None
) -> Models:
    """Read all models, each to its device, and give them KV. judges: beside the PRM, in their order; rule: see `RULES`.

    ConfigError: several judges without a rule, or a rule without several.
    """
    check_rule(judges if prm is None else [prm, *judges], rule)
    check_isa()
    threads = config.threads if config.threads is not None else env.threads()
    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = open_checkpoint(policy)
    head = next((each for each in judges if isinstance(each, ValueHead)), None)
    if head is not None:
        head.check(identity(checkpoint), policy)
    judge_checkpoint = open_checkpoint(prm) if prm is not None else None
    gc.collect()  # engines that nobody holds: an error's frames may have made cycles of them
    places = _places(config, checkpoint, judge_checkpoint)
    place, judge_place = places[0], places[-1]
    tokenizer = checkpoint.tokenizer()
    chat = ChatOptions.make(config.date, config.chat_template_kwargs)
    check_options(tokenizer, chat)
    return_freed()
    model = _load_decoder(checkpoint, place, config)
    tokenizer.check_fits(model.config.vocab_size, checkpoint.source)
    if head is not None:
        head.check_states(model.config.n_layers, model.config.hidden_size)
    prm_model = None if judge_checkpoint is None else _load_prm(judge_checkpoint, judge_place, config)
    others = [_load_own(each, place, config, model, tokenizer) for each in judges]
    judged = [] if prm_model is None else [prm_model.model]
    beside = [part.model for parts in others for part in parts]
    if judge_place is place:
        (kv, *other_kv), memory = place.kv([model, *judged, *beside], config.kv_memory)
    else:
        (kv, *other_kv), memory = place.kv([model, *beside], config.kv_memory)
        judge_kv, judge_memory = judge_place.kv(judged, config.kv_memory)
        other_kv, memory = judge_kv + other_kv, memory + judge_memory
    engine = partial(
        StepEngine, model, tokenizer, kv, max_rows=config.max_rows, prefill_rows=config.prefill_rows,
        speculate=config.speculate, source=policy, tap=NO_TAP if head is None else head.tap,
    )  # fmt: skip
    steps = place.backend.with_memory(engine, LOWER)
    scorer = None
    if prm_model is not None:
        made = partial(Scorer, prm_model, other_kv.pop(0), batch_rows=config.prefill_rows)
        scorer = judge_place.backend.with_memory(made, LOWER)
    ready = [[_ready(part, other_kv.pop(0), config) for part in parts] for parts in others]
    notes = [note for note in (prm_model and prm_model.note,) if note]
    resolved = ResolvedConfig(
        *place.told(), *judge_place.told(), config.weights, kv.n_blocks,
        scorer.kv.n_blocks if scorer is not None else 0, memory, torch.get_num_threads(), chat.date, tuple(notes),
    )  # fmt: skip
    judge = make_judge(scorer, judges, ready, rule, steps)
    return Models(steps, judge, chat, checkpoint.recommended(), resolved)


def _load_decoder(checkpoint: Checkpoint, place: Place, config: EngineConfig) -> Decoder:
    load = partial(load_decoder, checkpoint, place.dtype, place.backend, weights=config.weights, cache=place.cache)
    return place.backend.with_memory(load, f"{SMALLER} for {checkpoint.source}")


def _load_prm(checkpoint: Checkpoint, place: Place, config: EngineConfig) -> Prm:
    load = partial(
        load_prm, checkpoint, place.dtype, place.backend, config.prm_format, config.weights, place.cache
    )  # fmt: skip
    prm = place.backend.with_memory(load, f"{SMALLER} for {checkpoint.source}")
    check_options(prm.tokenizer, NO_OPTIONS)
    return prm


@dataclass(frozen=True, slots=True)
class Writer:
    """A model that a judge lets write."""

    model: Decoder
    tokenizer: Tokenizer


def _load_own(
    judge: OwnJudge, place: Place, config: EngineConfig, policy: Decoder, tokenizer: Tokenizer
) -> list[Writer | Prm]:
    """The models of a judge that is no PRM; one that writes has the policy's own where none is named."""
    if isinstance(judge, ImplicitJudge):
        return _load_ratio(judge, place, config)
    if not isinstance(judge, GeneratingJudge):
        return []
    if judge.model is None:
        return [Writer(policy, tokenizer)]
    checkpoint = open_checkpoint(str(judge.model))
    words = checkpoint.tokenizer()
    check_options(words, NO_OPTIONS)
    check_memory([Home(place.backend, place.dtype, {"judge": checkpoint})], config.weights, config.kv_memory)
    return [Writer(_load_decoder(checkpoint, place, config), words)]


def _load_ratio(judge: ImplicitJudge, place: Place, config: EngineConfig) -> list[Writer | Prm]:
    """Both models of an implicit PRM, which read what the first one's tokenizer writes. ConfigError: others do not."""
    model, reference = (open_checkpoint(str(each)) for each in (judge.model, judge.reference))
    tokenizer = model.tokenizer()
    check_options(tokenizer, NO_OPTIONS)
    if not tokenizer.same_words(reference.tokenizer()):
        raise ConfigError(
            f"the implicit PRM {model.source} and its reference {reference.source} have different vocabularies: name"
            " the model that it was trained from"
        )
    check_memory(
        [Home(place.backend, place.dtype, {"judge": model, "reference": reference})], config.weights, config.kv_memory
    )
    return [
        place.backend.with_memory(
            partial(
                load_likelihood, each, place.dtype, place.backend, judge.layout, tokenizer, config.weights, place.cache
            ),
            f"{SMALLER} for {each.source}",
        )
        for each in (model, reference)
    ]


def _ready(part: Writer | Prm, kv: KvCache, config: EngineConfig) -> StepEngine | LikelihoodScorer:
    """A model of a judge, on a cache of its own."""
    if isinstance(part, Prm):
        return LikelihoodScorer(part, kv, batch_rows=config.prefill_rows)
    return StepEngine(part.model, part.tokenizer, kv, max_rows=config.max_rows, prefill_rows=config.prefill_rows)


def homes(device: str, prm_device: str | None, dtype: str, policy: Checkpoint, prm: Checkpoint | None) -> list[Home]:
    """Where policy and PRM shall live: in one place, or in two if the PRM was given a device of its own."""
    backend = open_backend(device)
    own = backend if prm_device is None else open_backend(prm_device, "prm_device")
    judge = {} if prm is None else {"PRM": prm}
    if prm is None or (own.name, own.device) == (backend.name, backend.device):
        return [Home(backend, resolve_dtype(dtype, policy, backend), {"policy": policy} | judge)]
    return [
        Home(backend, resolve_dtype(dtype, policy, backend), {"policy": policy}),
        Home(own, resolve_dtype(dtype, prm, own), judge),
    ]


def _places(config: EngineConfig, policy: Checkpoint, prm: Checkpoint | None) -> list[Place]:
    """The homes of policy and PRM, as far as they differ. OutOfMemory: they cannot live there."""
    found = homes(config.device, config.prm_device, config.dtype, policy, prm)
    check_memory(found, config.weights, config.kv_memory)
    folder = config.weight_cache
    caches = [None if folder is None else home.backend.weight_cache(folder) for home in found]
    return [Place(home.backend, home.dtype, cache) for home, cache in zip(found, caches, strict=True)]


def make_config(config: EngineConfig | None, options: dict[str, Any]) -> EngineConfig:
    """`config` with `options` on top. ConfigError names the nearest valid option for an unknown one."""
    if config is not None and not isinstance(config, EngineConfig):
        raise ConfigError(f"config={config!r}: expected an EngineConfig, as in EngineConfig(max_rows=64)")
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
