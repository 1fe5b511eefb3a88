"""`eval` neither loses nor repeats a problem, whatever interrupts it, and mixes no two experiments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from branchwise.cli import evaluate, models
from branchwise.errors import ConfigError

FOLDER = "sums.results"
RESULTS = f"{FOLDER}/beam-n4-seed0.jsonl"

LATENCY = ("latency_p50", "latency_p95")


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()[1:]]


def untimed(rows: list[dict]) -> list[dict]:
    """Rows of a table without what a clock says."""
    return [{name: fact for name, fact in row.items() if name not in ("seconds", *LATENCY)} for row in rows]


def test_a_run_ends_with_a_table_and_a_file(command, engine, problems):
    done = command("eval", problems, "-n", 4)
    assert done.code == 0
    assert "strategy" in done.out
    assert "6 of" not in done.err
    assert "6/6" in done.err
    assert f"results: {FOLDER}" in done.out
    assert sorted(ids(problems.parent / RESULTS)) == [f"p{i}" for i in range(6)]
    assert len(engine.seen) == 6


def test_json_is_all_that_stdout_holds(command, engine, problems):
    done = command("eval", problems, "-n", 4, "--json", "--limit", 3, "--out", "r")
    document = done.document
    (row,) = document["rows"]
    assert (row["strategy"], row["n"], row["seeds"], document["results"]) == ("beam", 4, [0], "r")
    assert (row["results"], row["graded"]) == (3, 3)
    assert document["settings"]["temperature"] == 0.8
    assert document["total"]["generated_tokens"] == row["generated_tokens"] > 0
    records = [json.loads(line) for line in Path("r/beam-n4-seed0.jsonl").read_text().splitlines()[1:]]
    assert sum(each["correct"] for each in records) == row["right"]
    assert sum(each["wall_seconds"] for each in records) == pytest.approx(row["seconds"])


def test_an_interrupted_run_goes_on_where_it_was(command, engine, problems):
    whole = command("eval", problems, "-n", 4, "--json", "--out", "whole").document
    engine.seen.clear()
    engine.interrupt_after = 2
    done = command("eval", problems, "-n", 4)
    assert done.code == 130
    assert done.err.count("interrupted") == 1
    assert "2 results are safe in sums.results; run the same command again" in done.err
    assert not done.out
    engine.interrupt_after = None
    again = command("eval", problems, "-n", 4, "--json")
    assert again.code == 0
    assert "holds 2 of 6 results" in again.err
    assert sorted(engine.seen) == [f"p{i}" for i in range(6)]  # each asked once, over both runs
    assert sorted(ids(Path(RESULTS))) == sorted(engine.seen)
    assert untimed(again.document["rows"]) == untimed(whole["rows"])


def test_a_finished_run_loads_no_model(command, engine, problems):
    first = command("eval", problems, "-n", 4, "--json").document
    again = command("eval", problems, "-n", 4, "--json")
    assert again.document == first
    assert "nothing is left to do" in again.err
    assert engine.opened == 1


def test_a_larger_limit_adds_to_the_same_file(command, engine, problems):
    assert command("eval", problems, "--limit", 2, "-n", 4).code == 0
    assert command("eval", problems, "--limit", 5, "-n", 4).code == 0
    assert sorted(engine.seen) == [f"p{i}" for i in range(5)]


def test_a_torn_line_is_repaired_and_said(command, engine, problems):
    command("eval", problems, "--limit", 2, "-n", 4)
    with open(RESULTS, "ab") as file:
        file.write(b'{"id": "p3", "answer')
    done = command("eval", problems, "-n", 4)
    assert done.code == 0
    assert f"note: {RESULTS}: its last line was torn off" in done.err
    assert sorted(ids(Path(RESULTS))) == [f"p{i}" for i in range(6)]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("-n", 4, "--temperature", 0.5), "temperature=0.8, this run has temperature=0.5"),
        (
            ("-n", 4, "--policy", "m.gguf", "--prm", "m.gguf"),
            'policy="bundled policy-small", this run has policy="m.gguf"',
        ),
        (("-s", "greedy", "--temperature", 0.5), "temperature=0.8, this run has temperature=0.5"),
    ],
)
def test_other_settings_are_refused_before_anything_runs(command, engine, problems, words, named):
    command("eval", problems, "--limit", 2, "-n", 4)
    before = Path(RESULTS).read_bytes()
    done = command("eval", problems, *words)
    assert (done.code, done.out) == (2, "")
    assert named in done.err
    assert len(done.err.splitlines()) == 1
    assert Path(RESULTS).read_bytes() == before
    assert engine.opened == 1


def test_memory_for_kv_changes_no_result_and_may_differ(command, engine, problems):
    command("eval", problems, "--limit", 2, "-n", 4)
    assert command("eval", problems, "-n", 4, "--kv-memory", "64M").code == 0


def test_the_models_are_among_the_settings_and_where_they_lie_is_said(command, engine, problems, monkeypatch):
    content = iter(["m 1", "m 1", "m 2"])
    monkeypatch.setattr(models, "identity", lambda source: (next(content), source))
    words = ("eval", problems, "-s", "majority", "-n", 4, "--json", "--policy")
    document = command(*words, "m.gguf").document
    assert (document["settings"]["policy"], document["models"]["policy"]) == ("m 1", "m.gguf")
    assert "nothing is left to do" in command(*words, "moved/m.gguf").err
    assert 'policy="m 1", this run has policy="m 2"' in command(*words, "m.gguf").err


@pytest.mark.parametrize(("words", "said"), [(("--temperature", 0), 1), (("--top-k", 1), 1), ((), 0)])
def test_equal_samples_are_said_once(command, engine, problems, words, said):
    done = command("eval", problems, "-s", "majority", "-n", 4, *words)
    assert done.err.count("all 4 branches are equal: one is drawn for each problem, and counts as 4") == said


def test_kernels_of_another_machine_do_not_go_on(command, engine, problems):
    command("eval", problems, "--limit", 2, "-n", 4)
    before = Path(RESULTS).read_bytes()
    engine.kernels = "amx"
    done = command("eval", problems, "-n", 4)
    assert done.code == 2
    assert 'kernels="avx2", this run has kernels="amx"' in done.err
    assert Path(RESULTS).read_bytes() == before
    assert len(engine.seen) == 2


def test_results_of_other_questions_are_not_taken(command, engine, problems):
    command("eval", problems, "-n", 4)
    problems.write_text(problems.read_text().replace("3+1=?", "3+9=?"))
    done = command("eval", problems, "-n", 4)
    assert done.code == 2
    assert "'p3' for another question or gold answer" in done.err


def test_a_result_without_its_cost_is_named(command, engine, problems):
    command("eval", problems, "--limit", 1, "-n", 4)
    with open(RESULTS, "a") as file:
        file.write('{"id": "p1"}\n')
    done = command("eval", problems, "-n", 4)
    assert done.code == 2
    assert "line 3: not a result of this version (question is missing); remove that line" in done.err


def test_a_full_disk_is_one_line(command, engine, problems):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    Path(FOLDER).mkdir()
    Path(RESULTS).symlink_to("/dev/full")
    done = command("eval", problems, "-n", 4)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: cannot write to {RESULTS}: No space left on device. 0 results are safe")
    assert len(done.err.splitlines()) == 1


def test_the_results_file_cannot_be_the_problems(command, engine, problems):
    before = problems.read_bytes()
    done = command("eval", problems, "--out", problems)
    assert done.code == 2
    assert "results go into a folder" in done.err
    assert problems.read_bytes() == before


@pytest.mark.parametrize("wrong", [("--policy", "no-such-model"), ("--prm", "no-such.gguf"), ("--out", "no/r")])
def test_a_typo_binds_no_file(command, problems, wrong):
    """The real engine, so that the models are looked for."""
    words = ("eval", problems, "-s", "majority", "-n", 4)
    done = command(*words, *wrong)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert wrong[1] in done.err
    assert [each.name for each in problems.parent.iterdir()] == ["sums.jsonl"]


def test_models_that_do_not_open_bind_no_file(command, engine, problems, monkeypatch):
    def refuse(options):
        raise ConfigError("no room")

    monkeypatch.setattr(models, "open_engine", refuse)
    assert command("eval", problems, "-n", 4).err == "error: no room\n"
    assert not Path(RESULTS).exists()
    monkeypatch.setattr(models, "open_engine", lambda options: engine)
    assert command("eval", problems, "-n", 8).code == 0


def test_output_that_goes_in_mid_run_is_an_error_that_says_where_results_are(command, engine, problems):
    engine.before_each = lambda: Path(RESULTS).unlink() if len(engine.seen) == 4 else None
    done = command("eval", problems, "-n", 4)
    assert (done.code, done.out) == (2, "")
    assert f"{RESULTS} was removed or renamed while it was being written" in done.err
    assert "All 5 results are in" in done.err
    engine.before_each = lambda: None
    rescued, place = done.err.split(" results are in ")[1].strip().split(": go on by moving it to ")
    Path(rescued).rename(place)
    again = command("eval", problems, "-n", 4)
    assert again.code == 0
    assert len(engine.seen) == 6


def test_an_interrupt_says_where_results_are_though_their_file_is_gone(command, engine, problems):
    def vanish() -> None:
        if len(engine.seen) == 3:
            Path(RESULTS).unlink()
            raise KeyboardInterrupt

    engine.before_each = vanish
    assert "All 3 results are in" in command("eval", problems, "-n", 4).err


def test_output_that_goes_after_the_last_result_is_noticed(command, engine, problems, monkeypatch):
    done = command("eval", problems, "-n", 4)
    monkeypatch.setattr(evaluate, "_say_what_is_there", lambda *given: Path(RESULTS).unlink())
    done = command("eval", problems, "-n", 4)
    assert done.code == 2
    assert "All 6 results are in" in done.err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_real_run_keeps_results_and_the_next_run_goes_on(problems, number, code):
    """With the bundled models: a process is interrupted by a signal, and resumes to the same results as one run."""
    from branchwise.assets import asset_path

    if not asset_path("prm").is_dir():
        pytest.skip("the bundled models are not in this build")
    total = 48  # seconds of work, so that the signal finds the process at it also on a busy machine
    words = [sys.executable, "-m", "branchwise", "eval", str(asset_path("problems.jsonl")), "--limit", str(total)]
    words += ["-n", "8", "--max-tokens", "200", "--in-flight", "1", "--json"]
    environment = {**os.environ, "BRANCHWISE_THREADS": "1"}

    def run(out: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([*words, "--out", out], stdout=pipe, stderr=pipe, text=True, env=environment)

    file = "beam-n8-seed0.jsonl"
    process, path, end = run("cut"), Path("cut") / file, time.monotonic() + 300
    while not (path.exists() and path.read_bytes().count(b"\n") > 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    kept = ids(path)
    assert (process.returncode, out) == (code, "")
    assert f"{len(kept)} results are safe" in err
    assert "Traceback" not in err
    assert 3 <= len(kept) < total
    again, whole = run("cut"), run("whole")
    assert again.wait(600) == whole.wait(600) == 0
    for process in (again, whole):
        process.communicate()
    rows = [
        {row["id"]: row for row in map(json.loads, (Path(name) / file).read_text().splitlines()[1:])}
        for name in ("cut", "whole")
    ]
    assert ids(path)[: len(kept)] == kept
    assert len(ids(path)) == len(rows[0]) == total
    assert {id_: row["votes"] for id_, row in rows[0].items()} == {id_: row["votes"] for id_, row in rows[1].items()}
