"""Checks, times and searches on an NVIDIA GPU in one command; it needs no network and no checkpoint.

    PYTHONPATH=. python -m benchmarks.gpu --minutes 8 --out gpu-result
    TRITON_INTERPRET=1 PYTHONPATH=. python -m benchmarks.gpu --tiny --out tiny     # no GPU: shows that it runs

Each stage is a process of its own with its own limit of time; records.jsonl grows as they come, and a table at the end
says what failed. Send the folder back.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from benchmarks.gpu.stages import MINUTES, STAGES, Bench, Outcome, Record, Stage, run_stage
from benchmarks.gpu.summary import summary

LEAST_SECONDS = 10.0  # less is not worth a start


def check(stages: list[Stage], bench: Bench, minutes: float, folder: Path) -> list[Outcome]:
    """Run the stages one after the other; their records, outcomes, output and summary are in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * minutes
    records: list[Record] = []
    outcomes: list[Outcome] = []
    with (folder / "records.jsonl").open("w") as file:

        def report(record: Record) -> None:
            records.append(record)
            file.write(json.dumps(record) + "\n")
            file.flush()
            print("  " + shown(record), flush=True)

        for stage in stages:
            left = until - time.monotonic()
            print(f"{stage.name}: {stage.about}", flush=True)
            if left < LEAST_SECONDS:
                outcome = Outcome(stage, "skipped", 0.0, f"the {minutes:g} minutes are over")
            else:
                limit = min(left, stage.seconds * minutes / MINUTES)
                outcome = run_stage(stage, bench, limit, folder / "output.txt", report)
            outcomes.append(outcome)
            report(outcome.record())
            bench = bench.with_peaks(records)
    (folder / "summary.txt").write_text(summary(outcomes, records))
    return outcomes


def shown(record: Record) -> str:
    """A record on one line."""
    parts = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in record.items()}
    return "  ".join(f"{name} {value}" for name, value in parts.items() if name != "stage" and value != "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for records, output and summary")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for everything; stages share it (default: 8)")
    parser.add_argument("--stages", help=f"some of {','.join(each.name for each in STAGES)} (default: all)")
    parser.add_argument("--tiny", action="store_true", help="small sizes in Triton's interpreter")
    args = parser.parse_args()
    known = {each.name: each for each in STAGES}
    names = list(known) if args.stages is None else args.stages.split(",")
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"--stages {args.stages}: there is no stage {unknown[0]!r}; known are {', '.join(known)}")
    if not args.minutes > 0:
        sys.exit(f"--minutes {args.minutes}: expected more than 0")
    if args.tiny and os.environ.get("TRITON_INTERPRET") != "1":
        sys.exit("--tiny runs in Triton's interpreter: set TRITON_INTERPRET=1 before the command")
    if not args.tiny and os.environ.get("TRITON_INTERPRET") == "1":
        sys.exit("TRITON_INTERPRET=1 is set, and a GPU is to be checked: unset it, or add --tiny")
    if not args.tiny and (missing := no_gpu()):
        sys.exit(f"no GPU is usable here ({missing}): run with --tiny and TRITON_INTERPRET=1 to see that it works")
    outcomes = check([known[name] for name in names], Bench(args.tiny), args.minutes, args.out)
    print("\n" + (args.out / "summary.txt").read_text())
    sys.exit(0 if all(outcome.state in ("passed", "skipped") for outcome in outcomes) else 1)


def no_gpu() -> str:
    """Why no GPU can be used, or nothing. Asked in a process of its own: this one shall never hold a device."""
    import subprocess

    code = "import torch; print(torch.cuda.is_available() or f'torch {torch.__version__} sees none')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["torch cannot be imported"])[-1]
    return "" if done.stdout.strip() == "True" else done.stdout.strip()


if __name__ == "__main__":
    main()
