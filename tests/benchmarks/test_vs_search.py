"""Searches of the comparison: all structures decode the tree of a tape, and count alike; no rival is needed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.vs.ours import Ours
from benchmarks.vs.questions import correct, make_questions
from benchmarks.vs.report import newest, plots, table
from benchmarks.vs.requests import lengths
from benchmarks.vs.rival_search import Drawn, TunedSearch, default_search
from benchmarks.vs.searches import interpolated, merged, rates, same_tokens
from benchmarks.vs.workloads import Question, SearchTask, Tape
from branchwise.assets import asset_path
from branchwise.weights import open_checkpoint

QUESTION_TEXTS = ("12+3*4-5+60=?", "7*8+5-20=?")


class Rival:
    """Policy and PRM of a rival that says "1" as often as it may; `n` requests run side by side."""

    def __init__(self) -> None:
        self.wanted: list[tuple[object, int, int, list[int]]] = []
        self.to_judge: list[tuple[object, list[int]]] = []

    # --- the default structure

    def continue_texts(self, texts: list[str], caps: list[int], task: SearchTask) -> tuple[list[Drawn], int]:
        return [Drawn([1] * cap, "1" * cap, False) for cap in caps], sum(map(len, texts))

    def read(self, trajectories: list[tuple[str, list[str]]]) -> tuple[list[float], int]:
        return [0.5] * len(trajectories), sum(len(problem) + sum(map(len, steps)) for problem, steps in trajectories)


class Policy(Rival):
    """The tuned structure's policy: the shortest request first, one an iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[list[int]] = []

    def add(self, key: object, ids: list[int], n: int, cap: int, task: SearchTask) -> None:
        self.wanted.append((key, n, cap, ids))

    def advance(self) -> tuple[list[tuple[object, list[Drawn]]], int]:
        self.wanted.sort(key=lambda each: -each[2])
        key, n, cap, ids = self.wanted.pop()
        fed = 1 if any(ids[: len(prompt)] == prompt for prompt in self.prompts) else len(ids)  # a perfect prefix cache
        if ids in self.prompts:
            fed = 0
        elif fed > 1:
            self.prompts.append(ids)
        return [(key, [Drawn([1] * cap, "", False)] * n)], fed + n * (cap - 1)

    @property
    def busy(self) -> bool:
        return bool(self.wanted)


class Judge(Rival):
    """The tuned structure's PRM."""

    def add(self, key: object, ids: list[int]) -> None:
        self.to_judge.append((key, ids))

    def advance(self) -> list[tuple[object, float, int]]:
        key, ids = self.to_judge.pop()
        return [(key, 0.5, len(ids))]

    @property
    def busy(self) -> bool:
        return bool(self.to_judge)


@pytest.fixture(scope="module")
def ours() -> Iterator[Ours]:
    """The bundled pair."""
    side = Ours(str(asset_path("policy-small")), str(asset_path("prm")), kv_memory=256 << 20, dtype="float32")
    yield side
    side.engine.close()


def task_for(strategy: str, in_flight: int = 2) -> SearchTask:
    tokenizer = open_checkpoint(str(asset_path("policy-small"))).tokenizer()
    questions = [
        Question(text, text, None, text, tokenizer.encode(f"{text}\n\n"), [7, 8], [3], [4, 5])
        for text in QUESTION_TEXTS
    ]  # fmt: skip
    return SearchTask(strategy, 8, 4, questions, 8, 200, 40, in_flight)


