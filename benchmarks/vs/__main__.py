"""branchwise beside vLLM, llama.cpp and transformers on this machine's CPU: same weights, same work, taking turns.

PYTHONPATH=. python -m benchmarks.vs setup vllm                # a rival's virtual environment, once
PYTHONPATH=. python -m benchmarks.vs sampling --rivals vllm llamacpp --rows 16 64 --save
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.common import append
from benchmarks.vs import venvs
from benchmarks.vs.compare import Entry, compare, installed, started
from benchmarks.vs.export import export_policy
from benchmarks.vs.protocol import Json, Side
from benchmarks.vs.workloads import PROMPT, PROMPT_TOKENS
from branchwise.weights import open_checkpoint

MODELS = Path(os.environ.get("BRANCHWISE_MODELS", Path.home() / ".cache" / "branchwise-models"))
POLICY = MODELS / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"


def sampling_entries(options: argparse.Namespace) -> list[Entry]:
    """Every side of `sampling`: ours first, so that ratios are to us."""
    policy, threads = str(options.policy), options.threads
    ours = {"policy": policy, "prm": None, "threads": threads, "kv_memory": 2 << 30}
    entries = [Entry(f"ours-{dtype}", None, {**ours, "dtype": dtype}) for dtype in options.dtype]
    if "vllm" in options.rivals:
        folder = str(export_policy(policy))
        entries += [Entry(f"vllm-block{size}", "vllm", {"model": folder, "block_size": size}) for size in options.block]
    if "llamacpp" in options.rivals:
        file = {"model": policy, "threads": threads, "folder": str(venvs.cache_folder() / "models")}
        entries += [Entry("llamacpp-as-is", "llamacpp", file)]
        entries += [Entry(f"llamacpp-{kind}", "llamacpp", {**file, "quantise": kind}) for kind in options.quantise]
    if "transformers" in options.rivals:
        entries += [Entry("transformers", "transformers", {"model": str(export_policy(policy)), "threads": threads})]
    return installed(entries)


def sampling(options: argparse.Namespace) -> None:
    """N samples from one prompt, for every N and top-p."""
    prompt = (open_checkpoint(options.policy).tokenizer().encode(PROMPT) * 5)[:PROMPT_TOKENS]
    with started(sampling_entries(options)) as sides:
        for rows in options.rows:
            for top_p in options.top_p:
                case: Json = {"workload": "sampling", "rows": rows, "top_p": top_p, "model": options.policy.stem}
                print(f"sampling: {rows} rows, {options.tokens} tokens each, top-p {top_p}", flush=True)

                def arguments(_: Side, run: int, rows: int = rows, top_p: float = top_p) -> Json:
                    return {"prompt": prompt, "rows": rows, "tokens": options.tokens, "top_p": top_p, "seed": run + 1}

                records = compare(sides, "sampling", options.runs, case, arguments, options.lock)
                if options.save:
                    append("vs", records)


def setup(options: argparse.Namespace) -> None:
    """Install rivals."""
    for name in options.rivals:
        venvs.install(name)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    shape = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("benchmarks.vs", description=__doc__, formatter_class=shape)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    names = list(venvs.RIVALS)

    make = commands.add_parser("setup", help="make the virtual environments of rivals", formatter_class=shape)
    make.add_argument("rivals", nargs="+", choices=names)
    make.set_defaults(command=setup)

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--policy", type=Path, default=POLICY, help="a .gguf file or a folder")
    shared.add_argument("--rivals", nargs="*", choices=names, default=names, help="who runs beside us")
    shared.add_argument("--dtype", nargs="+", default=["bfloat16"], help="our weights; one side for each")
    shared.add_argument("--threads", type=int, default=venvs.CORES)
    shared.add_argument("--runs", type=int, default=5, help="timed runs of every side, after one to warm up")
    shared.add_argument("--lock", type=Path, help="lock this file while timing, on a machine that others use too")
    shared.add_argument("--save", action="store_true", help="append the records to benchmarks/results/vs.jsonl")
    shared.add_argument("--block", type=int, nargs="+", default=[32, 128], help="vLLM's block sizes")

    sample = commands.add_parser("sampling", parents=[shared], help=sampling.__doc__, formatter_class=shape)
    sample.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64], help="samples at once")
    sample.add_argument("--tokens", type=int, default=64, help="tokens of each sample")
    sample.add_argument("--top-p", type=float, nargs="+", default=[0.95, 1.0])
    sample.add_argument("--quantise", nargs="*", default=["q8_0"], help="more formats for llama.cpp")
    sample.set_defaults(command=sampling)
    return top


def main() -> None:
    options = parser().parse_args()
    options.command(options)


if __name__ == "__main__":
    main()
