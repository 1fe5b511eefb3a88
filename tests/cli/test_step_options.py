"""What ends steps and solutions, and how many threads, from the command line to the engine and the results file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from branchwise.cli.options import SearchOptions, unescaped


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (r"\n\n", "\n\n"), (r"\\n", r"\n"), (r"\]", r"\]"), (r"\boxed", r"\boxed"), (r"a\tb\r", "a\tb\r"),
        ("\n", "\n"), ("\\", "\\"), (r"\\\n", "\\\n"),
    ],
)  # fmt: skip
def test_escapes(given: str, meant: str) -> None:
    assert unescaped([given]) == [meant]


def test_options_reach_the_engine() -> None:
    options = SearchOptions(
        delimiter=[r"\n", "Step"], stop=["</answer>"], max_step_tokens=77, threads=1, end_at_answer=True
    )
    config = options.engine_config()
    assert (config.delimiter, config.stop) == (["\n", "Step"], ["</answer>"])
    assert (config.max_step_tokens, config.threads, config.end_at_answer) == (77, 1, True)
    unset = SearchOptions().engine_config()
    assert (unset.delimiter, unset.stop, unset.end_at_answer, unset.threads) == (None, None, None, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--delimiter", ""), "'' ends nothing"), (("--stop", ""), "'' ends nothing"),
        (("--max-step-tokens", 0), "max_step_tokens=0"), (("--delimiter", "x" * 2000), "more than 1024 bytes"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_models_load(command, engine, words, message) -> None:
    done = command("solve", "1+1=?", "-n", 4, *words)
    assert done.code == 2
    assert message in done.err
    assert engine.opened == 0


def test_several_are_taken_and_recorded(command, engine, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.jsonl").write_text('{"id": "1", "problem": "1+1=?", "answer": "2"}\n')
    words = ("--delimiter", r"\n", "--delimiter", "=", "--stop", "end", "--max-step-tokens", 9, "--threads", 1)
    done = command("eval", "p.jsonl", "-s", "majority", "-n", 2, "--out", "r", *words)
    assert done.code == 0, done.err
    settings = json.loads(Path("r/majority-n2-seed0.jsonl").read_text().splitlines()[0])["settings"]
    assert (settings["delimiter"], settings["stop"], settings["max_step_tokens"]) == ([r"\n", "="], ["end"], 9)
    assert "threads" not in settings
    again = command("eval", "p.jsonl", "-s", "majority", "-n", 2, "--out", "r", *words[2:])
    assert again.code == 2
    assert "delimiter" in again.err
