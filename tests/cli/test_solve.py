"""`solve` draws plain text into pipes, lives on terminals, and refuses what cannot work before models load."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys

import pytest
from rich.console import Console

from branchwise.cli.live import LiveTree, describe
from branchwise.cli.options import SearchOptions, parse_size
from branchwise.errors import ConfigError
from branchwise.strategies import BeamSearch
from branchwise.types import Problem
from cli.fake_engine import FakeEngine
from search.scripted import ScriptedPair, run


def test_a_pipe_gets_the_final_tree_in_plain_text(command, engine):
    done = command("solve", "1+1=?", "-n", 8)
    assert done.code == 0
    assert "\x1b" not in done.out
    assert done.out.startswith("1+1=?\n├─ ")
    for word in ("✗", "★", "solution", "votes", "answer", "why", "cost"):
        assert word in done.out
    assert "bundled models" in done.err
    assert "integer arithmetic" in done.err


def test_json_is_all_that_stdout_holds(command, engine):
    document = command("solve", "1+1=?", "-n", 8, "--json").document
    assert document["problem"] == "1+1=?"
    assert document["strategy"] == "beam"
    assert len(document["candidates"]) == 8
    assert document["tree"][0]["parent"] is None


def test_own_models_get_no_word_about_the_bundled_ones(command, engine):
    done = command("solve", "1+1=?", "-s", "majority", "--policy", "m.gguf")
    assert done.code == 0
    assert "bundled" not in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("solve", "  "), "the question is empty"),
        (("solve", "q", "-n", 10), "n=10 is no multiple of expand=4: use n=8 or n=12"),
        (("solve", "q", "-s", "beem"), "strategy 'beem' is unknown"),
        (("solve", "q", "-s", "greedy", "-n", 4), "strategy 'greedy' has no option 'n'"),
        (("solve", "q", "--policy", "m.gguf"), "name a process reward model with --prm"),
        (("solve", "q", "--vote", "loud"), "vote is 'loud'"),
        (("solve", "q", "--temperature", -1), "temperature=-1.0"),
        (("solve", "q", "--dtype", "int3"), "dtype='int3'"),
        (("solve", "q", "--kv-memory", "lots"), "--kv-memory 'lots' is no size"),
        (("solve", "q", "--seed", -1), "seed=-1"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(command, engine, words, message):
    done = command(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert engine.opened == 0


def test_the_folder_of_packed_weights_is_an_option_of_the_engine():
    assert SearchOptions().engine_config().weight_cache is None
    assert SearchOptions(weight_cache="folder").engine_config().weight_cache == "folder"


def test_usage_errors_have_the_same_exit_code(command):
    assert command("solve").code == 2
    assert command("solve", "q", "--no-such-option").code == 2
    assert command("no-such-command").code == 2


def test_ctrl_c_is_one_line(command, engine):
    engine.interrupt_after = 0
    done = command("solve", "1+1=?", "--json")
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-1] == "interrupted"


def test_a_terminal_sees_the_tree_grow():
    """Every frame fits the terminal, and they show growing, pruned and finished steps."""
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=20, color_system="standard")
    view = LiveTree(console, "1+1=?")
    frames = []

    def listen(progress):
        view(progress)
        with console.capture() as shown:
            console.print(view.render())
        frames.append(shown.get())

    engine = ScriptedPair(order=random.Random(2))
    (result,) = run([Problem("p", "1+1=?")], BeamSearch(n=8, expand=4), engine, max_in_flight=1, on_event=listen)
    assert all(len(frame.splitlines()) <= 20 for frame in frames)
    text = "".join(frames)
    assert "✗" in text
    assert "\x1b[" in text
    assert any("…" in frame for frame in frames)
    assert "1+1=?" in frames[0]
    with console.capture() as shown:
        console.print(describe(result, console))
    assert "★" in shown.get()


def test_solve_on_a_terminal_draws_and_cleans_up(monkeypatch):
    from branchwise.cli import solve

    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, height=30)
    monkeypatch.setattr(solve, "make_console", lambda **_: console)
    solve._show(FakeEngine(), "1+1=?", SearchOptions(n=8))
    assert "answer" in file.getvalue().split("\x1b[2K")[-1]


def test_output_for_a_terminal_without_unicode_is_ascii():
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"), width=80)
    (result,) = run([Problem("p", "1+1=?")], BeamSearch(n=8, expand=4), ScriptedPair(), max_in_flight=1)
    console.print(describe(result, console))
    console.file.flush()
    assert b"|- " in raw.getvalue()


@pytest.mark.parametrize(
    ("text", "size"), [("512M", 512 << 20), ("4g", 4 << 30), ("1.5 GiB", 3 << 29), ("1048576", 1 << 20), ("2kb", 2048)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1G", "4X", "1e9", "4 G G"])
def test_no_sizes(text):
    with pytest.raises(ConfigError, match="is no size"):
        parse_size(text)


def test_an_unknown_instruction_set_is_one_line():
    words = [sys.executable, "-m", "branchwise", "solve", "1+1=?", "-s", "greedy"]
    environment = {**os.environ, "BRANCHWISE_CPU_ISA": "abacus"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("error: BRANCHWISE_CPU_ISA is 'abacus'")
    assert "Traceback" not in done.stderr


def test_penalties_reach_the_engine(command, engine):
    given = ("--repetition-penalty", 1.2, "--presence-penalty", 0.5, "--frequency-penalty", -0.25)
    assert command("solve", "1+1=?", *given).code == 0
    config = SearchOptions(repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=-0.25).engine_config()
    assert (config.repetition_penalty, config.presence_penalty, config.frequency_penalty) == (1.2, 0.5, -0.25)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repetition-penalty", 0),
        ("repetition-penalty", "nan"),
        ("presence-penalty", 1000),
        ("frequency-penalty", "inf"),
    ],
)
def test_penalties_that_cannot_work(command, engine, name, value):
    done = command("solve", "1+1=?", f"--{name}", value)
    assert done.code == 2
    assert name in done.err.replace("_", "-")
