"""Results files: what is appended comes back, whatever tears off, fills up or differs."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise.errors import ResultsError
from branchwise.report import journal
from branchwise.report.lines import line
from branchwise.report.results_file import ResultsFile
from records import record

SETTINGS = {"strategy": "beam", "n": 16, "prm": None}
RESOLVED = {"kernels": "avx2", "dtype": "float32"}


def opened(path: Path, settings: dict[str, object] = SETTINGS) -> ResultsFile:
    results = ResultsFile(path, settings)
    results.begin(RESOLVED)
    return results


def filled(path: Path, *ids: str) -> bytes:
    with opened(path) as results:
        for id_ in ids:
            results.append(record(id_))
    return path.read_bytes()


def test_a_second_run_finds_what_the_first_wrote(tmp_path):
    path = tmp_path / "r.jsonl"
    filled(path, "a", "b")
    with opened(path) as results:
        assert list(results.done) == ["a", "b"]
        assert not results.notes
        results.append(record("c"))
    header, *rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["settings"] == SETTINGS
    assert [row["id"] for row in rows] == ["a", "b", "c"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=12), unique=True, max_size=5), st.data())
def test_whatever_a_crash_tears_off_all_whole_lines_survive(ids, data):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "r.jsonl"
        whole = filled(path, *ids)
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut])
        # A line is whole when its closing brace is there: JSON objects cannot end earlier.
        survivors = ids[: max(0, len([line for line in whole[:cut].split(b"\n") if line.endswith(b"}")]) - 1)]
        with opened(path) as results:
            assert list(results.done) == survivors
            for id_ in ids[len(survivors) :]:
                results.append(record(id_))
        assert path.read_bytes() == whole


def test_a_torn_line_is_removed_with_a_note(tmp_path):
    path = tmp_path / "r.jsonl"
    whole = filled(path, "a")
    path.write_bytes(whole + b'{"id": "b", "ans')
    with ResultsFile(path, SETTINGS) as results:
        assert len(results.notes) == 1
        assert "torn off (16 bytes)" in results.notes[0]
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({**SETTINGS, "n": 8}, "written with n=16, this run has n=8"),
        ({**SETTINGS, "prm": "x"}, 'written with prm=null, this run has prm="x"'),
        ({**SETTINGS, "new": 1}, "new=null, this run has new=1"),
        ({"strategy": "beam", "prm": None}, "n=16, this run has n=null"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, now, named):
    path = tmp_path / "r.jsonl"
    whole = filled(path, "a") + b'{"torn'
    path.write_bytes(whole)
    with pytest.raises(ResultsError, match=named):
        ResultsFile(path, now)
    assert path.read_bytes() == whole  # a refused file is left as it is


@pytest.mark.parametrize(
    "content",
    [b'{"id": "1", "problem": "1+1=?"}\n', b"notes", b"\x00\xff\n", b"[1]\n", b"{}\n", b"[" * 99999 + b"\n", b'{"b'],
)
def test_a_file_of_something_else_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    if content == b'{"b':  # might be our own header, torn off
        ResultsFile(path, SETTINGS).close()
        return
    with pytest.raises(ResultsError, match="no results file of branchwise"):
        ResultsFile(path, SETTINGS)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"garbage\n", "line 3: not a result"),
        (b'{"answer": 1}\n', "line 3: not a result"),
        (line(record("a")), "line 3: a second result of 'a'"),
        (line(record("b", score="high")), r'line 3: .*\(score is "high", expected a number\)'),
        (line({"id": "b"}), r"line 3: .*\(question is missing\)"),
        (b"\n", "line 3: not a result"),
    ],
)
def test_damage_inside_is_named_by_line(tmp_path, text, message):
    path = tmp_path / "r.jsonl"
    whole = filled(path, "a")
    path.write_bytes(whole + text + line(record("z")))
    with pytest.raises(ResultsError, match=message):
        ResultsFile(path, SETTINGS)


def test_another_format_is_refused(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"branchwise_results": 99, "settings": {}}\n{"id": "a"}\n')
    with pytest.raises(ResultsError, match="format 99"):
        ResultsFile(path, {})


def test_two_runs_cannot_write_one_file(tmp_path):
    path = tmp_path / "r.jsonl"
    with ResultsFile(path, SETTINGS), pytest.raises(ResultsError, match="written by another run"):
        ResultsFile(path, SETTINGS)
    ResultsFile(path, SETTINGS).close()


def test_a_full_disk_at_the_start():
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(ResultsError, match=r"No space left on device. 0 results are safe in it; free some space"):
        opened(Path("/dev/full"))


def test_a_disk_that_fills_up_keeps_every_whole_line(tmp_path):
    path = tmp_path / "r.jsonl"
    whole = filled(path, "a", "b")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(path) as results:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limit[1]))  # the write gets 10 bytes far
        try:
            with pytest.raises(ResultsError, match=r"File too large\. 2 results are safe"):
                results.append(record("c"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert path.read_bytes() == whole
        results.append(record("c"))  # there is room again
    with opened(path) as results:
        assert list(results.done) == ["a", "b", "c"]


def test_a_killed_writer_loses_nothing_it_appended(tmp_path):
    path = tmp_path / "r.jsonl"
    script = (
        "import os, sys; from pathlib import Path; from branchwise.report.results_file import ResultsFile\n"
        f"results = ResultsFile(Path(sys.argv[1]), {SETTINGS!r}); results.begin({{}})\n"
        f"results.append({record('a')!r}); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    with ResultsFile(path, SETTINGS) as results:
        assert list(results.done) == ["a"]


@pytest.mark.parametrize("where", ["", "missing/r.jsonl"])
def test_a_path_that_cannot_be_opened(tmp_path, where):
    with pytest.raises(ResultsError, match="cannot open the results file"):
        ResultsFile(tmp_path / where, SETTINGS)


def test_texts_of_any_kind_survive(tmp_path):
    path = tmp_path / "r.jsonl"
    text = "line\nbreak \u2028 日本 \U0001f600 \ud83d"
    with opened(path) as results:
        results.append(record("a", text=text))
    with ResultsFile(path, SETTINGS) as results:
        assert results.done["a"]["text"] == text
    assert os.stat(path).st_size == len(path.read_bytes())


def test_a_start_that_failed_binds_nobody(tmp_path):
    path = tmp_path / "r.jsonl"
    ResultsFile(path, SETTINGS).close()
    assert not path.exists()
    opened(path).close()
    assert path.read_bytes().count(b"\n") == 1  # a header without results
    with opened(path, {**SETTINGS, "n": 8}) as results:
        results.append(record("a"))
    assert json.loads(path.read_text().splitlines()[0])["settings"]["n"] == 8


def test_failures_alone_bind_nobody(tmp_path):
    path = tmp_path / "r.jsonl"
    with opened(path) as results:
        results.append(record("a", error="there is no room"))
        results.append(record("b", error="there is no room"))
    before = path.read_bytes()
    with ResultsFile(path, SETTINGS) as results:
        assert list(results.done) == ["a", "b"]
    with ResultsFile(path, {**SETTINGS, "n": 8}) as results:
        assert not results.done
        assert path.read_bytes() == before  # until the models are open
        results.begin(RESOLVED)
        results.append(record("a"))
    with pytest.raises(ResultsError, match="written with n=8, this run has n=16"):
        ResultsFile(path, SETTINGS)


def test_a_file_that_was_there_stays_though_it_is_empty(tmp_path):
    path = tmp_path / "r.jsonl"
    path.touch()
    ResultsFile(path, SETTINGS).close()
    assert path.exists()


def test_what_settings_came_to_is_compared_before_the_next_result(tmp_path):
    path = tmp_path / "r.jsonl"
    whole = filled(path, "a")
    with ResultsFile(path, SETTINGS) as results:
        with pytest.raises(ResultsError, match='kernels="avx2", this run has kernels="amx"'):
            results.begin({**RESOLVED, "kernels": "amx"})
        assert results.header["resolved"] == RESOLVED
    assert path.read_bytes() == whole


def test_what_else_the_first_line_says_may_differ(tmp_path):
    path = tmp_path / "r.jsonl"
    with ResultsFile(path, SETTINGS, {"models": "here"}) as results:
        results.begin(RESOLVED)
        results.append(record("a"))
    with ResultsFile(path, SETTINGS, {"models": "there"}) as results:
        assert results.header["models"] == "here"


def test_dropped_results_can_come_again(tmp_path):
    path = tmp_path / "r.jsonl"
    filled(path, "a", "b", "c")
    path.chmod(0o640)
    with opened(path) as results:
        results.drop(["b"])
        assert list(results.done) == ["a", "c"]
        with pytest.raises(ResultsError, match="written by another run"):
            ResultsFile(path, SETTINGS)
        results.append(record("b", answer="7"))
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert [(row["id"], row["answer"]) for row in rows] == [("a", "1"), ("c", "1"), ("b", "7")]
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in tmp_path.iterdir()] == ["r.jsonl"]


def test_dropping_through_a_link_keeps_the_link(tmp_path):
    (tmp_path / "real").mkdir()
    path = tmp_path / "link.jsonl"
    path.symlink_to(tmp_path / "real" / "r.jsonl")
    filled(path, "a", "b")
    with opened(path) as results:
        results.drop(["a"])
    assert path.is_symlink()
    assert len((tmp_path / "real" / "r.jsonl").read_text().splitlines()) == 2


def overwrite_same_length(path: Path) -> None:
    text = path.read_text()
    path.write_text(text.replace('"answer":"1"', '"answer":"2"'))


def put_another(path: Path) -> None:
    path.with_name("other").write_bytes(path.read_bytes())
    path.with_name("other").replace(path)


CHANGES = {
    "was removed or renamed": Path.unlink,
    "was removed": lambda path: path.rename(path.with_name("moved.jsonl")),
    "was truncated": lambda path: path.write_bytes(b""),
    "was truncated (": lambda path: os.truncate(path, 20),
    "was written by another program": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "was changed by another program": overwrite_same_length,
    "was replaced by another file": put_another,
    "was replaced by another": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("at", ["append", "check"])
def test_a_file_that_somebody_changes_is_noticed_and_its_results_are_saved(tmp_path, what, at):
    path = tmp_path / "r.jsonl"
    with opened(path) as results:
        results.append(record("a"))
        CHANGES[what](path)
        with pytest.raises(ResultsError) as raised:
            results.append(record("b")) if at == "append" else results.check()
    assert what in str(raised.value)
    assert str(path) in str(raised.value)
    saved = Path(str(raised.value).split(" results are in ")[1].split(": go on")[0])
    assert saved.parent == tmp_path
    with ResultsFile(saved, SETTINGS) as results:
        assert list(results.done) == ["a", "b"][: 2 if at == "append" else 1]


def test_touching_a_file_changes_nothing(tmp_path):
    path = tmp_path / "r.jsonl"
    with opened(path) as results:
        results.append(record("a"))
        os.utime(path, (1, 1))
        results.append(record("b"))
        results.check()


def test_a_folder_that_is_gone_leaves_the_results_in_the_current_one(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = tmp_path / "there"
    folder.mkdir()
    with opened(folder / "r.jsonl") as results:
        results.append(record("a"))
        shutil.rmtree(folder)
        with pytest.raises(ResultsError, match=r"All 2 results are in .*here"):
            results.append(record("b"))


def test_a_file_replaced_while_it_is_locked_is_opened_again(tmp_path, monkeypatch):
    """Between `open` and the lock another run may have put a new file in its place."""
    path, lock = tmp_path / "r.jsonl", journal._lock
    filled(path, "a")
    put = iter([put_another])

    def late(fd: int, where: Path) -> None:
        next(put, lambda _: None)(path)
        lock(fd, where)

    monkeypatch.setattr(journal, "_lock", late)
    with opened(path) as results:
        results.append(record("b"))
    assert len(path.read_text().splitlines()) == 3


def test_a_pipe_is_written_and_one_that_nobody_reads_is_refused(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ResultsError, match="cannot open the results file"):
        ResultsFile(path, SETTINGS)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with opened(path) as results:
        results.append(record("a"))
        assert os.read(reader, 1 << 16).count(b"\n") == 2
        os.close(reader)
        with pytest.raises(ResultsError, match="Broken pipe"):
            results.append(record("b"))