@pytest.mark.parametrize("strategy", ["beam", "dvts"])
def test_all_structures_accept_what_a_recorded_search_accepted(ours: Ours, strategy: str) -> None:
    free = task_for(strategy)
    recorded = ours.search(free.to_json(), record=True)
    task = replace(free, tape=Tape(recorded["tape"]), seed=5)  # other words, the same tree
    taped = ours.search(task.to_json())
    default = default_search(task, Rival(), Rival())
    tuned = TunedSearch(task, Policy(), Judge()).run()
    for reply in (taped, default, tuned):
        assert reply["accepted_tokens"] == recorded["accepted_tokens"]
        assert reply["generated_tokens"] == recorded["generated_tokens"]
        assert len(reply["problem_seconds"]) == 2
    assert 0 < recorded["accepted_tokens"] < recorded["generated_tokens"]
    # Children of one parent but of different lengths are several requests: the parent's last token is fed for each.
    assert taped["recomputed_tokens"] == taped["prm_recomputed_tokens"] == 0 <= tuned["recomputed_tokens"]
    assert default["recomputed_tokens"] > 100


def test_a_made_tape_gives_the_same_counts_everywhere(ours: Ours) -> None:
    task = replace(task_for("dvts"), tape=Tape(length=6, steps=3), max_steps=3)
    expected = 2 * 6 * (2 * 2 + 8)  # two problems; two groups keep one step of four, twice; then all eight are finished
    for reply in (ours.search(task.to_json()), default_search(task, Rival(), Rival())):
        assert reply["accepted_tokens"] == expected
        assert reply["generated_tokens"] == 2 * 6 * 8 * 3
    tuned = TunedSearch(task, Policy(), Judge()).run()
    assert (tuned["accepted_tokens"], tuned["recomputed_tokens"]) == (expected, 0)


def test_requests_have_the_lengths_that_were_asked_for(ours: Ours) -> None:
    caps = lengths(12, 2, 20)
    assert caps == lengths(12, 2, 20)
    assert len(set(caps)) > 4
    tokenizer = ours.engine.policy.tokenizer
    prompts = [tokenizer.encode(f"{text}\n\n") for text in QUESTION_TEXTS * 6]
    for top_p in (0.9, 1.0):
        reply = ours.requests(prompts, caps, top_p)
        assert reply["tokens"] == sum(caps)
        assert reply["fed_prompt_tokens"] <= sum(map(len, prompts))


def test_questions_are_the_same_for_policy_and_judge(tmp_path: Path) -> None:
    folder = shutil.copytree(asset_path("policy-small"), tmp_path / "policy")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role[0] }}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a{% endif %}"
    )
    (question,) = make_questions(str(folder), [{"id": "1", "problem": "2+2=?", "answer": "4"}])
    tokenizer = open_checkpoint(str(folder)).tokenizer()
    assert question.chat.endswith("\nu2+2=?\na")
    assert question.prompt == tokenizer.encode(question.chat)
    read = tokenizer.decode(question.prm_ids([tokenizer.encode("2+2=4"), tokenizer.encode("4")]))
    assert read == "u2+2=?2+2=4\na+\nu4\na"


def test_the_engine_is_itself_again_after_a_tape(ours: Ours) -> None:
    free = task_for("beam").to_json()
    before = ours.search(free)
    ours.search(replace(task_for("beam"), tape=Tape(length=3, steps=2), max_steps=2).to_json())
    assert ours.search(free)["generated_tokens"] == before["generated_tokens"]


def test_levels_between_measured_ones_lie_on_a_line() -> None:
    task = replace(task_for("dvts"), tape=Tape(length=6, steps=5), max_steps=5)
    task = replace(task, questions=task.questions[:1])
    names = ("seconds", "generated_tokens", "accepted_tokens", "recomputed_tokens", "prm_tokens", "prm_seconds")
    level = dict.fromkeys(names, 48) | {"peak_rss_bytes": 9, "row_occupancy": 1.0, "prm_recomputed_tokens": 0}
    whole = interpolated({1: level | {"seconds": 1.0}, 3: level | {"seconds": 3.0}, 5: level | {"seconds": 9.0}}, task)
    assert whole["seconds"] == 1 + 2 + 3 + 6 + 9
    assert whole["generated_tokens"] == 5 * 48
    assert whole["accepted_tokens"] == 6 * (4 * 2 + 8)
    with pytest.raises(AssertionError, match="the last level, 5"):
        interpolated({1: level, 3: level}, task)


