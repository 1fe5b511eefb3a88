"""branchwise beside vLLM, llama.cpp and transformers on this machine's CPU: same weights, same work, taking turns.

Each side is a process of its own; they are asked one after the other, run by run, so that all meet the same machine.
Ratios are to the first side, ours. Start here:

  PYTHONPATH=. python -m benchmarks.vs setup vllm                  a rival's virtual environment, once
  PYTHONPATH=. python -m benchmarks.vs sampling --save             N samples of one prompt
  PYTHONPATH=. python -m benchmarks.vs requests --data FILE --save many requests of different lengths at once
  PYTHONPATH=. python -m benchmarks.vs beam --data FILE --save     beam search over problems, default and tuned rival
  PYTHONPATH=. python -m benchmarks.vs dvts --save                 DVTS over a forced tree
  PYTHONPATH=. python -m benchmarks.vs report                      table and plot from benchmarks/results/vs.jsonl

`COMMAND --help` lists the options; benchmarks/README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.common import RESULTS, append
from benchmarks.options import POLICY
from benchmarks.vs import venvs
from benchmarks.vs.compare import ISAS, compare, started
from benchmarks.vs.protocol import Json, Side, TimedLock
from benchmarks.vs.report import report
from benchmarks.vs.requests import add_options, requests
from benchmarks.vs.searches import beam, dvts
from benchmarks.vs.sides import sampling_sides
from benchmarks.vs.workloads import PROMPT, PROMPT_TOKENS
from branchwise.weights import open_checkpoint

DATA = Path(os.environ.get("BRANCHWISE_DATA", "shared/data")) / "gsm8k_dev.jsonl"


def sampling(options: argparse.Namespace) -> None:
    """N samples of one prompt, for every N and top-p: tokens/s."""
    prompt = (open_checkpoint(options.policy).tokenizer().encode(PROMPT) * 5)[:PROMPT_TOKENS]
    with started(sampling_sides(options), options.isa) as sides:
        for rows in options.rows:
            for top_p in options.top_p:
                case: Json = {
                    "workload": "sampling", "rows": rows, "top_p": top_p, "prompt_tokens": len(prompt),
                    "tokens_each": options.tokens, "model": options.policy.stem, "isa": options.isa,
                }  # fmt: skip
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


def whole(text: str) -> int:
    """A positive integer. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def share(text: str) -> float:
    """A number in (0, 1]. Raises ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0 and up to 1")
    return number


def model_file(text: str) -> Path:
    """A model that exists. Raises ArgumentTypeError."""
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"no model at {text}: name a .gguf file or a folder with safetensors")
    return Path(text)


def shared_options(runs: int, rivals: list[str]) -> argparse.ArgumentParser:
    """What all measuring commands have."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--policy", type=model_file, default=POLICY, help="a .gguf file or a folder")
    shared.add_argument("--rivals", nargs="*", choices=rivals, default=rivals, help="who runs beside us")
    shared.add_argument(
        "--weights", nargs="+", default=["bf16"], help="our weights, a side for each: bf16, fp32, stored, int8, q8, q4"
    )
    shared.add_argument(
        "--rival-dtype", nargs="+", choices=["bfloat16", "float32"], default=[venvs.torch_dtype()],
        help="of vLLM and transformers, a side for each; the default is what torch multiplies fastest here",
    )  # fmt: skip
    shared.add_argument("--threads", type=whole, default=venvs.CORES)
    shared.add_argument("--runs", type=whole, default=runs, help="timed runs of every side, after one to warm up")
    shared.add_argument("--isa", choices=list(ISAS), default="native", help="bind all sides to an instruction set")
    shared.add_argument(
        "--lock",
        type=lambda text: TimedLock(Path(text)),
        default=TimedLock(),
        help="lock this file while timing, on a machine that others use too",
    )
    shared.add_argument("--save", action="store_true", help=f"append the records to {RESULTS / 'vs.jsonl'}")
    return shared


