"""The service: many clients on one pair, from any thread, and nothing of a job left behind however it ends."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from typing import Any

import pytest

from branchwise.errors import EngineStateError, OutOfMemory
from branchwise.pair.protocol import Event
from branchwise.search import driver
from branchwise.search.by_hand import Opening, StepTree, expand_all, wait_for
from branchwise.search.protocol import Progress
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions
from branchwise.search.ticket import Ticket
from branchwise.strategies import BeamSearch, Demand, Majority, Strategy
from branchwise.tree import walk
from branchwise.types import Node, Problem, Result, Settings
from search.clients import BEAM, alone, open_tree, submit
from search.scripted import STRATEGIES, Script, ScriptedPair, shape


@pytest.fixture
def service() -> Iterator[Service[Any]]:
    made: Service[Any] = Service(ScriptedPair())
    yield made
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("branchwise")]


def steps(nodes: list[Node]) -> list[tuple[object, ...]]:
    return [(node.lineage_path, node.text, node.finish, node.score) for node in nodes]


# --- events reach those who wait for them -------------------------------------------------------------------------


def test_a_tree_grown_by_hand_beside_a_half_consumed_generator(service: Service[Any]) -> None:
    """The generator's events came up while the tree was polled, were swallowed, and it never ended."""
    results = driver.run(
        [Problem(f"p{i}", f"p{i}") for i in range(6)], service, SearchOptions(BEAM, Settings()), max_in_flight=4
    )
    found = [next(results)]
    with open_tree(service) as tree:
        kids = tree.expand(tree.root, 4)
        assert all(score is not None for score in tree.score(kids))
    found += results
    assert {each.problem.id: shape(each) for each in found} == {f"p{i}": alone(f"p{i}", BEAM) for i in range(6)}


def test_two_generators_on_one_service(service: Service[Any]) -> None:
    options = SearchOptions(BEAM, Settings()), SearchOptions(Majority(n=3, max_steps=4), Settings())
    problems = [Problem(f"p{i}", f"p{i}") for i in range(5)]
    runs = [driver.run(problems, service, each, max_in_flight=3) for each in options]
    found: list[list[Result]] = [[], []]
    for _ in range(5):
        for place, results in enumerate(runs):
            found[place].append(next(results))
    for place, each in enumerate(options):
        assert {r.problem.id: shape(r) for r in found[place]} == {p.id: alone(p.id, each.strategy) for p in problems}


def test_many_trees_grow_in_one_batch(service: Service[Any]) -> None:
    trees = [open_tree(service, f"t{i}") for i in range(4)]
    polls = service.pair.polls
    groups = wait_for(expand_all([(tree, tree.root, 2 + i % 2) for i, tree in enumerate(trees)], {"score": True}))
    together = service.pair.polls - polls
    for i, (tree, group) in enumerate(zip(trees, groups, strict=True)):
        other = Service(ScriptedPair())
        single = open_tree(other, f"t{i}")
        kids = single.expand(single.root, 2 + i % 2)
        single.score(kids)
        assert steps(group) == steps(kids)
        assert group == tree.root.children
    assert together < 4 * 6


# --- 200 tickets, threads and event loops ------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """One ticket: a search, or a tree grown by hand for some levels."""

    name: str
    strategy: Strategy | None
    width: int

    def outcome(self, service: Service[Any]) -> object:
        if self.strategy is not None:
            return shape(submit(service, self.name, self.strategy).result())
        with open_tree(service, self.name) as tree:
            return self._grown(tree, lambda node, n: tree.expand(node, n, score=True))

    async def aoutcome(self, service: Service[Any]) -> object:
        if self.strategy is not None:
            return shape(await submit(service, self.name, self.strategy))
        job = Opening(service, Problem(self.name, self.name), Demand(8, 0, None, scores=True), Settings())
        with await service.submit(job) as tree:
            kids = await tree.aexpand(tree.root, self.width, score=True)
            grown = [kids] + [await tree.aexpand(kid, 2, score=True) for kid in kids if kid.finish == "stop"]
            return [steps(group) for group in grown]

    def _grown(self, tree: StepTree, expand: Any) -> object:
        kids = expand(tree.root, self.width)
        return [steps(group) for group in [kids] + [expand(kid, 2) for kid in kids if kid.finish == "stop"]]


def mixed(count: int) -> list[Work]:
    return [Work(f"w{i}", None if i % 4 == 0 else STRATEGIES[i % len(STRATEGIES)], 1 + i % 3) for i in range(count)]