def test_replies_for_single_problems_add_up() -> None:
    one = {
        "seconds": 2.0, "generated_tokens": 10, "accepted_tokens": 5, "recomputed_tokens": 1, "prm_tokens": 20,
        "prm_recomputed_tokens": 3, "prm_seconds": 0.5, "problem_seconds": [2.0], "solutions": [],
        "row_occupancy": 0.5, "peak_rss_bytes": 7,
    }  # fmt: skip
    total = merged([one, {**one, "row_occupancy": 1.0}])
    assert (total["seconds"], total["prm_tokens"], total["problem_seconds"]) == (4.0, 40, [2.0, 2.0])
    assert total["row_occupancy"] == pytest.approx(20 / 30)
    assert rates(total, 2)["problems_per_hour"] == 1800


def test_unequal_trees_are_noticed() -> None:
    assert "12 on all sides" in same_tokens([{"accepted_tokens": 12}, {"accepted_tokens": 12}])
    assert "DIFFER" in same_tokens([{"accepted_tokens": 12}, {"accepted_tokens": 13}])


def test_answers_are_voted_on_in_text_and_in_ids() -> None:
    tokenizer = open_checkpoint(str(asset_path("policy-small"))).tokenizer()
    said = "\\boxed{72}"
    branches = [[said, 0.9], ["\\boxed{5}", 0.3], ["\\boxed{5}", 0.3]]
    assert correct([{"id": "a", "branches": branches}], {"a": "72"}, tokenizer) == 1
    assert correct([{"id": "a", "branches": branches}], {"a": "5"}, tokenizer) == 0
    assert correct([{"id": "a", "branches": [[tokenizer.encode("72"), 1.0]]}], {"a": "5"}, tokenizer) == 0


SAMPLING = {
    "workload": "sampling", "isa": "native", "model": "m", "rows": 16, "top_p": 1.0, "seconds": 1.0, "group": "1",
    "side": "ours-bf16", "tokens": 100,
}  # fmt: skip
SEARCH = {
    "workload": "beam", "mode": "tape", "isa": "native", "model": "m", "n": 16, "expand": 4, "problems": 2,
    "in_flight": 2, "top_p": 1.0, "group": "3", "seconds": 2.0, "accepted_tokens": 50, "prm_tokens": 1200,
}  # fmt: skip
RECORDS = [
    SAMPLING,
    {**SAMPLING, "group": "2", "tokens": 300},
    {**SAMPLING, "group": "2", "side": "vllm", "tokens": 100},
    {**SEARCH, "side": "ours-bf16"},
    {**SEARCH, "side": "vllm-default", "seconds": 20.0, "interpolated_from_steps": [1, 5]},
    {**SAMPLING, "isa": "avx512_bf16", "group": "4"},
]


def test_the_report_takes_the_newest_group_of_each_case() -> None:
    text = table(newest(RECORDS, ["native"]))
    assert "| vllm | 1 | 100 | 100 to 100 | 3.00x |" in text
    assert "| vllm-default (interpolated from steps 1, 5) | 1 | 10.00x | 1,200 |" in text
    assert "avx512" not in text


def test_the_report_keeps_instruction_sets_apart() -> None:
    other = {**SAMPLING, "group": "9", "tokens": 7, "flags": {"isa": "avx2"}}
    text = table(newest([*RECORDS, other], ["native"]))
    assert "top-p 1.0, avx2 | ours-bf16 | 1 | 7 |" in text
    assert "top-p 1.0, native | ours-bf16 | 1 | 300 |" in text


def test_the_report_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plots(newest(RECORDS, ["native", "avx512_bf16"]), tmp_path / "plot.svg")
    assert "vllm-default" in (tmp_path / "plot-native.svg").read_text()
    assert (tmp_path / "plot-avx512_bf16.svg").exists()