def search_options(n: int, problems: int, in_flight: int) -> argparse.ArgumentParser:
    """What `beam` and `dvts` share, with their own defaults."""
    search = argparse.ArgumentParser(add_help=False)
    search.add_argument("--n", type=whole, default=n, help="branches")
    search.add_argument("--problems", type=whole, default=problems)
    search.add_argument("--in-flight", type=whole, default=in_flight, help="problems at once, for sides that can")
    search.add_argument("--data", type=Path, default=DATA, help="JSONL with id, problem, answer (or BRANCHWISE_DATA)")
    search.add_argument("--expand", type=whole, default=4, help="M: children of each kept step")
    search.add_argument("--top-p", type=share, default=1.0)
    search.add_argument("--structures", nargs="+", choices=["tuned", "default"], default=["tuned", "default"])
    search.add_argument("--default-runs", type=whole, default=1, help="runs of the slow default structure")
    return search


def parser() -> argparse.ArgumentParser:
    """The command line."""
    shape = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    top = argparse.ArgumentParser("benchmarks.vs", description=__doc__, **shape)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    make = commands.add_parser("setup", help="make the virtual environments of rivals", **shape)
    make.add_argument("rivals", nargs="+", choices=list(venvs.RIVALS))
    make.set_defaults(command=setup)

    sample = commands.add_parser(
        "sampling", parents=[shared_options(5, list(venvs.RIVALS))], help=sampling.__doc__, **shape
    )
    sample.add_argument("--rows", type=whole, nargs="+", default=[1, 16, 64], help="samples at once")
    sample.add_argument("--tokens", type=whole, default=64, help="tokens of each sample")
    sample.add_argument("--top-p", type=share, nargs="+", default=[0.95, 1.0])
    sample.add_argument("--block", type=whole, nargs="+", default=[32, 128], help="vLLM's block sizes")
    sample.add_argument("--quantise", nargs="*", default=["q8_0"], help="more formats for llama.cpp")
    sample.set_defaults(command=sampling)

    many = commands.add_parser("requests", parents=[shared_options(3, ["vllm"])], help=requests.__doc__, **shape)
    add_options(many, DATA)

    search = commands.add_parser(
        "beam", parents=[shared_options(3, ["vllm"]), search_options(16, 10, 4)], help=beam.__doc__, **shape
    )
    search.add_argument("--max-steps", type=whole, default=12)
    search.add_argument("--max-tokens", type=whole, default=512, help="of a solution")
    search.add_argument("--max-step-tokens", type=whole, default=128)
    search.add_argument("--modes", nargs="+", choices=["tape", "free"], default=["tape", "free"])
    search.set_defaults(command=beam)

    tree = commands.add_parser(
        "dvts", parents=[shared_options(3, ["vllm"]), search_options(64, 1, 1)], help=dvts.__doc__, **shape
    )
    tree.add_argument("--steps", type=whole, default=20)
    tree.add_argument("--length", type=whole, default=60, help="tokens of a step")
    tree.add_argument(
        "--levels", type=whole, nargs="*", default=[1, 5, 10, 15, 20],
        help="levels that are measured of the default structure, the rest interpolated; none: run it whole",
    )  # fmt: skip
    tree.set_defaults(command=dvts)

    show = commands.add_parser("report", help=report.__doc__, **shape)
    show.add_argument("--results", type=Path, default=RESULTS / "vs.jsonl")
    show.add_argument(
        "--plot",
        type=Path,
        default=RESULTS / "vs.svg",
        help=".svg or .png, one for each instruction set (vs-avx2.svg); needs pip install '.[bench]'",
    )
    show.add_argument("--isa", choices=list(ISAS), nargs="+", default=list(ISAS))
    show.set_defaults(command=report)
    return top


def main() -> None:
    options = parser().parse_args()
    levels = getattr(options, "levels", None)
    if levels and (min(levels) != 1 or max(levels) != options.steps):
        sys.exit(f"--levels {levels}: the first must be 1 and the last --steps, {options.steps}")
    policy = getattr(options, "policy", None)
    if policy is not None and not policy.exists():  # the default one: --policy checks what it is given
        print(f"skipped: no model at {policy}; name one with --policy")
        return
    data = getattr(options, "data", None)
    if data is not None and not data.exists():
        sys.exit(f"no problems at {data}: name a JSONL file with id, problem and answer with --data")
    options.command(options)


if __name__ == "__main__":
    main()
