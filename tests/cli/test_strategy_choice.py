"""Strategies from the registry or a file of one's own, with options of their types; what cannot work is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from branchwise.cli.options import SearchOptions
from branchwise.cli.strategies import first_sentence, strategy_rows
from branchwise.strategies import STRATEGIES, BeamSearch, ParticleFilter

MINE = '''
from __future__ import annotations
from dataclasses import dataclass
from helper import LONG
import branchwise as bw


class Mine(bw.BeamSearch):
    """A beam search."""


@dataclass(frozen=True)
class Typed(bw.Majority):
    strict: bool = False
    share: float | None = 0.5
    words: tuple = ()
    label: str = "x"


class Plain(bw.Majority):
    def __init__(self, width, deep=False):
        super().__init__(n=int(width))
        if deep:
            raise ValueError("too deep")


ready = bw.Majority(n=3)
nothing = 7
class NoStrategy: pass
'''


@pytest.fixture(autouse=True)
def _file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    Path("mine.py").write_text(MINE)
    Path("helper.py").write_text("LONG = 40\n")
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def made(*options: str, strategy: str = "beam", **more: object):
    return SearchOptions(strategy=strategy, strategy_option=list(options), **more).make_strategy()


def test_every_option_of_a_strategy_can_be_given():
    assert made("lookahead=2", "duplicates=last", n=8) == BeamSearch(n=8, lookahead=2, duplicates="last")
    assert made("ess=0.5", "resample=multinomial", strategy="particles") == ParticleFilter(
        ess=0.5, resample="multinomial"
    )
    assert made("sort-completed=yes", strategy="sal_beam").sort_completed is True


def test_types_are_those_of_the_class():
    typed = made("strict=on", "share=2", "words=(1, 2)", "label=7", strategy="mine.py:Typed", n=4)
    assert (typed.strict, typed.share, typed.words, typed.label, typed.n) == (True, 2.0, (1, 2), "7", 4)
    assert made("share=none", strategy="mine.py:Typed").share is None


def test_a_strategy_of_ones_own_from_a_file():
    assert made("every=2", strategy="mine.py:Mine", n=8).every == 2
    assert made("width=5", strategy="mine.py:Plain").n == 5
    ready = made(strategy="mine.py:ready")
    assert ready is made(strategy=f"{Path('mine.py').resolve()}:ready")  # a file runs once
    assert type(ready).__module__ == "branchwise.strategies.majority"


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        ("beam", ("lookahed=2",), "no option 'lookahed': it has n, expand"),
        ("beam", ("lookahed=2",), "did you mean 'lookahead'?"),
        ("beam", ("lookahead",), "-O lookahead: write NAME=VALUE"),
        ("beam", ("lookahead=two",), "-O lookahead=two: expected a whole number"),
        ("beam", ("lookahead=1", "lookahead=2"), "lookahead was given before, as 1"),
        ("beam", ("expand=2",), "expand has a flag of its own, --expand 2"),
        ("beam", ("duplicates=kep",), "duplicates is 'kep', expected one of keep, last, drop; did you mean 'keep'?"),
        ("sal_beam", ("sort_completed=maybe",), "expected true or false"),
        ("particles", ("ess=half",), "-O ess=half: expected a number"),
        ("none.py:Mine", (), "cannot read none.py: No such file or directory"),
        (".:Mine", (), "strategy '.:Mine' is unknown"),
        ("mine.py:Min", (), "it has Mine, Typed, Plain, ready, nothing, NoStrategy; did you mean 'Mine'?"),
        ("mine.py", (), "mine.py holds several things: say which, as in my.py:MyStrategy; it has Mine"),
        ("mine.py:nothing", (), "strategy 7: it lacks demand, start, propose, observe, select"),
        ("mine.py:NoStrategy", (), "it lacks demand, start"),
        ("mine.py:Plain", (), "Plain() raised TypeError"),
        ("mine.py:Plain", ("width=x",), "Plain(width='x') raised ValueError: invalid literal"),
        ("mine.py:Plain", ("width=2", "deep=yes"), "Plain(width=2, deep=True) raised ValueError: too deep"),
        ("mine.py:Mine", ("n=2",), "n has a flag of its own, -n 2"),
        ("mine.py:Typed", ("strict=maybe",), "expected true or false"),
        ("mine.py:ready", ("wave=2",), "strategy 'mine.py:ready' has no option 'wave': it is ready as it is"),
        ("typo.py:Mine", (), "typo.py, line 3: SyntaxError: "),
        ("lacks.py:Mine", (), "lacks.py, line 2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("deep.py:Mine", (), "deep.py, line 3: ZeroDivisionError: division by zero"),
        ("ends.py:Mine", (), "ends.py, line 2: SystemExit: 3"),
    ],
)
def test_what_cannot_work_is_one_line(command, engine, strategy, options, message):
    Path("typo.py").write_text("x = 1\n\ndef f(:\n")
    Path("lacks.py").write_text("import os\nimport no_such_module\n")
    Path("deep.py").write_text("import statistics\ndef f():\n    return 1 / 0\nf()\n")
    Path("ends.py").write_text("import sys\nsys.exit(3)\n")
    done = command("solve", "1+1=?", "-s", strategy, *(word for option in options for word in ("-O", option)))
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert engine.opened == 0


def test_a_strategy_from_a_file_solves(command, engine):
    document = command("solve", "1+1=?", "-s", "mine.py:Mine", "-n", 4, "-O", "every=2", "--json").document
    assert len(document["candidates"]) == 4


@pytest.mark.parametrize("name", ["solve", "eval"])
def test_the_help_lists_every_strategy_with_what_it_does(command, name):
    shown = " ".join(command(name, "--help").out.split())
    for strategy in STRATEGIES:
        assert strategy in shown
    assert "lookahead=0" in shown


def test_every_strategy_says_what_it_does_in_a_short_sentence():
    for name, what, _, _ in strategy_rows():
        assert 10 < len(what) < 100, name
        assert what[0].isalnum()
    assert first_sentence("One thing.\n\nMore. And more.") == "One thing"
