"""Several strategies, numbers and seeds in one command: each cell once, shared samples as if each ran alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from branchwise.cli.cells import make_cells, sources
from branchwise.cli.options import SearchOptions
from branchwise.errors import ConfigError

MINE = '''
import branchwise as bw
class Mine(bw.Majority):
    """As majority."""
    name = "mine"
    def __init__(self, width):
        super().__init__(n=int(width))
class Beam(bw.BeamSearch):
    pass
'''
SHARING = "greedy,majority,best_of_n,weighted_best_of_n"
TIMES = ("seconds", "latency_p50", "latency_p95")


def records(folder: str) -> dict[str, dict[str, Any]]:
    """All records of a folder, by cell and id, without what clocks say and where they came from."""
    found = {}
    for path in sorted(Path(folder).iterdir()):
        for record in map(json.loads, path.read_text().splitlines()[1:]):
            cost = record["cost"]
            for name in ("wall_seconds", "shared", "candidates", "text", "cost", "settings"):
                record.pop(name, None)
            names = ("generated_tokens", "prefill_tokens", "prm_tokens", "flops", "prm_flops")
            found[f"{path.stem}/{record['id']}"] = {**record, **{name: cost[name] for name in names}}
    return found


def test_every_strategy_with_every_number_and_seed_has_its_cell(command, engine, problems):
    done = command("eval", problems, "-s", "greedy,majority,beam", "-n", "4,8", "--seeds", 2, "--json")
    names = [f"{name}-seed{seed}" for name in ("beam-n4", "beam-n8", "greedy", "majority-n4", "majority-n8")
             for seed in (0, 1)]  # fmt: skip
    assert sorted(path.stem for path in Path("sums.results").iterdir()) == names
    assert engine.opened == 1
    assert len(engine.seen) == 6 * (1 + 2 + 4)  # greedy once, the chains of majority once for each seed
    rows = done.document["rows"]
    assert [(row["strategy"], row["n"]) for row in rows] == [
        ("greedy", None), ("majority", 4), ("majority", 8), ("beam", 4), ("beam", 8),
    ]  # fmt: skip
    assert all((row["seeds"], row["results"]) == ([0, 1], 12) for row in rows)
    assert done.document["total"]["searches"] == len(engine.seen)
    assert "60/60" in done.err


def test_what_is_shared_is_what_a_run_alone_finds(command, engine, problems):
    words = ("eval", problems, "-s", SHARING, "-n", "2,4,8", "--seeds", 2)
    shared = command(*words, "--json", "--out", "shared").document
    drawn = len(engine.seen)
    alone = command(*words, "--json", "--out", "alone", "--no-share").document
    assert (drawn, len(engine.seen) - drawn) == (6 * 3, 6 * 20)
    assert records("shared") == records("alone")
    for one, other in zip(shared["rows"], alone["rows"], strict=True):
        assert {**one, "shared": 0, **dict.fromkeys(TIMES)} == {**other, "shared": 0, **dict.fromkeys(TIMES)}
        assert not other["shared"]
        assert None not in [other[name] for name in TIMES]
        exact = one["strategy"] in ("greedy", "weighted_best_of_n", "best_of_n") and one["n"] in (None, 8)
        assert [one[name] is not None for name in TIMES] == [exact] * 3
    assert shared["total"]["generated_tokens"] < alone["total"]["generated_tokens"]


def test_the_table_says_what_was_shared(command, engine, problems):
    done = command("eval", problems, "-s", SHARING, "-n", "4,8")
    assert (
        "shared with best_of_n-n8, whose samples were drawn once: majority N=4, majority N=8, best_of_n N=4" in done.out
    )
    assert "tokens and FLOPs are what each would take alone; a dash was not timed" in done.out
    (header,) = [line for line in done.out.splitlines() if line.strip().startswith("strategy")]
    words = "strategy N accuracy 95 % interval no answer cut tokens judge tokens FLOPs seconds p50 p95"
    assert " ".join(header.split()) == words
    assert "majority             4" in done.out


def test_to_time_every_strategy_runs_what_was_shared(command, engine, problems):
    words = ("eval", problems, "-s", "majority,best_of_n", "-n", 4)
    command(*words)
    assert len(engine.seen) == 6
    rows = command(*words, "--no-share", "--json").document["rows"]
    assert len(engine.seen) == 12
    assert all(row["seconds"] > 0 and not row["shared"] for row in rows)


def test_cells_are_added_to_a_folder(command, engine, problems):
    command("eval", problems, "-s", "beam", "-n", 4)
    command("eval", problems, "-s", "beam", "-n", 8, "-O", "lookahead=1")
    done = command("eval", problems, "-s", "beam,greedy", "-n", 4)
    assert "holds 6 of 12 results" in done.err
    assert len(engine.seen) == 18
    names = ["beam-n4-seed0", "beam-n8-lookahead=1-seed0", "greedy-seed0"]
    assert sorted(path.stem for path in Path("sums.results").iterdir()) == names


@pytest.mark.parametrize("after", [0, 3, 8, 20])
def test_an_interrupted_comparison_goes_on_to_the_same_results(command, engine, problems, after):
    words = ("eval", problems, "-s", f"{SHARING},beam", "-n", "4,8", "--seeds", 2)
    command(*words, "--out", "whole")
    engine.seen.clear()
    shown = []

    def interrupt() -> None:
        shown.append(None)
        if len(shown) == after + 1:
            raise KeyboardInterrupt

    engine.before_each = interrupt
    done = command(*words)
    assert done.code == 130
    assert f" {after} results are safe in sums.results;" in done.err or after > 5
    assert command(*words).code == 0
    assert records("sums.results") == records("whole")
    assert len(engine.seen) == 6 * (1 + 2 + 4)


def test_what_a_source_cannot_say_is_searched(command, engine, problems):
    engine.failing = {"p2"}
    words = ("eval", problems, "-s", "majority,best_of_n", "-n", 4)
    command(*words)
    assert engine.seen.count("p2") == 2  # in both cells
    assert len(engine.seen) == 7
    engine.failing = set()
    done = command(*words, "--retry-failed", "--json")
    assert done.document["errors"] == {}
    assert engine.seen.count("p2") == 3


def test_rows_with_seeds_of_their_own_are_drawn_anew_for_every_seed(command, engine, problems):
    problems.write_text('{"id": "a", "problem": "1+1=?", "seed": 7}\n{"id": "b", "problem": "1+1=?"}\n')
    assert command("eval", problems, "-s", "greedy,majority", "-n", 4, "--seeds", 2).code == 0
    made = [record["question"] for record in records("sums.results").values() if record["id"] == "a"]
    assert len(set(made)) == 2
    assert "nothing is left" in command("eval", problems, "-s", "greedy,majority", "-n", 4, "--seeds", 2).err


def test_without_chance_one_search_is_enough_for_all(command, engine, problems):
    words = ("eval", problems, "-s", "majority,best_of_n", "-n", "4,8", "--seeds", 3, "--temperature", 0)
    done = command(*words)
    assert len(engine.seen) == 6
    assert "at temperature 0 all 4 or 8 branches are equal" in done.err
    command(*words, "--no-share", "--out", "alone")
    assert records("sums.results") == records("alone")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-s", "beam,greedy", "-n", "4,x"), "-n 4,x: expected whole numbers of at least 1, each once, as in -n 4,16"),
        (("-s", "beam", "-n", "4,4"), "-n 4,4: expected whole numbers of at least 1"),
        (("-s", "beam", "-n", "4,6"), "n=6 is no multiple of expand=4"),
        (("-s", "beam,beam"), "--strategy: 'beam' was given twice"),
        (("-s", ","), "--strategy ',' names no strategy"),
        (("-s", "greedy,beem"), "strategy 'beem' is unknown"),
        (("-s", "greedy,majority", "--expand", 2), "none of greedy, majority has an option 'expand'"),
        (("-s", "greedy", "-n", 4), "strategy 'greedy' has no option 'n'"),
        (("-s", "majority,beam", "-O", "look=2"), "have n, max_steps, expand, aggregate, vote, every, lookahead"),
        (("-s", "beam,mine.py:Beam", "-n", 4), "--strategy: 'beam' is the name of two: give yours another `name`"),
        (("-s", "greedy,beam", "--policy", "m.gguf"), "strategy 'beam' needs step scores: name a process reward model"),
        (("--seed", 2**64 - 1, "--seeds", 2), "seed=18446744073709551616"),
    ],
)
def test_what_cannot_work_is_one_line(command, engine, problems, words, message):
    Path("mine.py").write_text(MINE)
    done = command("eval", problems, *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert engine.opened == 0
    assert not Path("sums.results").exists()


def test_a_strategy_of_ones_own_is_known_by_its_file(command, engine, problems):
    Path("mine.py").write_text(MINE)
    words = ("eval", problems, "-s", "mine.py:Mine,majority", "-O", "width=3", "--limit", 2)
    assert command(*words).code == 0
    (path,) = Path("sums.results").glob("mine-*")
    assert path.stem == "mine-n3-width=3-seed0"
    settings = json.loads(path.read_text().splitlines()[0])["settings"]
    assert settings["options"] == {"n": 3, "max_steps": None, "width": 3}
    assert len(settings["source"]) == 16


def test_options_reach_the_strategies_that_have_them():
    cells = make_cells(SearchOptions(strategy_option=["lookahead=1"], expand=2), "greedy,beam,rebase", "4", 1)
    assert [cell.name for cell in cells] == [
        "greedy-seed0", "beam-n4-lookahead=1-expand=2-seed0", "rebase-n4-lookahead=1-seed0",
    ]  # fmt: skip
    assert cells[1].label == "beam lookahead=1 expand=2"


def test_samples_are_shared_only_where_they_are_the_same():
    def shared(strategies: str, without_chance: bool = False, **options: Any) -> dict[str, str]:
        cells = make_cells(SearchOptions(**options), strategies, "4,8", 2)
        return {name: cell.name for name, cell in sources(cells, without_chance=without_chance).items()}

    assert shared("beam,rebase,particles,adaptive,esc,mcts") == {}
    assert shared("majority") == {f"majority-n4-seed{seed}": f"majority-n8-seed{seed}" for seed in (0, 1)}
    assert shared("majority,best_of_n")["majority-n8-seed1"] == "best_of_n-n8-seed1"
    assert shared("greedy,majority")["greedy-seed1"] == "greedy-seed0"
    assert set(shared("majority", without_chance=True).values()) == {"majority-n8-seed0"}
    with pytest.raises(ConfigError):
        make_cells(SearchOptions(), "best_of_n", "0", 1)
