"""Checks, times and searches on an NVIDIA GPU, and writes one JSON-lines file to send back.

    PYTHONPATH=. python -m benchmarks.gpu --out result.jsonl                        # kernels, and the bundled pair
    PYTHONPATH=. python -m benchmarks.gpu --out result.jsonl --policy Qwen/Qwen2.5-1.5B-Instruct \\
        --prm Qwen/Qwen2.5-Math-PRM-7B                                              # and a real one; vLLM if installed
    TRITON_INTERPRET=1 PYTHONPATH=. python -m benchmarks.gpu --tiny --out tiny.jsonl  # no GPU: shows that it runs

1. every kernel against its float64 twin on the device  2. its time as a share of the peaks measured here
3. decoding at N = 16, 64, 256  4. beam search and DVTS end to end, and the same over vLLM
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cases import FULL, TINY, cases
from benchmarks.gpu.searches import decode_speed, in_child, search_speed, vllm_searches, vllm_speed
from benchmarks.gpu.timing import Peaks, device_facts, measure_peaks, seconds_of
from branchwise.errors import BranchwiseError

REL_L2 = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 3e-3}


def kernels(device: torch.device, tiny: bool, peaks: Peaks) -> Iterator[dict[str, Any]]:
    """One record per kernel and dtype."""
    for dtype in (torch.float32,) if tiny else (torch.bfloat16, torch.float16, torch.float32):
        for case in cases(TINY if tiny else FULL, dtype, device):
            outputs = case.run()
            off = worst([error(got, want) for got, want in zip(outputs, case.twin(), strict=True)])
            spent = seconds_of(outputs.again, device)
            yield {
                "kind": "kernel",
                "name": case.name,
                "dtype": str(dtype).removeprefix("torch."),
                "rel_l2": off,
                "right": off <= REL_L2[dtype],
                "seconds": spent,
                "of_bandwidth": case.moved / spent / peaks.bandwidth,
                "of_peak": case.flops / spent / peaks.flops,
            }


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Relative L2; for integers the share that differs."""
    if not want.dtype.is_floating_point:
        return float((got != want).double().mean())
    return float((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-30))


def worst(errors: list[float]) -> float:
    """The largest; NaN, of an output that was not written or is damaged, above all."""
    return max(errors, key=lambda each: (math.isnan(each), each))


def searches(args: argparse.Namespace, device: str) -> Iterator[dict[str, Any]]:
    """Decoding and whole searches: the bundled pair, and the models that were named."""
    pairs: list[tuple[str | None, str | None]] = [(None, None)]
    if args.policy is not None:
        pairs.append((args.policy, args.prm))
    for policy, prm in pairs:
        yield from decode_speed(device, policy, args.tiny)
        if policy is None or prm is not None:
            yield from search_speed(device, policy, prm, args.tiny)
    if args.policy is not None and not args.tiny:
        yield in_child(vllm_speed, args.policy)
        if args.prm is not None:
            yield from vllm_searches(device, args.policy, args.prm)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file for the records; it is written anew")
    parser.add_argument("--policy", help="folder, .gguf file or hub id of a policy")
    parser.add_argument("--prm", help="folder, .gguf file or hub id of a PRM")
    parser.add_argument("--tiny", action="store_true", help="small sizes in Triton's interpreter")
    args = parser.parse_args()
    if not args.tiny and not torch.cuda.is_available():
        sys.exit("no GPU is usable here: run with --tiny and TRITON_INTERPRET=1 to see that the benchmark works")
    device = torch.device("cpu" if args.tiny else "cuda")
    begun, wrong = time.monotonic(), 0
    with args.out.open("w") as file:

        def write(record: dict[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()
            shown = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in record.items()}
            print("  ".join(f"{key} {value}" for key, value in shown.items()), flush=True)

        write({"kind": "machine", **device_facts(device)})
        peaks = measure_peaks(device, args.tiny)
        write({"kind": "peaks", "bandwidth": peaks.bandwidth, "flops": peaks.flops})
        for record in kernels(device, args.tiny, peaks):
            wrong += not record["right"]
            write(record)
        try:
            for record in searches(args, "interpreter" if args.tiny else "cuda"):
                write(record)
        except BranchwiseError as failure:
            sys.exit(f"error: {failure}")
    print(f"{args.out}: {wrong} kernels are wrong, {time.monotonic() - begun:.0f} s")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
