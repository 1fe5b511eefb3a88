"""Models on the CPU, run over whole sequences the way transformers would."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from branchwise.backend.cpu.backend import CpuBackend
from branchwise.engine.kv import KvCache
from branchwise.models.decoder import Decoder
from branchwise.models.load import load_decoder
from branchwise.prm_format import PrmFormat
from branchwise.scoring.prm import Prm, load_prm
from branchwise.weights.checkpoint import Checkpoint


def cpu_decoder(checkpoint: Checkpoint, dtype: torch.dtype, **options: Any) -> Decoder:
    """`load_decoder` on the CPU."""
    return load_decoder(checkpoint, dtype, CpuBackend(), **options)


def cpu_prm(checkpoint: Checkpoint, dtype: torch.dtype, prm_format: str | PrmFormat = "auto") -> Prm:
    """`load_prm` on the CPU."""
    return load_prm(checkpoint, dtype, CpuBackend(), prm_format)


def all_logits(model: Decoder, tokens: list[int], chunk: int = 512) -> Tensor:
    """Logits after every token of one sequence: [tokens, vocab] fp32."""
    kv = KvCache(model.config, len(tokens) // model.backend.block_slots + 2, model.dtype, model.backend)
    model.rope.cover(len(tokens))
    node = kv.tree.add_root()
    parts = []
    for begin in range(0, len(tokens), chunk):
        part = tokens[begin : begin + chunk]
        kv.tree.append(node, len(part))
        plan = kv.planner.build(np.array([node], np.int64), np.array([len(part)], np.int32))
        hidden = model.forward(torch.tensor(part), plan, kv.pool)
        assert model.head is not None
        logits = torch.cat([tile(hidden).float() for tile in model.head], dim=1)
        cap = model.config.final_softcap
        parts.append(torch.tanh(logits / cap) * cap if cap else logits)
    return torch.cat(parts)
