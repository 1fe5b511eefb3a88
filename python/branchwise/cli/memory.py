"""`branchwise doctor --policy ... --prm ...`: whether models and their searches fit, before anything loads."""

from __future__ import annotations

from typing import Any

from branchwise.report import numbers

PROMPT_TOKENS, MAX_STEPS = 512, 40  # of the search that the report is about


def memory_report(
    policy: str, prm: str | None, devices: tuple[str, str | None], dtype: str, weights: str, n: int, expand: int,
    max_tokens: int,
) -> dict[str, Any]:  # fmt: skip
    """The split of each device's memory, in bytes. Raises as `Engine` does when the models cannot work there.

    devices: the policy's, and the PRM's where it has one of its own
    """
    from branchwise.assemble import homes
    from branchwise.config import EngineConfig
    from branchwise.engine.kv import KvDemand
    from branchwise.engine.memory import plan_memory
    from branchwise.strategies.beam import BeamSearch
    from branchwise.weights import open_checkpoint

    device, prm_device = devices
    EngineConfig(device=device, prm_device=prm_device, dtype=dtype, weights=weights)  # type: ignore[arg-type]  # checks
    BeamSearch(n=n, expand=expand)  # as this does
    found = homes(device, prm_device, dtype, open_checkpoint(policy), None if prm is None else open_checkpoint(prm))
    kept = max(1, n // expand)
    demand = KvDemand(PROMPT_TOKENS, n, kept, max_tokens, EngineConfig().max_step_tokens, MAX_STEPS)
    plans = plan_memory(found, demand, form=weights)
    return {
        "devices": [
            {
                "device": str(home.backend.device),
                "dtype": str(home.dtype).removeprefix("torch."),
                "free": plan.free,
                "weights": plan.weights,
                "kv": plan.kv,
                "kv slots of each model": plan.blocks * plan.block_slots,
                "searches at once": plan.problems,
            }
            for home, plan in zip(found, plans, strict=True)
        ],
        "weights": weights,
        "n": n,
        "expand": expand,
        "max_tokens": max_tokens,
        "searches at once": min(plan.problems for plan in plans),
    }


def memory_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The report as lines of a table."""
    rows = []
    for each in report["devices"]:
        rows += [
            ("device", f"{each['device']}, {each['dtype']}, {report['weights']} weights"),
            ("  free", numbers.size(each["free"])),
            *((f"  {name} weights", numbers.size(size)) for name, size in each["weights"].items()),
            ("  kv", f"{numbers.size(each['kv'])}: {each['kv slots of each model']:,} tokens in each model"),
        ]
    return [*rows, ("searches at once", f"{report['searches at once']}: {_shape(report)}")]


def _shape(report: dict[str, Any]) -> str:
    pruning = f", expand={report['expand']}" if report["expand"] > 1 else ""
    return f"n={report['n']}{pruning}, {report['max_tokens']} tokens a branch"
