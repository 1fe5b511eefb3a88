"""The parts of the comparison with rivals that need no rival: the search rule, tapes, messages, the wire."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.vs import venvs
from benchmarks.vs.compare import Entry, installed, summary
from benchmarks.vs.levels import Step, first_levels, next_level
from benchmarks.vs.protocol import Side, SideError
from benchmarks.vs.workloads import Question, SearchTask, Tape


def test_the_best_steps_share_the_slots() -> None:
    (level,) = first_levels(8, 8)
    for step, score in zip(level, (0.1, 0.9, 0.3, 0.9, 0.2, 0.5, 0.4, 0.0), strict=True):
        step.score = score
    level[5].ended = True  # keeps its slot: seven are left, of which one step in four is kept
    children = next_level(level, 4)
    assert [child.path for child in children] == [(1, i) for i in range(7)]  # the first of two equal ones
    assert [step.path for step in level if step.kept] == [(1,), (5,)]
    assert len(first_levels(8, 4)) == 2


def test_a_level_that_has_ended_has_no_next() -> None:
    assert next_level([Step((0,), None, ended=True)], 4) == []


def test_slots_that_do_not_divide_go_to_the_best() -> None:
    level = [Step((i,), None, score=float(i)) for i in range(9)]
    assert [child.path[0] for child in next_level(level, 4)] == [8] * 5 + [7] * 4


def test_a_branch_is_read_from_its_root() -> None:
    first = Step((0,), None, [1, 2], "a")
    last = Step((0, 1), first, [3], "b")
    assert (last.branch_tokens, last.branch_text) == ([1, 2, 3], "ab")


def test_a_tape_says_the_same_to_both_sides() -> None:
    made = Tape(length=60, steps=2)
    again = Tape(**made.to_json())
    assert made.step("p", (0, 3)) == again.step("p", (0, 3))
    assert (made.step("p", (0,)).ends, made.step("p", (0, 3)).ends) == (False, True)
    assert made.step("p", (0,)).score != made.step("p", (1,)).score
    recorded = Tape({"p": {"0.1": [7, 0.5, True]}})
    assert recorded.step("p", (0, 1)).length == 7
    with pytest.raises(KeyError):
        recorded.step("p", (2,))


def test_a_task_survives_the_wire() -> None:
    question = Question("1", "2+2?", "4", "<2+2?>", [1], [2], [3], [4])
    task = SearchTask("dvts", 64, 4, [question], 20, 1200, 60, 8, tape=Tape(length=60, steps=20))
    again = SearchTask.from_json(task.to_json())
    assert again.to_json() == task.to_json()
    assert again.group_size == 4
    assert question.prm_ids([[5], [6]]) == [2, 5, 3, 4, 6, 3]


def test_a_rival_that_is_missing_is_skipped_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BRANCHWISE_RIVALS", str(tmp_path))
    ours = Entry("ours", None)
    assert installed([ours, Entry("vllm-block32", "vllm")]) == [ours]
    assert "python -m benchmarks.vs setup vllm" in capsys.readouterr().err
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / ".ready").touch()
    assert venvs.missing("vllm") is None


def test_ratios_are_to_the_first_side() -> None:
    runs = [{"side": side, "tokens": 100, "seconds": seconds} for side, seconds in (("a", 1.0), ("b", 4.0), ("b", 5.0))]
    assert "first / this: 4.44x" in summary(runs[1:], runs)  # 100 tokens/s against the median of 25 and 20


def test_a_side_that_fails_says_so(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import sys; print('no such model', file=sys.stderr); sys.exit(3)")
    with pytest.raises(SideError, match="no such model"):
        Side("broken", Path(sys.executable), "broken", tmp_path / "log", {"PYTHONPATH": str(tmp_path)}, {})
