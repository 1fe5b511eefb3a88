"""Who takes part in each command, and how each side is opened. Ours comes first: ratios are to it."""

from __future__ import annotations

import argparse

from benchmarks.vs import venvs
from benchmarks.vs.compare import Entry, installed
from benchmarks.vs.export import export_judge, export_policy
from benchmarks.vs.protocol import Json

KV_BYTES = 4 << 30  # of policy and PRM together: no search waits for another
WEIGHTS = {"bf16": {"dtype": "bfloat16"}, "fp32": {"dtype": "float32"}}
"""Engine options of our sides; any other name is a value of the engine's option `weights`."""


def ours(options: argparse.Namespace, prm: str | None) -> list[Entry]:
    """branchwise, once for each kind of weights."""
    shared: Json = {"policy": str(options.policy), "prm": prm, "threads": options.threads, "kv_memory": KV_BYTES}
    if prm is not None:  # the policy itself
        shared["prm_format"] = "rlhflow"
    kinds = {kind: WEIGHTS.get(kind, {"dtype": "bfloat16", "weights": kind}) for kind in options.weights}
    return [Entry(f"ours-{kind}", None, {**shared, **kinds[kind]}) for kind in kinds]


def sampling_sides(options: argparse.Namespace) -> list[Entry]:
    """Every side of `sampling`."""
    policy, threads = str(options.policy), options.threads
    entries = ours(options, None)
    if "vllm" in options.rivals and venvs.missing("vllm") is None:
        folder = str(export_policy(policy))
        entries += [
            Entry(f"vllm{mark}-block{size}", "vllm", {"model": folder, "block_size": size, "dtype": dtype})
            for mark, dtype in dtypes(options)
            for size in options.block
        ]
    if "llamacpp" in options.rivals:
        file = {"model": policy, "threads": threads, "folder": str(venvs.cache_folder() / "models")}
        entries += [Entry("llamacpp-as-is", "llamacpp", file)]
        entries += [Entry(f"llamacpp-{kind}", "llamacpp", {**file, "quantise": kind}) for kind in options.quantise]
    if "transformers" in options.rivals and venvs.missing("transformers") is None:
        model = {"model": str(export_policy(policy)), "threads": threads}
        entries += [
            Entry(f"transformers{mark}", "transformers", {**model, "dtype": dtype}) for mark, dtype in dtypes(options)
        ]
    return installed(entries + missing(options))


def search_sides(options: argparse.Namespace) -> list[Entry]:
    """Every side of a search; its PRM is the policy's own weights, asked for "+" or "-"."""
    policy = str(options.policy)
    entries = ours(options, policy)
    if venvs.missing("vllm") is None and "vllm" in options.rivals:
        models = {"model": str(export_policy(policy)), "judge": str(export_judge(policy))}
        sizes = {"tuned": 32, "default": 128}
        entries += [
            Entry(
                f"vllm{mark}-{kind}", "vllm", {**models, "structure": kind, "block_size": sizes[kind], "dtype": dtype}
            )
            for mark, dtype in dtypes(options)
            for kind in options.structures
        ]
    return installed(entries + missing(options))


def dtypes(options: argparse.Namespace) -> list[tuple[str, str]]:
    """What the dtypes of rivals that run on torch add to the names of their sides, and the dtypes."""
    return [("" if dtype == "bfloat16" else "-fp32", dtype) for dtype in options.rival_dtype]


def missing(options: argparse.Namespace) -> list[Entry]:
    """Rivals that were asked for and are not installed: `installed` says so and leaves them out."""
    return [Entry(name, name) for name in options.rivals if venvs.missing(name) is not None]
