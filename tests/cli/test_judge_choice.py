"""Judges from a file of one's own, alone, beside a PRM and several; what cannot judge is one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from branchwise.cli.evaluate import common_settings
from branchwise.cli.options import SearchOptions

MINE = """
import branchwise as bw


def checker(question, branches):
    return [1 / (1 + len("".join(steps))) for steps in branches]


def fails(question, branches):
    raise ValueError("no idea")


class Mine:
    def score(self, question, branches):
        return [0.5 for _ in branches]


class Sized(Mine):
    def __init__(self, size):
        self.size = size


def one(steps):
    return 0.0


async def later(question, branches):
    return [0.5 for _ in branches]


apart = bw.PythonJudge(checker, isolate=True, seconds=5)
number = 7
text = "some/model"
"""


@pytest.fixture(autouse=True)
def _file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    Path("own_judges.py").write_text(MINE)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def judges(*places: str, **more: object):
    return SearchOptions(judge=list(places), **more).own_judges()


def test_functions_objects_and_classes_judge():
    (function,) = judges("own_judges.py:checker")
    assert function.judge.name == "checker"
    (made,) = judges("own_judges.py:Mine")
    assert made.judge.call("", [["a"], ["b"]]) == [0.5, 0.5]
    (ready,) = judges(f"{Path('own_judges.py').resolve()}:apart")
    assert ready.judge.isolate
    assert len(judges("own_judges.py:checker", "own_judges.py:Mine", judge_rule="mean")) == 2
    assert len(judges("own_judges.py:checker", judge_rule="first", prm="some-prm")) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--judge", "none.py:f"), "--judge none.py:f: cannot read none.py: No such file or directory"),
        (("--judge", "own_judges.py:chekcer"), "has no 'chekcer'; it has checker, fails, Mine, Sized, one, later"),
        (("--judge", "own_judges.py:chekcer"), "did you mean 'checker'?"),
        (("--judge", "own_judges.py"), "holds several things: say which, as in my.py:checker"),
        (("--judge", "own_judges.py:number"), "--judge own_judges.py:number: judge 7: expected a function of"),
        (("--judge", "own_judges.py:text"), "judge 'some/model': expected a function of"),
        (("--judge", "own_judges.py:Sized"), "Sized() raised TypeError: "),
        (("--judge", "own_judges.py:Sized"), "judge = Sized(...), and name that, as in own_judges.py:judge"),
        (("--judge", "own_judges.py:one"), "judge one takes (steps): expected (question, branches)"),
        (("--judge", "own_judges.py:later"), "judge later is async: expected a function that returns its numbers"),
        (("--judge", "nested.py:judge"), "nested.py, line 2: ConfigError: judge <lambda> does not pickle"),
        (("--judge", "prm.gguf"), "expected a judge of a file, as in my.py:checker; a model is named with --prm"),
        (("--judge", "typo.py:f"), "--judge typo.py:f: typo.py, line 3: SyntaxError: "),
        (("--judge", "own_judges.py:checker", "--judge", "own_judges.py:Mine"), "scores: say --judge-rule, one of"),
        (("--judge", "own_judges.py:checker", "--prm", "p"), "2 judges without a rule"),
        (("--judge", "own_judges.py:checker", "--judge-rule", "mean"), "combines several judges, there is 1"),
        (("--judge-rule", "maen"), "did you mean 'mean'?"),
        (("--policy", "m"), "name a process reward model with --prm, or a judge of your own with --judge"),
    ],
)
@pytest.mark.parametrize("name", ["solve", "eval"])
def test_what_cannot_work_is_one_line(command, engine, problems, name, words, message):
    Path("own_judges.py").write_text(MINE)
    Path("nested.py").write_text("import branchwise as bw\njudge = bw.PythonJudge(lambda q, b: [], isolate=True)\n")
    Path("typo.py").write_text("x = 1\n\ndef f(:\n")
    done = command(name, "1+1=?" if name == "solve" else problems, *words)
    assert (done.code, done.out) == (2, ""), done.err
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert engine.opened == 0


def test_a_strategy_that_needs_scores_takes_them_from_a_function(command):
    """With the bundled policy, whose PRM is not even read."""
    done = command("solve", "12+3*4-5+60=?", "--judge", "own_judges.py:checker", "-n", 4, "--json")
    assert done.code == 0, done.err
    assert done.document["cost"]["prm_tokens"] == 0
    scored = [node for node in done.document["tree"] if node["score"] is not None]
    assert scored
    assert all(0 < node["score"] < 1 for node in scored)


def test_a_function_of_a_file_judges_in_a_process_of_its_own(command):
    done = command("solve", "12+3*4-5+60=?", "--judge", "own_judges.py:apart", "-n", 4, "--json")
    assert done.code == 0, done.err
    assert done.document["unjudged"] == {}
    assert any(node["score"] is not None for node in done.document["tree"])


def test_what_a_function_could_not_score_is_said(command):
    done = command("solve", "12+3*4-5+60=?", "--judge", "own_judges.py:fails", "-n", 4)
    assert done.code == 0
    assert "no score, so that branches rank last: judge fails raised ValueError: no idea" in done.out


def test_an_evaluation_by_two_judges_and_a_vote_of_them(command, problems):
    two = ("--judge", "own_judges.py:checker", "--judge", "own_judges.py:fails", "--judge-rule", "product")
    words = ("eval", problems, "-s", "beam,best_of_n", "-n", 4, "--limit", 2, *two)
    done = command(*words)
    assert done.code == 0, done.err
    assert "rank last: judge fails raised ValueError: no idea" in " ".join(done.out.split())
    record = json.loads(Path("sums.results/beam-n4-seed0.jsonl").read_text().splitlines()[1])
    assert set(record["unjudged"]) == {"judge fails raised ValueError: no idea"}
    assert "nothing is left to do" in command(*words).err


def test_results_belong_to_the_judge_and_the_text_of_its_file():
    def settings(place: str) -> object:
        return common_settings(SearchOptions(judge=[place]))[0]["judge"]

    before = settings("own_judges.py:checker")
    Path("moved").mkdir()
    Path("moved/own_judges.py").write_text(MINE)
    assert settings("moved/own_judges.py:checker") == before
    assert settings("own_judges.py:fails") != before
    Path("moved/own_judges.py").write_text(MINE + "# mended\n")
    assert settings("moved/own_judges.py:checker") != before
    assert common_settings(SearchOptions(judge=["own_judges.py:checker"]))[0]["prm"] is None


@pytest.mark.parametrize("name", ["solve", "eval"])
def test_the_help_says_how_to_bring_a_judge(command, name):
    shown = " ".join(command(name, "--help").out.replace("│", " ").split())
    assert "my.py:checker" in shown
    assert "product, mean, min" in shown
