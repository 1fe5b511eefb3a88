"""Votes that are taken again from the files of an evaluation are those of fresh runs; what would not be is refused."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from branchwise.answers.aggregate import AGGREGATES
from branchwise.answers.vote import VOTES
from branchwise.confidence import MEASURES
from branchwise.report.again import rule_of
from branchwise.strategies import STRATEGIES

COUNTED = ("accuracy", "interval95", "no_answer", "cut", "generated_tokens", "prefill_tokens", "prm_tokens", "flops")
FIRST = json.dumps({
    "branchwise_results": 3, "label": "a",
    "settings": {"policy": "p", "prm": None, "strategy": "greedy", "options": {}, "source": None, "seed": 0},
})  # fmt: skip


def fresh(command: Any, problems: Path, *words: object) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """The rows of a run in a folder of its own, and by cell and id its answers."""
    folder = problems.parent / f"fresh-{len(list(problems.parent.iterdir()))}"
    rows = command("eval", problems, *words, "--out", folder, "--no-share", "--json").document["rows"]
    answers = {
        f"{path.stem}/{record['id']}": (record["answer"], record["correct"])
        for path in folder.iterdir()
        for record in map(json.loads, path.read_text().splitlines()[1:])
    }
    return rows, answers


def same(vote: dict[str, Any], row: dict[str, Any], answers: dict[str, dict[str, Any]], cell: str) -> None:
    """A vote is the row of a fresh run, whose files are called `cell` up to the seed."""
    assert {name: vote[name] for name in COUNTED} == {name: row[name] for name in COUNTED}
    found = {name: answer for name, answer in answers.items() if name.startswith(f"{cell}-seed")}
    for each in vote["answers"]:
        assert found.pop(f"{cell}-seed{each['seed']}/{each['id']}") == (each["answer"], each["correct"])
    assert not found


@pytest.fixture
def few(problems: Path) -> Path:
    problems.write_text("".join(problems.read_text().splitlines(keepends=True)[:3]))
    return problems


def test_every_vote_aggregate_and_smaller_number_of_independent_solutions(command, engine, few):
    command("eval", few, "-s", "best_of_n", "-n", 8, "--seeds", 2)
    seen = len(engine.seen)
    words = ("--vote", ",".join(VOTES), "--aggregate", ",".join(AGGREGATES), "-n", "1,2,8")
    document = command("votes", "sums.results", *words, "--json").document
    assert len(engine.seen) == seen  # no model
    votes = {(each["n"], each["vote"], each["aggregate"]): each for each in document["votes"]}
    assert len(votes) == 48
    assert not document["refused"]
    for vote, kind in product(VOTES, AGGREGATES):
        given = ("-s", "best_of_n", "-n", "1,2,8", "--seeds", 2, "--vote", vote, "--aggregate", kind)
        rows, answers = fresh(command, few, *given)
        for row in rows:
            unusual = "".join([f"-aggregate={kind}" * (kind != "last"), f"-vote={vote}" * (vote != "max")])
            same(votes[row["n"], vote, kind], row, answers, f"best_of_n-n{row['n']}{unusual}")


def test_every_vote_of_every_strategy_that_has_one(command, engine, few):
    names = [name for name, strategy in STRATEGIES.items() if "vote" in strategy.__dataclass_fields__]
    names.remove("auto")  # its votes decide when it ends
    assert len(names) == 15
    words = ("-s", ",".join(names), "-n", 8)
    command("eval", few, *words, "--no-share")
    document = command("votes", "sums.results", "--json").document
    votes = {(each["strategy"], each["vote"]): each for each in document["votes"]}
    assert len(votes) == len(names) * len(VOTES)
    for vote in VOTES:
        rows, answers = fresh(command, few, *words, "--vote", vote)
        for row in rows:
            name = row["strategy"].split()[0]
            usual = vote == STRATEGIES[name].__dataclass_fields__["vote"].default
            same(votes[name, vote], row, answers, f"{name}-n8" + f"-vote={vote}" * (not usual))


def test_votes_without_scores(command, engine, few):
    command("eval", few, "-s", "majority,greedy", "-n", 8)
    document = command("votes", "sums.results", "-n", "3", "--vote", "majority,weighted", "--json").document
    rows, answers = fresh(command, few, "-s", "majority", "-n", 3)
    (vote,) = document["votes"]
    same(vote, rows[0], answers, "majority-n3")
    assert "majority N=8 has no votes with vote=weighted: its candidates have no scores" in (document["refused"])


def test_votes_by_how_sure_the_policy_was(command, engine, few):
    """Of a run that was told of it, whatever its own vote was: those of fresh runs that vote so."""
    window = ("--confidence-window", 2)
    command("eval", few, "-s", "majority", "-n", 8, "--seeds", 2, "--confidence-top", 20, *window)
    words = ("--by", ",".join(MEASURES), "--vote", "weighted,borda", "--keep", "40,100", "-n", "3,8", "--power", 2)
    document = command("votes", "sums.results", *words, "--json").document
    votes = {(each["n"], each["measure"], each["vote"], each["keep_percent"]): each for each in document["votes"]}
    assert len(votes) == 2 * len(MEASURES) * 2 * 2
    given = ("-s", "confidence", "-n", "3,8", "--seeds", 2, "-O", "window=2", "-O", "power=2")
    for measure, vote, keep in [("tail", "weighted", 40), ("lowest", "borda", 100), ("certainty", "borda", 40)]:
        rows, answers = fresh(
            command, few, *given, "--vote", vote, "-O", f"measure={measure}", "-O", f"keep_percent={keep}"
        )
        for row in rows:
            cell = next(name for name in answers if name.startswith(f"confidence-n{row['n']}-")).rsplit("-seed", 1)[0]
            same(votes[row["n"], measure, vote, keep], row, answers, cell)
    done = command("votes", "sums.results", "--by", "tail", "--vote", "weighted", "--keep", "40")
    assert "tail, top 40 %" in done.out


def test_other_runs_have_no_votes_by_that(command, engine, few):
    command("eval", few, "-s", "majority,beam", "-n", 4)
    done = command("votes", "sums.results", "--by", "tail", "--vote", "max")
    assert "majority N=4 has no votes with measure=tail: it was not told how sure the policy was" in done.err
    assert "beam N=4 has no votes with measure=tail: it was searched by a judge's scores" in done.err
    for words, message in [
        (("--by", "tial"), "--by is 'tial'"), (("--keep", "0"), "--keep is 0.0, expected more than 0 to 100"),
        (("--keep", "x"), "--keep x: expected a number"), (("--power", "-1"), "--power is -1.0, expected 0 to 100"),
    ]:  # fmt: skip
        assert message in command("votes", "sums.results", *words).err


def test_what_was_shared_is_taken_from_its_source(command, engine, few):
    command("eval", few, "-s", "majority,best_of_n,weighted_best_of_n", "-n", "4,8")
    labels = {each["strategy"] for each in command("votes", "sums.results", "--json").document["votes"]}
    assert labels == {"best_of_n"}


def test_pass_and_majority_at_k(command, engine, problems):
    command("eval", problems, "-s", "majority,beam", "-n", 8, "--seeds", 2)
    document = command("votes", "sums.results", "-s", "majority", "--json").document
    at = {each["k"]: each for each in document["at"]}
    assert list(at) == [1, 2, 4, 8]
    assert at[1]["pass"] == pytest.approx(at[1]["majority"])
    assert at[1]["pass"] <= at[2]["pass"] <= at[4]["pass"] <= at[8]["pass"]
    for each in at.values():
        assert each["problems"] == 6
        assert each["pass_interval95"][0] <= each["pass"] <= each["pass_interval95"][1]
        assert each["majority_interval95"][0] <= each["majority"] <= each["majority_interval95"][1]
    done = command("votes", "sums.results", "--at", "3,9")
    assert "note: majority N=8: 9 solutions at a time are more than it drew" in done.err
    assert "note: beam N=8: pass@k and maj@k take solutions that are independent of each other" in done.err
    assert "pass@k" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("-s", "beam", "-n", 2),
            "beam N=4 has no votes with n=2: it would grow other branches than with n=4",
        ),
        (
            ("-s", "beam", "--aggregate", "min"),
            "beam N=4 has no votes with aggregate=min: it was searched by aggregate=last",
        ),
        (("-s", "adaptive"), "adaptive N=4 has no other votes: its answer is more than a vote of its candidates"),
        (("-s", "dvts"), "has no results of 'dvts' of its own: it has adaptive, beam, majority"),
        (("-s", "majority", "-n", 5), "majority N=4 has no votes with n=5: it drew 4"),
        (("-s", "majority", "-n", "x"), "-n x: expected whole numbers"),
        (("-s", "majority", "--vote", "loud"), "votes: --vote is 'loud', expected one of majority, max, weighted"),
        (("-s", "majority", "--aggregate", "mena"), "did you mean 'mean'?"),
    ],
)
def test_what_is_not_exact_is_one_line(command, engine, problems, words, message):
    command("eval", problems, "-s", "majority,beam,adaptive", "-n", 4, "--limit", 2)
    done = command("votes", "sums.results", *words, *(() if words[1] != "majority" else ("--at", 99)))
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, "sums.results is no folder"),
        (lambda: Path("sums.results").mkdir(), "sums.results holds no results"),
        (lambda: (Path("sums.results").mkdir(), Path("sums.results/a.jsonl").write_text("{}\n")), "holds no results"),
        (
            lambda: (
                Path("sums.results").mkdir(),
                Path("sums.results/a.jsonl").write_text('{"branchwise_results": 2}\n'),
            ),
            "has format 2",
        ),
        (
            lambda: (
                Path("sums.results").mkdir(),
                Path("sums.results/a.jsonl").write_text(FIRST.replace('"p"', "5") + "\n"),
            ),
            "a.jsonl: its first line is none of this version (settings.policy is 5, expected a text)",
        ),
        (
            lambda: (
                Path("sums.results").mkdir(),
                Path("sums.results/a.jsonl").write_text(f'{FIRST}\n{{"i\n{{}}\n'),
            ),
            "a.jsonl, line 2: not a result",
        ),
    ],
)
def test_what_is_no_folder_of_results(command, problems, make, message):
    make()
    done = command("votes", "sums.results")
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_a_torn_last_line_is_left_out(command, engine, problems):
    command("eval", problems, "-s", "majority", "-n", 4)
    path = Path("sums.results/majority-n4-seed0.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    (vote,) = command("votes", "sums.results", "--json").document["votes"]
    assert vote["results"] == 5


def test_strategies_of_files_and_those_with_rules_of_their_own_are_not_known():
    settings = {"strategy": "beam", "options": {"n": 4, "vote": "max"}, "source": None}
    assert rule_of(settings) is not None
    assert rule_of({**settings, "source": "0123"}) is None
    assert rule_of({**settings, "strategy": "esc", "options": {"n": 4}}) is None
    assert rule_of({**settings, "strategy": "mine"}) is None