@pytest.mark.parametrize("order", [1, 2])
def test_200_tickets_from_threads_and_event_loops_are_what_they_are_alone(order: int) -> None:
    work = mixed(200)
    expected = {each.name: each.outcome(Service(ScriptedPair())) for each in work}
    random.Random(order).shuffle(work)
    pair = ScriptedPair(order=random.Random(order), room=150)
    service: Service[Any] = Service(pair)
    found: dict[str, object] = {}
    failed: list[BaseException] = []

    def in_thread(share: list[Work]) -> None:
        try:
            found.update((each.name, each.outcome(service)) for each in share)
        except BaseException as error:
            failed.append(error)

    def in_loop(share: list[Work]) -> None:
        async def every() -> None:
            outcomes = await asyncio.gather(*(each.aoutcome(service) for each in share))
            found.update(zip((each.name for each in share), outcomes, strict=True))

        try:
            asyncio.run(every())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=in_thread, args=(work[i:120:8],)) for i in range(8)]
    threads += [threading.Thread(target=in_loop, args=(work[120 + i :: 2],)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert found == expected
    assert pair.open_trees == []
    assert not service.board.growing
    assert not service.board.scoring
    service.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("branchwise")]


# --- who may run it -----------------------------------------------------------------------------------------------


def test_a_single_caller_needs_no_thread(service: Service[Any]) -> None:
    before = threading.active_count()
    submit(service, "p", BEAM).result()
    assert threading.active_count() == before


def test_the_loop_moves_to_a_thread_and_back(service: Service[Any]) -> None:
    service.start()
    service.start()
    ran_in: list[str] = []
    watch = lambda _: ran_in.append(threading.current_thread().name)  # noqa: E731
    assert shape(submit(service, "p", BEAM, on_event=watch).result()) == alone("p", BEAM)
    assert set(ran_in) == {"branchwise-service"}
    service.stop()
    service.stop()
    ran_in.clear()
    submit(service, "p", BEAM, on_event=watch).result()
    assert set(ran_in) == {threading.current_thread().name}


def test_a_callback_that_waits_for_the_engine_is_refused(service: Service[Any]) -> None:
    def wait(event: Progress) -> None:
        submit(service, "inner", BEAM).result()

    other = submit(service, "other", BEAM)
    with pytest.raises(EngineStateError, match="waits for the engine that calls it"):
        submit(service, "outer", BEAM, on_event=wait).result()
    assert shape(other.result()) == alone("other", BEAM)


def test_a_callback_may_submit_and_cancel(service: Service[Any]) -> None:
    tickets: list[Ticket[Result]] = []

    def more(event: Progress) -> None:
        if event.kind == "started":
            tickets.append(submit(service, "inner", BEAM))
            tickets.append(submit(service, "unwanted", BEAM))
            tickets[-1].cancel()

    submit(service, "outer", BEAM, on_event=more).result()
    assert shape(tickets[0].result()) == alone("inner", BEAM)
    with pytest.raises(CancelledError):
        tickets[1].result()


def test_step_belongs_to_one_thread(service: Service[Any]) -> None:
    refused: list[BaseException] = []

    def step() -> None:
        try:
            service.step()
        except EngineStateError as error:
            refused.append(error)

    def meanwhile(event: Progress) -> None:
        if event.kind == "started":
            thread = threading.Thread(target=step)
            thread.start()
            thread.join()
            step()

    submit(service, "p", BEAM, on_event=meanwhile).result()
    assert len(refused) == 2


def test_a_closed_service_ends_what_is_open_and_refuses_more() -> None:
    pair = ScriptedPair()
    service: Service[Any] = Service(pair)
    ticket = submit(service, "p", BEAM)
    tree = open_tree(service)
    service.close()
    service.close()
    with pytest.raises(EngineStateError, match="closed before"):
        ticket.result()
    with pytest.raises(EngineStateError, match="is closed"):
        submit(service, "p", BEAM)
    with pytest.raises(EngineStateError, match="is closed"):
        tree.expand(tree.root)
    tree.close()


@pytest.mark.parametrize("background", [False, True])
def test_nobody_holds_a_service_that_nobody_uses(background: bool) -> None:
    gc.collect()
    gc.disable()
    try:
        service: Service[Any] = Service(ScriptedPair())
        if background:
            service.start()
        submit(service, "p", BEAM).result()
        tree = open_tree(service)
        tree.expand(tree.root, 3, score=True)
        tree.close()
        alive = weakref.ref(service)
        thread = service._loop._thread
        del service, tree
        if thread is not None:
            thread.join(10)
            assert not thread.is_alive()
        assert alive() is None
    finally:
        gc.enable()


# --- how jobs end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("polls", range(8))
def test_cancelled_in_any_state_it_leaves_nothing_and_harms_nobody(polls: int) -> None:
    pair = ScriptedPair(Script(eos=5), order=random.Random(polls))
    service: Service[Any] = Service(pair)
    kept, given_up = submit(service, "kept", BEAM), submit(service, "given up", STRATEGIES[polls])
    for _ in range(polls):
        service.step()
    assert given_up.cancel()
    assert given_up.cancelled()
    assert {tree.problem.id for tree in pair.open_trees} <= {"kept"}
    expected = shape(submit(Service(ScriptedPair(Script(eos=5))), "kept", BEAM).result())
    assert shape(kept.result()) == expected
    assert pair.open_trees == []
    assert not given_up.cancel()


def test_an_awaiting_task_that_is_cancelled_frees_its_search(service: Service[Any]) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(_await(submit(service, "p", BeamSearch(n=8, expand=2, max_steps=10_000))))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await submit(service, "q", BEAM)

    async def _await(ticket: Ticket[Result]) -> Result:
        return await ticket

    service.pair.script = replace(service.pair.script, eos=0, length=0)
    service.pair.slow = lambda node: 1
    asyncio.run(main())
    assert service.pair.open_trees == []


def test_a_deadline_takes_the_best_so_far() -> None:
    pair = ScriptedPair(Script(eos=25, length=0), slow=lambda node: 10 * node.index)
    service: Service[Any] = Service(pair)
    patient, hasty = (submit(service, "p", Majority(n=8, max_steps=30)) for _ in range(2))
    while not any(node.is_final for tree in pair.open_trees for node in walk(tree.root)):
        service.step()
    hasty.job.deadline = 0.0
    result = hasty.result()
    assert result.cuts["time"] >= 1
    assert result.error is None
    assert result.candidates
    assert len(result.candidates) <= 8
    assert all(node.finish for node in walk(result.tree) if node.parent)
    assert "time" not in patient.result().cuts
    assert pair.open_trees == []
    late = submit(service, "p", BEAM, deadline=0.0).result()
    assert (late.cuts, late.candidates) == ({"time": 1}, [])


def test_a_tree_by_hand_that_rests_is_in_nobodys_way() -> None:
    service: Service[Any] = Service(ScriptedPair(room=8))
    with open_tree(service) as tree:
        assert len(tree.expand(tree.root, 4)) == 4
        submit(service, "p", BEAM).result()
        assert len(tree.expand(tree.root, 4)) == 4


def test_a_search_waits_for_those_before_it() -> None:
    pair = ScriptedPair(room=8)
    service: Service[Any] = Service(pair)
    large = submit(service, "large", Majority(n=8, max_steps=4))
    small = [submit(service, f"p{i}", BEAM) for i in range(3)]
    tree = open_tree(service, branches=8)
    assert large.done()
    assert all(ticket.done() for ticket in small)
    tree.close()


class Short(ScriptedPair):
    """Has no memory for more than so many steps that grow in one tree."""

    limit = 8

    def poll(self) -> list[Any]:
        for tree in self.open_trees:
            if tree.growing > self.limit:
                return [Event("failed", tree, tree.root, OutOfMemory("no KV left"))]
        return super().poll()


def test_want_of_memory_ends_all_that_is_in_flight_in_one_tree() -> None:
    pair = Short(Script(eos=0, length=0), slow=lambda node: 3)
    service: Service[Any] = Service(pair)
    tree = open_tree(service, branches=99)
    searches = [submit(service, f"p{i}", Majority(n=4, max_steps=3)) for i in range(2)]
    service.step()
    assert len(tree.expand(tree.root, 4)) == 4
    scores = tree._submit_scores(tree.root.children)
    tickets = [scores, tree.submit(tree.root, 3), tree.submit(tree.root.children[0], 6)]
    for ticket in tickets:
        with pytest.raises(OutOfMemory, match="no KV left"):
            ticket.result()
    assert [node.index for node in tree.root.children] == [0, 1, 2, 3]
    assert tree.root.children[0].children == []
    assert all(ticket.result().candidates for ticket in searches)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_iteration_that_is_torn_ends_all_that_took_part(error: type[BaseException]) -> None:
    class Torn(ScriptedPair):
        torn = False

        def poll(self) -> list[Any]:
            if self.polls == 3 and not self.torn:
                self.torn = True
                raise error("torn")
            return super().poll()

    pair = Torn()
    service: Service[Any] = Service(pair)
    first, second = submit(service, "a", BEAM), submit(service, "b", BEAM)
    with pytest.raises(error, match="torn"):
        first.result()
    with pytest.raises((error, EngineStateError)):
        second.result()
    assert pair.open_trees == []
    assert shape(submit(service, "c", BEAM).result()) == alone("c", BEAM)
