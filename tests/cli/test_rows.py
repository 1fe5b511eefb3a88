"""One bad row never ends a run: it has a result with an error, and the others are as they would be without it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.assets import asset_path
from branchwise.cli.problems import BadRow, read_rows
from branchwise.errors import InputError
from branchwise.types import Problem

RESULTS = "sums.results/beam-n4-seed0.jsonl"

BAD = [
    (b"{", "no valid JSON"),
    (b"\x00", "no valid JSON"),
    (b'{"id": "x", "problem": "1+1=?"} {}', "no valid JSON"),
    (b'{"id": "x", "problem": "\xff"}', "not UTF-8 text (byte 24)"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"id": "x", "problem": ' + b'{"a": ' * 100_000, "nested too deeply"),
    (b"[1]", "list instead of an object"),
    (b"null", "NoneType instead of an object"),
    (b"7", "number instead of an object"),
    (b'{"id": "x", "question": "1+1=?"}', "no 'problem' (it has 'id', 'question')"),
    (b'{"id": "x", "problem": "  "}', "'problem' is '  '"),
    (b'{"id": "x", "problem": 7}', "'problem' is 7"),
    (b'{"id": "x", "problem": ' + b"7" * 5000 + b"}", "'problem' is 777"),
    (b'{"id": "x", "problem": null}', "no 'problem'"),
    (b'{"id": "x", "problem": ["1+1=?"]}', "'problem' is a list"),
    (b'{"id": "x", "problem": ""}', "an empty 'problem'"),
    (b'{"id": "x", "problem": "\\ud800 1+1=?"}', "'problem' holds half a character (U+D800 at 0)"),
    (b'{"id": "\\udfff", "problem": "1+1=?"}', "'id' holds half a character"),
    (b'{"problem": "1+1=?"}', "no 'id'"),
    (b'{"id": ["x"], "problem": "1+1=?"}', "'id' is a list"),
    (b'{"id": true, "problem": "1+1=?"}', "'id' is True"),
    (b'{"id": "x", "problem": "1+1=?", "answer": ["2"]}', "'answer' is a list"),
    (b'{"id": "x", "problem": "1+1=?", "answer": NaN}', "'answer' is nan"),
    (b'{"id": "x", "problem": "1+1=?", "seed": -1}', "'seed' is -1"),
    (b'{"id": "x", "problem": "1+1=?", "seed": 1.5}', "'seed' is 1.5"),
    (b'{"id": "x", "problem": "1+1=?", "seed": "1"}', "'seed' is '1'"),
    (b'{"id": "x", "problem": "1+1=?", "seed": ' + b"9" * 5000 + b"}", "'seed' is 999"),
    (b'{"id": "x", "problem": "1+1=?", "prompt": ""}', "'prompt' is ''"),
    (b'{"id": "x", "problem": "1+1=?", "prompt": 7}', "'prompt' is 7"),
    (b'{"id": "x", "problem": "1+1=?", "prompt": []}', "'prompt' is a list"),
    (b'{"id": "x", "problem": "1+1=?", "prompt": [{"role": "user"}]}', "'prompt' is a list"),
    (b'{"id": "x", "problem": "1+1=?", "prompt": [{"role": "user", "content": 7}]}', "'prompt' is a list"),
    (b'{"id": "x", "problem": "1+1=?", "prompt": "\\ud800"}', "'prompt' holds half a character"),
    (b'{"id": "p1", "problem": "1+1=?"}', "the id 'p1' was used before"),
    (b'{"id": "x", "problem": "' + b"1" * (1 << 25) + b'"}', "more than 33554432 bytes"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_row_is_known_by_its_line_and_the_next_one_is_fine(problems, line, message):
    problems.write_bytes(problems.read_bytes() + b"\n" + line + b'\n{"id": "last", "problem": "1+1=?"}\n')
    *good, bad, last = read_rows(problems)
    assert [row.id for row in good] == [f"p{i}" for i in range(6)]
    assert isinstance(bad, BadRow)
    assert bad.id in ("x", "line-8")
    assert bad.error.startswith(f"line 8: {message}")
    assert len(bad.error) < 400
    assert last == Problem("last", "1+1=?")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "holds no problem"),
        (b"\n \n", "holds no problem"),
        ("1+1=?\n".encode("utf-16"), "not UTF-8 text"),
        (b'{"id": "x", "question": "1+1=?"}\n' * 3, "line 1: no 'problem'"),
        (b'[{"id": "x", "problem": "1+1=?"}]', "line 1: list instead of an object"),
    ],
)
def test_a_file_without_any_problem_is_refused(command, engine, problems, content, message):
    path = problems.with_name("other.jsonl")
    if content is not None:
        path.write_bytes(content)
    done = command("eval", path)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert engine.opened == 0
    assert sorted(each.name for each in problems.parent.iterdir()) == sorted(
        {"sums.jsonl", path.name if content is not None else "sums.jsonl"}
    )


@pytest.mark.parametrize("what", ["/dev/zero", "pipe", "."])
def test_what_is_no_file_is_refused_at_once(problems, what):
    os.mkfifo("pipe")
    with pytest.raises(InputError, match=r"is no file|Is a directory"):
        read_rows(Path(what))


FIELDS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers(), max_size=2)
)
ROWS = st.dictionaries(st.sampled_from(["id", "problem", "answer", "seed", "x"]), FIELDS).map(json.dumps)


@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")) | ROWS.map(str.encode), max_size=6))
def test_whatever_a_file_holds_every_line_is_a_row_of_its_own(lines):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(b"\n".join([b'{"id": "good", "problem": "1+1=?"}', *lines]))
        rows = read_rows(path)
    assert rows[0] == Problem("good", "1+1=?")
    assert len({row.id for row in rows}) == len(rows) == 1 + sum(bool(line.strip()) for line in lines)
    for row in rows:
        row.id.encode()
        if isinstance(row, Problem):
            assert row.text.strip()


def test_windows_line_ends_and_a_byte_order_mark_are_fine(problems):
    text = problems.read_text()
    problems.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert [row.id for row in read_rows(problems)] == [f"p{i}" for i in range(6)]


def test_numbers_keep_all_their_digits(problems):
    answer = "1" * 5000
    problems.write_text('{"id": 1e999999, "problem": "1+1=?", "answer": 0.10, "seed": 7}\n'
                        f'{{"id": 2, "problem": "1+2=?", "answer": {answer}}}\n')  # fmt: skip
    assert read_rows(problems) == [
        Problem("1e999999", "1+1=?", answer="0.10", seed=7),
        Problem("2", "1+2=?", answer=answer),
    ]


def test_a_row_may_bring_its_own_prompt(problems):
    """A text and a chat; without one the question is asked."""
    rows = [
        {"id": "text", "problem": "1+1=?", "answer": "2", "prompt": "Question: 1+1=?\nAnswer:"},
        {"id": "chat", "problem": "1+1=?", "answer": "2", "prompt": [{"role": "user", "content": "1+1=?"}]},
        {"id": "own", "problem": "1+1=?", "answer": "2"},
    ]
    problems.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    text, chat, own = read_rows(problems)
    assert (text.prompt, chat.prompt, own.prompt) == (rows[0]["prompt"], rows[1]["prompt"], None)


def test_rows_beyond_the_limit_are_not_looked_at(problems):
    problems.write_bytes(problems.read_bytes() + b"{\n")
    assert len(read_rows(problems, 6)) == 6
    assert len(read_rows(problems, 10**30)) == 7


def test_gold_may_lack(command, engine, problems):
    problems.write_text('{"id": 1, "problem": "1+1=?", "answer": 2}\n{"id": 2, "problem": "1+2=?"}\n')
    done = command("eval", problems, "-n", 4)
    assert done.code == 0
    assert "1 problems have no gold answer" in done.out


def records(path: str = RESULTS) -> dict[str, dict[str, object]]:
    """What depends on nothing but the row, by id."""
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()[1:]]
    for row in rows:
        cost = row.pop("cost")
        del row["wall_seconds"]
        row["tokens"] = cost["generated_tokens"], cost["prefill_tokens"], cost["prm_tokens"]
    return {row["id"]: row for row in rows}


def test_failures_are_results_and_the_others_are_as_without_them(command, engine, problems):
    command("eval", problems, "-n", 4, "--out", "clean")
    engine.failing = {"p2"}
    problems.write_bytes(problems.read_bytes() + b"{\n")
    done = command("eval", problems, "-n", 4)
    assert done.code == 0
    assert "note: 1 of 7 rows are no problems. The first: line 7: no valid JSON" in done.err
    assert "2 rows failed and count as neither right nor wrong" in done.out
    assert "7/7" in done.err
    clean, found = records("clean/beam-n4-seed0.jsonl"), records()
    assert found["p2"]["error"] == "it is too long"
    assert found["line-7"]["error"].startswith("line 7: no valid JSON")
    assert {id_: row for id_, row in clean.items() if id_ != "p2"} == {
        id_: row for id_, row in found.items() if id_ not in ("p2", "line-7")
    }
    document = command("eval", problems, "-n", 4, "--json").document
    (row,) = document["rows"]
    assert (row["results"], row["failed"], row["graded"]) == (7, 2, 5)
    assert document["errors"]["beam-n4-seed0"]["p2"] == "it is too long"


def test_strict_says_it_with_the_exit_code_in_every_run(command, engine, problems):
    engine.failing = {"p2"}
    assert command("eval", problems, "-n", 4, "--strict").code == 1
    assert command("eval", problems, "-n", 4, "--strict").code == 1
    assert command("eval", problems, "-n", 4).code == 0
    engine.failing = set()
    assert command("eval", problems, "-n", 4, "--strict", "--retry-failed").code == 0


def test_a_run_in_which_all_fails_is_no_success(command, engine, problems):
    engine.failing = {f"p{i}" for i in range(6)}
    assert command("eval", problems, "-n", 4).code == 1
    engine.failing = set()
    assert command("eval", problems, "-n", 8).code == 0  # failures alone bind no file


def test_failed_rows_are_tried_again_on_demand_only(command, engine, problems):
    engine.failing = {"p2", "p4"}
    command("eval", problems, "-n", 4)
    engine.failing, engine.seen = {"p4"}, []
    again = command("eval", problems, "-n", 4)
    assert engine.seen == []
    assert "holds 6 of 6 results (2 failed: --retry-failed tries them again): nothing is left" in again.err
    done = command("eval", problems, "-n", 4, "--retry-failed", "--json")
    assert sorted(engine.seen) == ["p2", "p4"]
    assert done.document["errors"] == {"beam-n4-seed0": {"p4": "it is too long"}}
    assert len(Path(RESULTS).read_text().splitlines()) == 7  # one line for each, whatever was tried


def test_a_row_that_was_mended_is_tried_again(command, engine, problems):
    problems.write_text(problems.read_text().replace('"problem": "3+1=?"', '"problem": 3'))
    assert command("eval", problems, "-n", 4, "--json").document["errors"]["beam-n4-seed0"].keys() == {"p3"}
    problems.write_text(problems.read_text().replace('"problem": 3', '"problem": "3+1=?"'))
    assert command("eval", problems, "-n", 4, "--json").document["errors"] == {}
    assert len(engine.seen) == 6


BROKEN = [
    b'{"id": "cut", "problem": "1+1=',
    b'{"id": "none", "answer": "2"}',
    b'{"id": "number", "problem": 12, "answer": "12"}',
    b'{"id": "list", "problem": "1+1=?", "answer": ["2"]}',
    b'{"id": "seed", "problem": "1+1=?", "answer": "2", "seed": -1}',
    b'{"id": "half", "problem": "1+1=?\\ud800", "answer": "2"}',
    b'{"id": "bytes", "problem": "1+1=?\xff", "answer": "2"}',
    b'{"id": "bomb", "problem": ' + b"[" * 100_000,
    b'{"id": "long", "problem": "' + b"1+" * 5_000_000 + b'1=?", "answer": "2"}',
    b'["1+1=?", "2"]',
]


def test_ten_broken_rows_of_a_hundred_are_ten_errors_and_ninety_results(command, tmp_path, monkeypatch):
    """With the bundled models: what runs beside a broken row is bit for bit what it is without one."""
    if not asset_path("prm").is_dir():
        pytest.skip("the bundled models are not in this build")
    monkeypatch.chdir(tmp_path)
    good = asset_path("problems.jsonl").read_bytes().splitlines()[:90]
    mixed = list(good)
    for place, line in enumerate(BROKEN):
        mixed.insert(7 + 9 * place, line)
    options = ("-s", "best_of_n", "-n", 2, "--max-tokens", 64, "--json")
    for name, lines in (("clean", good), ("mixed", mixed)):
        Path(f"{name}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    clean = command("eval", "clean.jsonl", *options, "--out", "clean.out")
    done = command("eval", "mixed.jsonl", *options, "--out", "mixed.out", "--strict")
    assert (clean.code, done.code) == (0, 1)
    (row,), (errors,) = done.document["rows"], done.document["errors"].values()
    assert (row["results"], row["failed"], len(errors)) == (100, 10, 10)
    assert row["right"] == clean.document["rows"][0]["right"] > 0
    whole, found = (records(f"{name}.out/best_of_n-n2-seed0.jsonl") for name in ("clean", "mixed"))
    assert {id_: row for id_, row in found.items() if row["error"] is None} == whole
    assert command("eval", "mixed.jsonl", *options, "--out", "mixed.out").code == 0
