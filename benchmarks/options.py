"""Command-line options that benchmarks share, and the models and problems that they stand for."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, get_args

import branchwise as bw
from branchwise.assets import asset_path
from branchwise.config import Weights
from branchwise.types import Problem

MODELS = Path(os.environ.get("BRANCHWISE_MODELS", Path.home() / ".cache" / "branchwise-models"))
POLICY = MODELS / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"


def model_parser(description: str | None, results: str) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark that loads a policy; `results`: the file that --save appends to."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default=str(POLICY), help="folder, .gguf file or hub id")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--weights", default="dense", choices=get_args(Weights), help="form of the matrices")
    parser.add_argument("--save", action="store_true", help=f"append the records to benchmarks/results/{results}.jsonl")
    parser.add_argument("--quick", action="store_true", help="a bundled policy and little work")
    return parser


def parse(parser: argparse.ArgumentParser, quick_policy: str = "policy-large") -> argparse.Namespace:
    """The options; leaves the program, saying why, where the policy is not there."""
    options = parser.parse_args()
    if options.quick:
        options.policy, options.save = str(asset_path(quick_policy)), False
    if not Path(options.policy).exists():
        parser.exit(0, f"skipped: no model at {options.policy}; name one with --policy\n")
    return options


def search_options(parser: argparse.ArgumentParser) -> None:
    """Add the PRM and the memory of a search."""
    parser.add_argument(
        "--prm", help="default: the policy itself, as a token-pair PRM; the bundled one for the bundled one"
    )
    parser.add_argument("--max-tokens", type=int, default=512, help="of a solution")
    parser.add_argument("--kv-memory", type=int, default=8 << 30, help="bytes")


def problem_options(parser: argparse.ArgumentParser) -> None:
    """Add the problems to solve, and how wide a search is."""
    parser.add_argument("--problems", type=Path, help='JSON lines: "id", "problem", "answer"; default: bundled ones')
    parser.add_argument("--limit", type=int, default=8, help="problems to solve")
    parser.add_argument("--skip", type=int, default=0, help="problems to leave out before them")
    parser.add_argument("-n", type=int, default=16)
    parser.add_argument("--expand", type=int, default=4)


def search_parser(description: str | None, results: str) -> argparse.ArgumentParser:
    """The options of every benchmark that solves problems."""
    parser = model_parser(description, results)
    search_options(parser)
    problem_options(parser)
    parser.add_argument("--strategy", default="beam", choices=["beam", "dvts"])
    return parser


def parse_search(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options of a search; --quick takes the bundled pair and two problems."""
    options = parse(parser, "policy-small")
    bundled = options.policy == str(asset_path("policy-small"))
    options.prm = options.prm or (str(asset_path("prm")) if bundled else options.policy)
    if options.quick:
        options.limit, options.n, options.dtype, options.problems = 2, 8, "float32", None
    return options


def open_engine(options: argparse.Namespace, **more: Any) -> bw.Engine:
    """Policy and PRM of a search; the policy itself judges through "+"/"-" turns, like any causal model.

    Nothing is kept from one run for the next: each does all of its work.
    """
    more = {"prm_format": "rlhflow" if options.prm == options.policy else "auto", "prefix_cache": False, **more}
    return bw.Engine(
        options.policy, options.prm, dtype=options.dtype, weights=options.weights, threads=options.threads,
        kv_memory=options.kv_memory, max_tokens=options.max_tokens, **more,
    )  # fmt: skip


def load_problems(options: argparse.Namespace) -> list[Problem]:
    """`--limit` problems, after the first `--skip`."""
    path = options.problems or asset_path("problems.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines()[options.skip :][: options.limit]
    return [Problem(each["id"], each["problem"], answer=each["answer"]) for each in map(json.loads, lines)]
