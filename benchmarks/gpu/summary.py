"""What a run showed, on a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.gpu.stages import Outcome, Record

HEADLINES: dict[str, tuple[str, ...]] = {
    "machine": ("gpu", "torch", "triton", "isa"),
    "peaks": ("bandwidth", "flops"),
    "kernel": ("name", "dtype", "rel_l2", "of_bandwidth", "of_peak"),
    "tokens": ("name", "right"),
    "replay": ("model", "rows", "ms", "of_roofline"),
    "samples": ("model", "rows", "tokens_per_s", "host_gap_us"),
    "opening": ("model", "rows", "launched_ms", "replayed_ms"),
    "prm": ("model", "tokens", "ms", "of_peak"),
    "search": ("strategy", "n", "problems_per_h", "busy"),
    "life": ("kept_bytes",),
    "vllm": ("model", "rows", "tokens_per_s"),
}
"""What of a record of each kind is shown."""


def summary(outcomes: Sequence[Outcome], records: Iterable[Record]) -> str:
    """Stages and how they ended, the figures of each, and at the end what failed."""
    lines = []
    by_stage: dict[str, list[Record]] = {}
    for record in records:
        by_stage.setdefault(record["stage"], []).append(record)
    for outcome in outcomes:
        name = outcome.stage.name
        lines.append(f"{name:<9} {outcome.state:<8} {outcome.seconds:6.1f} s  {outcome.why or outcome.stage.about}")
        lines += [f"    {line}" for line in map(_headline, by_stage.get(name, [])) if line]
    bad = [outcome.stage.name for outcome in outcomes if outcome.state in ("failed", "killed")]
    skipped = [outcome.stage.name for outcome in outcomes if outcome.state == "skipped"]
    lines.append("")
    if skipped:
        lines.append(f"not run: {', '.join(skipped)}")
    lines.append(f"FAILED: {', '.join(bad)}" if bad else f"all {len(outcomes) - len(skipped)} stages that ran passed")
    return "\n".join(lines) + "\n"


def _headline(record: Record) -> str:
    if record.get("skipped"):
        return f"{record['kind']}: {record['skipped']}"
    fields = [field for field in HEADLINES.get(record["kind"], ()) if field in record]
    text = "  ".join(f"{field} {_short(record[field])}" for field in fields)
    return f"WRONG  {text}" if record.get("right") is False else text


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
