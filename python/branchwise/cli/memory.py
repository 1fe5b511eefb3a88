"""`branchwise doctor --policy ... --prm ...`: whether models and their searches fit, before anything loads."""

from __future__ import annotations

from typing import Any

from branchwise.report import numbers

PROMPT_TOKENS, MAX_STEPS = 512, 40  # of the search that the report is about


def memory_report(
    policy: str, prm: str | None, device: str, dtype: str, weights: str, n: int, expand: int, max_tokens: int
) -> dict[str, Any]:
    """The split of a device's memory, in bytes. Raises as `Engine` does when the models cannot work there."""
    from branchwise.backend.select import open_backend
    from branchwise.config import EngineConfig
    from branchwise.engine.kv import KvDemand
    from branchwise.engine.memory import plan_memory, resolve_dtype
    from branchwise.strategies.beam import BeamSearch
    from branchwise.weights import open_checkpoint

    EngineConfig(device=device, dtype=dtype, weights=weights)  # type: ignore[arg-type]  # it checks them
    BeamSearch(n=n, expand=expand)  # and it these
    backend = open_backend(device)
    checkpoints = [open_checkpoint(source) for source in (policy, prm) if source is not None]
    chosen = resolve_dtype(dtype, checkpoints[0], backend)
    kept = max(1, n // expand)
    demand = KvDemand(PROMPT_TOKENS, n, kept, max_tokens, EngineConfig().max_step_tokens, MAX_STEPS)
    plan = plan_memory(backend, checkpoints, chosen, demand, form=weights)
    return {
        "device": str(backend.device),
        "dtype": str(chosen).removeprefix("torch."),
        "weights": weights,
        "free": plan.free,
        "policy weights": plan.weights[0],
        "prm weights": plan.weights[1] if prm is not None else 0,
        "kv": plan.kv,
        "kv slots of each model": plan.blocks * plan.block_slots,
        "n": n,
        "expand": expand,
        "max_tokens": max_tokens,
        "searches at once": plan.problems,
    }


def memory_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The report as lines of a table."""
    sizes = [(name, numbers.size(report[name])) for name in ("free", "policy weights", "prm weights", "kv")]
    return [
        ("device", f"{report['device']}, {report['dtype']}, {report['weights']} weights"),
        *sizes,
        ("kv slots", f"{report['kv slots of each model']:,} tokens in each model"),
        ("searches at once", f"{report['searches at once']}: {_shape(report)}"),
    ]


def _shape(report: dict[str, Any]) -> str:
    pruning = f", expand={report['expand']}" if report["expand"] > 1 else ""
    return f"n={report['n']}{pruning}, {report['max_tokens']} tokens a branch"
