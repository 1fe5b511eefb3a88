"""Every strategy on the bundled held-out problems, side by side: accuracy, cost, and what each gains over best-of-N.

PYTHONPATH=. python benchmarks/quality/strategies.py --out strategies.results --save

Runs `branchwise eval` (killed, it goes on), prints a table in Markdown, and with --save appends its lines to
results/strategies.jsonl. What else is given goes to `eval`: a second run with -O lookahead=2 adds lines to the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paired import difference
from branchwise.assets import asset_path
from branchwise.cli import main as branchwise
from branchwise.report.comparison import amount
from branchwise.report.folder import read_cells
from branchwise.strategies import STRATEGIES

BASELINE = "best_of_n"
OTHER_POLICIES = ("rsa", "thinking")  # the bundled one holds no solutions in its context, and does not think
Key = tuple[str, int | None]  # of a line: strategy and N
Shares = dict[str, list[bool]]  # right or not, of each problem over seeds


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, print, and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder of the results")
    parser.add_argument("--strategies", default=",".join(name for name in STRATEGIES if name not in OTHER_POLICIES))
    parser.add_argument("-n", default="16")
    parser.add_argument("--seeds", default="3")
    parser.add_argument("--limit", default="400", help="problems")
    parser.add_argument("--save", action="store_true")
    args, others = parser.parse_known_args(arguments)
    words = ["eval", str(asset_path("problems.jsonl")), "-s", args.strategies, "-n", args.n, "--seeds", args.seeds]
    document = evaluate(
        [*words, "--limit", args.limit, "--max-tokens", "256", "--no-share", "--out", args.out, *others]
    )
    gains = gains_of(Path(args.out))
    records = [
        {**row, "problems": int(args.limit), "gain": gains.get((row["strategy"], row["n"]))} for row in document["rows"]
    ]
    print(markdown(records))
    if args.save:
        from benchmarks import common

        common.append("strategies", records)


def evaluate(words: list[str]) -> dict[str, Any]:
    """The document of `branchwise eval`; its progress goes to stderr."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = branchwise([*words, "--json"])
    if code != 0:
        sys.exit(code)
    document: dict[str, Any] = json.loads(printed.getvalue())
    return document


def gains_of(folder: Path) -> dict[Key, tuple[float, float]]:
    """Of every line: accuracy beyond that of best-of-N, problem by problem, and half of its 95 % interval.

    N is that of the line, or where it has none of that, the largest.
    """
    shares: dict[Key, Shares] = {}
    for _, header, records in read_cells(folder):
        line = shares.setdefault((header["label"], header["settings"]["options"].get("n")), {})
        for record in records.values():
            if record["correct"] is not None:
                line.setdefault(record["id"], []).append(record["correct"])
    bases = {n: line for (label, n), line in shares.items() if label == BASELINE}
    if not bases:
        return {}
    most = max(n or 0 for n in bases)
    return {key: gain(line, bases.get(key[1], bases[most])) for key, line in shares.items() if key[0] != BASELINE}


def gain(line: Shares, base: Shares) -> tuple[float, float]:
    """Mean difference over the problems of both, with half of its 95 % interval."""
    return difference(_mean(line), _mean(base))


def _mean(line: Shares) -> dict[str, float]:
    return {id_: sum(right) / len(right) for id_, right in line.items()}


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """The table, best first."""
    headers = ("strategy", "N", "accuracy", "95 % interval", f"beyond {BASELINE}", "no answer", "cut", "tokens",
               "judge tokens", "FLOPs", "seconds", "p95 latency")  # fmt: skip
    lines = [f"| {' | '.join(headers)} |", f"|{'---|' * len(headers)}"]
    for row in sorted(records, key=lambda row: -(row["accuracy"] or 0)):
        low, high = row["interval95"] or (0.0, 1.0)
        mean, half = row["gain"] or (None, None)
        cells = [
            row["strategy"],
            "-" if row["n"] is None else str(row["n"]),
            f"{100 * row['accuracy']:.1f} %",
            f"{100 * low:.1f} to {100 * high:.1f}",
            "" if mean is None else f"{100 * mean:+.1f} ± {100 * half:.1f}",
            str(row["no_answer"]),
            str(row["cut"]),
            *(amount(row[name]) for name in ("generated_tokens", "prm_tokens", "flops")),
            "-" if row["seconds"] is None else f"{row['seconds']:.1f}",
            "-" if row["latency_p95"] is None else f"{row['latency_p95']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
