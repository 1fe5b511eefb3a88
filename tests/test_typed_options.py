"""Options are typed: what is misspelt, or of another type, fails under mypy before it fails at run time."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from branchwise.api import _CAPS, _ENDINGS
from branchwise.call_options import EngineOptions, StrategyOptions
from branchwise.config import SAMPLING, EngineConfig
from branchwise.strategies import STRATEGIES

GOOD = """
import branchwise as bw

def search(engine: bw.Engine, node: bw.Node) -> bw.Result:
    bw.Ask(node, 2, steps=1, prompt="?", feed="so", stop=["x"], max_tokens=3, score="last", lane=1)
    bw.Demand(4, 4, None, scores=False)
    engine.solve("?", "beam", n=16, lookahead=2, duplicates="last", temperature=0.7, max_tokens=9, deadline=3.0)
    list(engine.solve_many(["?"], bw.Majority(n=3), max_in_flight=2, reuse=False, stop="x"))
    bw.Engine(None, dtype="float32", kv_memory=1 << 30, judge=bw.PythonJudge(lambda question, branches: [0.5]))
    bw.ImplicitJudge("m", "r", value="step")
    return engine.solve("?", strategy=bw.RSA(n=16, k=4, loops=3))
"""
BAD = {
    'bw.BeamSearch(n=16, lookahed=2)': "lookahed",
    'bw.BeamSearch(n="16")': "incompatible type",
    'bw.DVTS(n=16, expend=4)': "expend",
    'bw.Rebase(balanc=1.0)': "balanc",
    'bw.ParticleFilter(resample="sytematic")': "incompatible type",
    'bw.MCTS(rule="uctt")': "incompatible type",
    'bw.RSA(n=4, loop=3)': "loop",
    'bw.Thinking(interwal=64)': "interwal",
    'bw.Majority(vote="max")': "vote",
    'bw.Ask(node, 1, max_token=3)': "max_token",
    'bw.Sampling(temprature=0.5)': "temprature",
    'bw.EngineConfig(dtype="float31")': "incompatible type",
    'bw.ImplicitJudge("m", "r", value="steps")': "incompatible type",
    'engine.solve("?", "beam", lookahed=2)': "lookahed",
    'engine.submit("?", "beam", n=16, temprature=0.5)': "temprature",
    'engine.solve_many(["?"], "dvts", expand="4")': "expand",
    'bw.Engine(None, kv_memroy=3)': "kv_memroy",
}  # fmt: skip


def test_the_options_of_calls_are_those_that_there_are() -> None:
    strategies = {each.name for made in STRATEGIES.values() for each in fields(made) if each.init}
    sampling = {*SAMPLING, *_CAPS, *_ENDINGS}
    assert set(StrategyOptions.__annotations__) == strategies | sampling | {"reuse"}
    assert set(EngineOptions.__annotations__) == {each.name for each in fields(EngineConfig)}


@pytest.mark.slow
def test_what_is_misspelt_fails_under_mypy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip("mypy.api")
    root = Path(__file__).parents[1]
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(GOOD)
    lines = ["import branchwise as bw", "def search(engine: bw.Engine, node: bw.Node) -> None:"]
    bad.write_text("\n".join([*lines, *(f"    {line}" for line in BAD)]) + "\n")
    monkeypatch.chdir(root)
    monkeypatch.setenv("MYPYPATH", f"{root}/python:{root}/kernels")
    options = ["--strict", "--follow-imports=silent", "--no-error-summary", "--explicit-package-bases"]
    options.append(f"--cache-dir={tmp_path / 'cache'}")  # that of others may know files of the same names
    told, errors, code = api.run([*options, str(good), str(bad)])
    assert (errors, code) == ("", 1)
    found: dict[int, str] = {}
    for line in (line for line in told.splitlines() if ": note: " not in line):
        match = re.match(rf"{re.escape(str(bad))}:(\d+): error: (.*)", line)
        assert match, line  # nothing is said of the good one
        found[int(match[1])] = found.get(int(match[1]), "") + match[2]
    for number, (line, word) in enumerate(BAD.items(), len(lines) + 1):
        assert word in found.get(number, "nothing was said"), line
    assert len(found) == len(BAD)
