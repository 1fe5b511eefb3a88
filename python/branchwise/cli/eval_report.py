"""What an evaluation says at its end: a table of strategies, what was shared, cut and failed; or the same as JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from branchwise.cli.output import make_console, print_json, print_table, say
from branchwise.report import numbers
from branchwise.report.comparison import Line, columns, total
from branchwise.report.cuts import cut_lines, unjudged_lines
from branchwise.report.tally import Tally

if TYPE_CHECKING:
    from branchwise.cli.work import Work

Key = tuple[str, int | None]


def report(works: Sequence[Work], path: Path, *, json: bool) -> list[int]:
    """Print the table, or one JSON document; returns how many rows of each cell failed."""
    lines: dict[Key, Line] = {}
    errors: dict[str, dict[str, str]] = {}
    for work in sorted(works, key=lambda work: work.place):
        cell = work.cell
        line = lines.setdefault((cell.label, cell.n), Line(cell.label, cell.n))
        for row in work.rows:
            record = work.results.done[row.id]
            line.add(record, cell.seed)
            if record["error"] is not None:
                errors.setdefault(cell.name, {})[row.id] = record["error"]
    if json:
        print_json(_document(works, list(lines.values()), errors, path))
    else:
        _print(list(lines.values()), errors, path)
    return [len(errors.get(work.cell.name, {})) for work in works]


def _document(
    works: Sequence[Work], lines: Sequence[Line], errors: dict[str, dict[str, str]], path: Path
) -> dict[str, Any]:
    from branchwise.report.folder import OWN

    header = works[0].results.header
    spent = total(lines)
    return {
        "results": str(path),
        "settings": {name: value for name, value in header["settings"].items() if name not in OWN},
        "resolved": header["resolved"],
        "models": header["models"],
        "rows": [line.as_dict() for line in lines],
        "total": {
            "searches": spent.problems,
            "generated_tokens": spent.cost.generated_tokens,
            "prefill_tokens": spent.cost.prefill_tokens,
            "prm_tokens": spent.cost.prm_tokens,
            "flops": spent.cost.flops,
            "seconds": spent.wall_seconds,
        },
        "errors": errors,
    }


def _print(lines: Sequence[Line], errors: dict[str, dict[str, str]], path: Path) -> None:
    from branchwise.report.table import table

    console = make_console()
    equal = any(line.equal for line in lines)
    rows = [line.cells(equal=equal) for line in lines]
    print_table(console, table(columns(equal=equal), rows))
    for text in [*_shared(lines), *_totals(lines), *_missing(lines)]:
        say(console, text)
    if errors:
        cell, failed = next(iter(errors.items()))
        first, why = next(iter(failed.items()))
        say(
            console,
            f"{sum(map(len, errors.values()))} rows failed and count as neither right nor wrong; --retry-failed tries"
            f" them again. The first was {first!r} in {cell}: {why}",
        )
    say(console, f"results: {path}")


def _shared(lines: Sequence[Line]) -> list[str]:
    """Which samples were drawn once."""
    takers: dict[str, list[str]] = {}
    for line in lines:
        name = line.strategy if line.n is None else f"{line.strategy} N={line.n}"
        for source in dict.fromkeys(re.sub(r"-seed\d+$", "", each) for each in line.shared):
            takers.setdefault(source, []).append(name if line.real.problems == 0 else f"{name} (its other seeds)")
    made = [
        f"shared with {source}, whose samples were drawn once: {', '.join(names)}" for source, names in takers.items()
    ]
    if made:
        untimed = any(line.seconds is None for line in lines)
        words = "; a dash was not timed, --no-share runs every strategy by itself" if untimed else ""
        made.append(f"tokens and FLOPs are what each would take alone{words}")
    return made


def _totals(lines: Sequence[Line]) -> list[str]:
    spent: Tally = total(lines)
    cost = spent.cost
    return [
        f"in all {numbers.count(cost.generated_tokens)} tokens generated, {numbers.count(cost.prm_tokens)} judged,"
        f" {numbers.large(cost.flops)}FLOP, {numbers.seconds(spent.wall_seconds)},"
        f" {numbers.count(round(spent.problems_per_hour))} problems/h"
    ]


def _missing(lines: Sequence[Line]) -> list[str]:
    """What was not graded, what limits cut, and what judges could not score."""
    ungraded = {line.tally.problems - line.tally.failed - line.tally.graded for line in lines}
    made = [f"{max(ungraded)} problems have no gold answer and are not graded"] if max(ungraded) else []
    cuts = sum((line.tally.cuts for line in lines), Counter())
    unjudged = sum((line.unjudged for line in lines), Counter())
    return made + cut_lines(cuts) + unjudged_lines(unjudged)
