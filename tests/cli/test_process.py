"""The command line as a process: signals, streams that are closed or full, terminals of all kinds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from branchwise import signals
from branchwise.cli.output import guarded_streams, make_console, print_json

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def run(*words: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`branchwise` with words, and what a shell does to its streams."""
    command = ["bash", "-c", f'"$@" {shell}', "bash", sys.executable, "-m", "branchwise", *words]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


@pytest.fixture
def watched() -> Iterator[None]:
    """The handlers of a command, in this process."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in CODES}
    signals.watch()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", CODES)
@pytest.mark.usefixtures("watched")
def test_a_signal_ends_a_run_with_its_file_whole_and_a_word_on_how_to_go_on(command, engine, problems, number):
    engine.before_each = lambda: os.kill(os.getpid(), number) if len(engine.seen) == 3 else None
    done = command("eval", problems, "-n", 4)
    assert (done.code, done.out) == (CODES[number], "")
    assert "3 results are safe in sums.results; run the same command again" in done.err
    assert len(Path("sums.results/beam-n4-seed0.jsonl").read_text().splitlines()) == 4
    engine.before_each = lambda: None
    assert command("eval", problems, "-n", 4).code == 0
    assert len(engine.seen) == 6


@pytest.mark.parametrize("number", CODES)
def test_a_signal_during_an_import_ends_the_process_at_once(tmp_path, number):
    """Whatever an import makes of the exception: some swallow it, some turn it into another."""
    code = f"import os\ntry:\n    os.kill(os.getpid(), {int(number)})\nexcept BaseException:\n    pass\n"
    (tmp_path / "swallows.py").write_text(code)
    script = (
        "from branchwise import signals; signals.watch()\nwith signals.Raise():\n    import swallows; print('went on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{_path()}"},
        capture_output=True, text=True, check=False, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # fmt: skip
    words = "interrupted" if number == signal.SIGINT else "terminated"
    assert (done.returncode, done.stdout, done.stderr) == (CODES[number], "", f"{words}\n")


def test_the_cursor_that_a_spinner_hides_comes_back(tmp_path):
    (tmp_path / "slow.py").write_text("import os\nos.kill(os.getpid(), 15)\n")
    ours, theirs = os.openpty()
    script = "from branchwise import signals; signals.watch(); import slow"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{_path()}"}
    assert subprocess.run([sys.executable, "-c", script], env=environment, stderr=theirs, check=False).returncode == 143
    assert b"\x1b[?25hterminated" in os.read(ours, 1000)
    os.close(ours), os.close(theirs)


def test_a_second_signal_ends_the_process_at_once():
    script = (
        "import os, signal; from branchwise import signals; signals.watch()\n"
        "with signals.Raise():\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n        os.kill(os.getpid(), signal.SIGINT)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": _path()}, capture_output=True, text=True,
        check=False, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.usefixtures("watched")
def test_a_signal_while_a_result_is_written_waits_until_it_is_counted(command, engine, problems, monkeypatch):
    def interrupted(fd: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        fsync(fd)

    fsync = os.fsync
    engine.before_each = lambda: monkeypatch.setattr(os, "fsync", interrupted) if len(engine.seen) == 2 else None
    done = command("eval", problems, "-n", 4)
    monkeypatch.setattr(os, "fsync", fsync)
    assert done.code == 143
    assert "3 results are safe" in done.err
    assert len(Path("sums.results/beam-n4-seed0.jsonl").read_text().splitlines()) == 4


def test_a_signal_before_a_command_runs_ends_the_process_at_once():
    """The library of the command line would make it an exit code of its own."""
    script = "import signal; from branchwise import signals; signals.watch(); signal.raise_signal(signal.SIGTERM)"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": _path()}, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (143, b"terminated\n")


def test_a_signal_that_is_ignored_stays_so():
    script = "import signal; from branchwise import signals; signals.watch(); signal.raise_signal(signal.SIGHUP)"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": _path()}, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    assert done.returncode == 0


def _path() -> str:
    import branchwise

    return str(Path(branchwise.__file__).parents[1])


@pytest.mark.parametrize(
    ("words", "shell", "code", "err"),
    [
        (("--help",), "| true; exit ${PIPESTATUS[0]}", 141, ""),
        (("--help",), ">&-", 0, ""),
        (("--help",), "> /dev/full", 2, "error: cannot write the output: No space left on device\n"),
        (("solve", ""), ">&-", 2, "error: the question is empty: write what is to be solved, in quotes\n"),
        (("solve", ""), "2>&-", 2, ""),
        (("solve", ""), "2> /dev/full", 2, ""),
        (("solve", ""), "<&- >&- 2>&-", 2, ""),
        (("solve", ""), "2>&1 >&- | true; exit ${PIPESTATUS[0]}", 2, ""),
    ],
)
def test_streams_that_are_closed_or_full_are_no_traceback(words, shell, code, err):
    done = run(*words, shell=shell)
    assert (done.returncode, done.stderr) == (code, err)


@pytest.mark.parametrize("columns", ["0", "1", "x", "-3", "99999"])
def test_any_claim_about_the_width_leaves_the_help_readable(columns):
    done = run("--help", COLUMNS=columns)
    assert done.returncode == 0
    assert "Commands" in done.stdout


def test_output_that_nobody_reads_ends_a_command(command, engine, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert command("solve", "1+1=?", "-n", 4, "--json").code == 141
        assert command("solve", "1+1=?", "-n", 4).code == 0  # the rest goes nowhere


def test_a_lost_stderr_does_not_end_a_run(command, engine, problems, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert command("eval", problems, "-n", 4).code == 0
    assert len(engine.seen) == 6


STEERING = "\x1b[2Jred\x9b31m \u202egnp.exe \x07 [bold]x[/] :smile: [/nope]"


@pytest.mark.parametrize("terminal", [True, False])
def test_what_could_steer_a_terminal_never_reaches_it(command, engine, problems, monkeypatch, terminal):
    problems.write_text("".join(json.dumps({"id": i, "problem": STEERING, "answer": STEERING}) + "\n" for i in "ab"))
    engine.failing = {"b"}
    if terminal:
        monkeypatch.setattr("rich.console.Console.is_terminal", True)
        monkeypatch.setenv("TERM", "dumb")  # no cursor movements of our own
    shown = [command("solve", STEERING, "-n", 4), command("eval", problems, "-n", 4, "--out", "\x1b[2J")]
    shown += [command("solve", STEERING, "-n", 4, "--json"), command("solve", "q", "-s", STEERING)]
    for done in shown:
        for bad in ("\x1b[2J", "\x9b", "\u202e", "\x07"):
            assert bad not in done.out + done.err
    assert "[bold]x[/] :smile: [/nope]" in shown[0].out
    assert json.loads(shown[2].out)["problem"] == STEERING
    assert [done.code for done in shown] == [0, 0, 0, 2]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_takes_any_text(tmp_path, monkeypatch, encoding):
    path = tmp_path / "out"
    with path.open("w", encoding=encoding) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with guarded_streams():
            print_json({"text": "é ✓ \U0001f600 \ud800"})
            print("é ✓ \U0001f600 \ud800")
            sys.stdout.flush()
    text = path.read_text(encoding=encoding)
    assert json.loads(text[: text.index("}") + 1]) == {"text": "é ✓ \U0001f600 \ud800"}


@pytest.mark.parametrize("words", [("solve", "\udcff"), ("solve", "q", "--instruction", "\udcff")])
def test_words_of_another_encoding_are_refused(command, engine, words):
    done = command(*words)
    assert done.code == 2
    assert "is not UTF-8 text" in done.err
    assert engine.opened == 0


@pytest.mark.parametrize("columns", ["0", "1"])
def test_a_terminal_that_claims_to_have_no_width_gets_some(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert make_console().width >= 40
