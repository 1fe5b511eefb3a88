"""Searches, completions, step scores and trees grown by hand, mixed on one engine from threads and event loops: each is
what it is alone."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import branchwise as bw
from branchwise.completions import Completion
from e2e.test_bundled_pair import facts

QUESTIONS = ["12+3*4-5+60=?", "7*8+5-20=?", "(31+4)*2-9=?", "90-4*7+11=?", "5*6-8+14=?"]
SEARCHES: list[tuple[str, dict[str, Any]]] = [
    ("greedy", {}),
    ("beam", {"n": 8, "expand": 4}),
    ("dvts", {"n": 8, "expand": 4, "top_p": 0.9}),
    ("majority", {"n": 4, "temperature": 1.2}),
    ("best_of_n", {"n": 4, "delimiter": "=", "max_step_tokens": 9}),
    ("weighted_best_of_n", {"n": 4, "max_tokens": 40, "top_k": 5}),
]
COMPLETIONS: list[dict[str, Any]] = [
    {"n": 3},
    {"n": 2, "stop": ["=", "\n\n"], "top_p": 0.9, "temperature": 1.3},
    {"n": 4, "min_tokens": 5, "max_tokens": 12, "stop_token_ids": [24, 36], "repetition_penalty": 1.2},
    {"n": 2, "ignore_eos": True, "max_tokens": 33, "stop": ["\\boxed", "0; "], "include_stop": True},
    {"n": 3, "temperature": 0.0, "max_tokens": 50},
    {"top_k": 3, "min_p": 0.05, "stop": []},
]
THREADS, LOOPS = 8, 2


@dataclass(frozen=True)
class Work:
    """A ticket or a few: a search with settings of its own, completions, or a tree grown by hand."""

    number: int
    question: str
    search: tuple[str, dict[str, Any]] | None = None
    completion: dict[str, Any] | None = None
    texts: list[str] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def prompts(self) -> list[str]:
        """Of completions; the first one again as the last."""
        return [f"{self.question}\n\n", f"{QUESTIONS[self.number * 3 % len(QUESTIONS)]}\n\n1", f"{self.question}\n\n"]

    def requests(self, texts: list[str]) -> list[tuple[str, list[str]]]:
        """Solutions that begin alike, of two questions."""
        other = QUESTIONS[self.number * 3 % len(QUESTIONS)]
        return [(self.question, texts), (other, texts[:2]), (self.question, [*texts[:1], "7*8=56\n\n"])]

    def outcome(self, engine: bw.Engine) -> object:
        if self.search is not None:
            name, options = self.search
            return facts(engine.solve(self.question, name, seed=self.number % 3, **options))
        if self.completion is not None:
            return samples(engine.complete(self.prompts, seed=self.number % 3, reuse=False, **self.completion))
        if self.texts is not None:
            return engine.score_steps(self.requests(self.texts))
        with engine.open(self.question, branches=4, seed=self.number % 3) as tree:
            kids = tree.expand(tree.root, 3, score=True, **self.options)
            below = engine.expand_many([(tree, kid, 2) for kid in kids if kid.finish == "stop"])
            tree.score([node for group in below for node in group])
            return [steps(group) for group in [kids, *below]]

    async def aoutcome(self, engine: bw.Engine) -> object:
        if self.search is not None:
            name, options = self.search
            return facts(await engine.asolve(self.question, name, seed=self.number % 3, **options))
        if self.completion is not None:
            return samples(await engine.acomplete(self.prompts, seed=self.number % 3, reuse=False, **self.completion))
        if self.texts is not None:
            return await engine.ascore_steps(self.requests(self.texts))
        with await engine.aopen(self.question, branches=4, seed=self.number % 3) as tree:
            kids = await tree.aexpand(tree.root, 3, score=True, **self.options)
            below = await engine.aexpand_many([(tree, kid, 2) for kid in kids if kid.finish == "stop"])
            await tree.ascore([node for group in below for node in group])
            return [steps(group) for group in [kids, *below]]


def steps(nodes: list[bw.Node]) -> list[tuple[object, ...]]:
    return [(node.lineage_path, node.tokens, node.logprob, node.text, node.finish, node.score) for node in nodes]


def samples(completions: list[Completion]) -> list[tuple[object, ...]]:
    return [
        (each.text, each.tokens, each.logprob, each.finish, each.stop_reason, each.cut, each.repeat)
        for completion in completions
        for each in completion.samples
    ]


def mixed(count: int) -> list[Work]:
    by_hand = [
        {},
        {"temperature": 0.0},
        {"stop": "+", "max_tokens": 7},
        {"top_p": 0.8, "temperature": 1.5},
        {"stop": []},
    ]
    kinds: list[dict[str, Any]] = [{"search": search} for search in SEARCHES]
    kinds += [{"completion": options} for options in COMPLETIONS]
    kinds += [{"texts": texts} for texts in (["3*4=12\n\n", "12+12=24\n\n", "\\boxed{79}"], ["1", "2", " \n"])]
    kinds += [{"options": options} for options in by_hand]
    return [Work(i, QUESTIONS[i % len(QUESTIONS)], **kinds[i * 7 % len(kinds)]) for i in range(count)]


@pytest.fixture(scope="module")
def engine() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=512 << 20, max_tokens=300) as made:
        yield made


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_tickets_from_threads_and_event_loops_are_what_they_are_alone(engine: bw.Engine, count: int) -> None:
    work = mixed(count)
    expected = {each.number: each.outcome(engine) for each in work}
    for order in (1, 2):
        random.Random(order).shuffle(work)
        assert at_once(engine, work) == expected
        for model in (engine.policy, engine.judge):
            assert model is not None
            model.kv.tree.check()
            assert model.kv.free_blocks == model.kv.n_blocks
        assert engine.policy.idle
    engine.stop()
    assert [each for each in threading.enumerate() if each.name.startswith("branchwise")] == []


def at_once(engine: bw.Engine, work: list[Work]) -> dict[int, object]:
    """All outcomes, by number: most from threads, the rest from event loops that gather them."""
    found: dict[int, object] = {}
    failed: list[BaseException] = []
    cut = len(work) * 3 // 5

    def in_thread(share: list[Work]) -> None:
        found.update((each.number, each.outcome(engine)) for each in share)

    def in_loop(share: list[Work]) -> None:
        async def every() -> list[object]:
            return await asyncio.gather(*(each.aoutcome(engine) for each in share))

        found.update(zip((each.number for each in share), asyncio.run(every()), strict=True))

    def guarded(run: Any, share: list[Work]) -> None:
        try:
            run(share)
        except BaseException as error:
            failed.append(error)

    shares = [(in_thread, work[i:cut:THREADS]) for i in range(THREADS)]
    shares += [(in_loop, work[cut + i :: LOOPS]) for i in range(LOOPS)]
    threads = [threading.Thread(target=guarded, args=share) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    return found


def test_steps_that_are_given_up_are_counted_and_leave_no_trace(engine: bw.Engine) -> None:
    alone = facts(engine.solve(QUESTIONS[0], "beam", n=8))
    other = engine.submit(QUESTIONS[0], "beam", n=8)
    tree = engine.open(QUESTIONS[1], branches=4)
    kids = tree.expand(tree.root, 2)
    tickets = [tree.submit(kid, 4, score=True) for kid in kids]
    for _ in range(4):
        engine._service.step()
    tickets[0].cancel()
    assert kids[0].children == []
    assert len(tickets[1].result()) == 4
    assert facts(other.result()) == alone
    again = tree.expand(kids[0], 1)
    assert [node.index for node in again] == [4]
    root = tree.root
    tree.close()
    assert 0 < root.cost.cancelled_tokens <= 4 * 40
    assert engine.policy.kv.free_blocks == engine.policy.kv.n_blocks


def test_a_tree_by_hand_that_outgrows_memory_harms_nobody_else() -> None:
    with bw.Engine(kv_memory=4 << 20, max_tokens=200, max_step_tokens=60) as small:
        alone = facts(small.solve(QUESTIONS[0], "best_of_n", n=4))
        blocks = small.policy.kv.n_blocks
        search = small.submit(QUESTIONS[0], "best_of_n", n=4)
        with small.open(QUESTIONS[1], branches=1) as tree:
            for _ in range(3):  # each makes room for the next one
                assert len(tree.expand(tree.root, blocks // 2, stop="never", max_tokens=30)) == blocks // 2
            with pytest.raises(bw.OutOfMemory, match="raise it, or lower n"):
                tree.expand(tree.root, blocks, stop="never", max_tokens=30)
            assert facts(search.result()) == alone
            assert len(tree.root.children) == 3 * (blocks // 2)  # what did not fit left no node
            for child in tree.root.children:
                tree.prune(child)
            assert len(tree.expand(tree.root, 2)) == 2
        assert small.policy.kv.free_blocks == small.policy.kv.n_blocks


def test_a_search_may_be_cut_by_its_deadline(engine: bw.Engine) -> None:
    result = engine.solve(QUESTIONS[0], "best_of_n", n=16, deadline=1e-4)
    assert result.cuts["time"] >= 1
    whole = engine.solve(QUESTIONS[0], "best_of_n", n=16, deadline=600)
    assert "time" not in whole.cuts
    with pytest.raises(bw.ConfigError, match="deadline"):
        engine.solve(QUESTIONS[0], deadline=0)
