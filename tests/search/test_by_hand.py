"""Trees grown by hand: many in one batch, given up, dropped."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from branchwise.errors import StaleNodeError
from branchwise.search.by_hand import Opening
from branchwise.search.service import Service
from branchwise.strategies import Demand
from branchwise.types import Endings, Problem, Settings
from search.clients import open_tree
from search.scripted import Script, ScriptedPair


@pytest.fixture
def service() -> Service[Any]:
    return Service(ScriptedPair())


def test_a_tree_that_is_dropped_frees_its_room(service: Service[Any]) -> None:
    tree = open_tree(service)
    tree.expand(tree.root, 2)
    del tree
    gc.collect()
    assert service.pair.open_trees == []


def test_what_grows_below_a_pruned_node_is_given_up(service: Service[Any]) -> None:
    service.pair.script = Script(eos=0, length=0)
    tree = open_tree(service)
    left, right = tree.expand(tree.root, 2)
    below, beside = tree.submit(left, 3), tree.submit(right, 2)
    service.step()
    tree.prune(left)
    with pytest.raises(StaleNodeError, match="pruned while"):
        below.result()
    assert len(beside.result()) == 2
    assert left.children == []
    with pytest.raises(StaleNodeError):
        tree.expand(left)
    waiting = tree.submit(right, 2)
    tree.close()
    with pytest.raises(StaleNodeError, match="closed"):
        waiting.result()
    with pytest.raises(StaleNodeError, match="closed"):
        tree.score([right])


def test_a_cancelled_expansion_leaves_the_tree_as_it_was(service: Service[Any]) -> None:
    service.pair.script = Script(eos=0, length=0)
    service.pair.slow = lambda node: 5
    tree = open_tree(service)
    ticket = tree.submit(tree.root, 4)
    for _ in range(3):
        service.step()
    ticket.cancel()
    assert tree.root.children == []
    assert [kid.index for kid in tree.expand(tree.root, 2)] == [4, 5]


def test_no_stop_means_that_of_the_tree_and_an_empty_list_none(service: Service[Any]) -> None:
    settings = Settings(endings=Endings(("#",), ("<end>",)))
    job = Opening(service, Problem("p", "p"), Demand(8, 8, 40, scores=True), settings)
    with service.submit(job).result() as tree:
        for stop in (None, [], "a", ["a", "b"]):
            tree.expand(tree.root, 1, stop=stop)
        options = tree._hand.tree.options
    assert [each.endings.delimiters for each in options] == [("#",), (), ("a",), ("a", "b")]
    assert {each.endings.stops for each in options} == {("<end>",)}
