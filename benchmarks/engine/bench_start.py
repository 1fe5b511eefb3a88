"""How long an engine takes to open: from the checkpoint, while its packed weights are kept, and from the kept file.

    PYTHONPATH=. python benchmarks/engine/bench_start.py --policy qwen2.5-0.5b.gguf --forms dense int8 stored --save

The three take turns, `--runs` times. Files are read before and stay in the system's cache, so no disk is measured.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import branchwise as bw
from benchmarks.common import report
from benchmarks.options import model_parser, parse
from branchwise.config import Weights


def seconds_to_open(policy: str, form: str, folder: Path | None, dtype: str, threads: int) -> float:
    begin = time.perf_counter()
    engine = bw.Engine(policy, dtype=dtype, weights=form, threads=threads, kv_memory=1 << 27, weight_cache=folder)
    seconds = time.perf_counter() - begin
    engine.close()
    return seconds


def bench(policy: str, form: str, dtype: str, threads: int, runs: int, parent: Path) -> dict[str, Any]:
    """Medians, in seconds."""
    times: dict[str, list[float]] = {"from_checkpoint": [], "and_kept": [], "from_kept": []}
    size = 0
    for _ in range(runs):
        with TemporaryDirectory(dir=parent) as name:
            for what, folder in (("from_checkpoint", None), ("and_kept", Path(name)), ("from_kept", Path(name))):
                times[what].append(seconds_to_open(policy, form, folder, dtype, threads))
            size = sum(file.stat().st_size for file in Path(name).iterdir())
    return {
        "bench": "start",
        "model": Path(policy).stem,
        "weights": form,
        "dtype": dtype,
        "runs": runs,
        "seconds": {what: round(statistics.median(each), 3) for what, each in times.items()},
        "kept_bytes": size,
    }


def bench_forms(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for form in options.forms:
        yield bench(options.policy, form, options.dtype, options.threads, options.runs, options.folder)


def main() -> None:
    parser = model_parser(__doc__, "start")
    parser.add_argument("--forms", nargs="+", choices=get_args(Weights), default=["dense", "int8", "q4", "stored"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache", help="where files are kept meanwhile")
    options = parse(parser)
    if options.quick:
        options.forms, options.runs = ["int8"], 1
    options.folder.mkdir(parents=True, exist_ok=True)
    report("start", bench_forms(options), options.save)


if __name__ == "__main__":
    main()
