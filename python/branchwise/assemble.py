"""From engine options to a policy and a judge that are ready: checkpoints, backends, memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from branchwise import _C, env
from branchwise.backend.memory import return_freed
from branchwise.backend.select import open_backend
from branchwise.chat_options import NO_OPTIONS, ChatOptions
from branchwise.config import EngineConfig, ResolvedConfig
from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import KvCache
from branchwise.engine.memory import check_memory, kv_blocks, resolve_dtype
from branchwise.errors import ConfigError
from branchwise.models.load import load_decoder
from branchwise.scoring.prm import load_prm
from branchwise.scoring.scorer import Scorer
from branchwise.strategies.options import nearest
from branchwise.text.chat import check_options
from branchwise.weights import open_checkpoint
from branchwise.weights.recommended import Recommended


@dataclass(frozen=True, slots=True)
class Models:
    """What an engine runs."""

    policy: StepEngine
    judge: Scorer | None
    chat: ChatOptions
    recommended: Recommended
    resolved: ResolvedConfig


def load_models(policy: str, prm: str | None, config: EngineConfig) -> Models:
    """Read both models, then divide the KV budget so that both can hold the same problems."""
    check_isa()
    threads = config.threads if config.threads is not None else env.threads()
    if threads is not None:
        torch.set_num_threads(threads)
    backend = open_backend(config.device)
    checkpoint = open_checkpoint(policy)
    judge_checkpoint = open_checkpoint(prm) if prm is not None else None
    dtype = resolve_dtype(config.dtype, checkpoint, backend)
    given = [each for each in (checkpoint, judge_checkpoint) if each is not None]
    cache = None if config.weight_cache is None else backend.weight_cache(config.weight_cache)
    check_memory(backend, given, dtype, config.weights, config.kv_memory)
    tokenizer = checkpoint.tokenizer()
    chat = ChatOptions.make(config.date, config.chat_template_kwargs)
    check_options(tokenizer, chat)
    return_freed()
    model = load_decoder(checkpoint, dtype, backend, weights=config.weights, cache=cache)
    tokenizer.check_fits(model.config.vocab_size, checkpoint.source)
    prm_model = None
    if judge_checkpoint is not None:
        prm_model = load_prm(judge_checkpoint, dtype, backend, config.prm_format, config.weights, cache)
        check_options(prm_model.tokenizer, NO_OPTIONS)
    memory = backend.kv_budget() if config.kv_memory is None else config.kv_memory
    configs = [model.config] + ([prm_model.model.config] if prm_model is not None else [])
    blocks = kv_blocks(configs, dtype, backend, memory)
    kv = KvCache(model.config, blocks, dtype, backend, memory)
    steps = StepEngine(
        model, tokenizer, kv, max_rows=config.max_rows, prefill_rows=config.prefill_rows, speculate=config.speculate,
        source=policy,
    )  # fmt: skip
    judge = None
    if prm_model is not None:
        judge_kv = KvCache(prm_model.model.config, blocks, dtype, backend, memory)
        judge = Scorer(prm_model, judge_kv, batch_rows=config.prefill_rows)
    name = str(dtype).removeprefix("torch.")
    judge_blocks = blocks if judge is not None else 0
    notes = [note for note in (prm_model and prm_model.note,) if note]
    resolved = ResolvedConfig(
        str(backend.device), name, config.weights, blocks, judge_blocks, memory, torch.get_num_threads(), chat.date,
        tuple(notes),
    )  # fmt: skip
    return Models(steps, judge, chat, checkpoint.recommended(), resolved)


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
