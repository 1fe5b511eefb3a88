"""The JSON of a result is JSON, complete, and refers to nodes that exist."""

from __future__ import annotations

import json
import random

from branchwise.report.result_json import result_to_dict
from branchwise.strategies import BeamSearch
from branchwise.types import Problem
from search.scripted import ScriptedPair, run


def test_a_result_survives_json():
    problem = Problem("p", "1+1=?", answer="1")
    strategy = BeamSearch(n=8, expand=4, max_steps=6)
    grade = str.__eq__
    (result,) = run([problem], strategy, ScriptedPair(order=random.Random(1)), max_in_flight=1, grade=grade)
    made = json.loads(json.dumps(result_to_dict(result), allow_nan=False))
    assert (made["id"], made["problem"], made["gold"], made["correct"]) == ("p", "1+1=?", "1", result.correct)
    nodes = {node["id"]: node for node in made["tree"]}
    assert list(nodes) == list(range(len(nodes)))
    assert [node["id"] for node in made["tree"] if node["parent"] is None] == [0]
    assert all(node["parent"] in nodes for node in made["tree"][1:])
    assert len(made["candidates"]) == 8
    assert all(nodes[each["node"]]["finish"] for each in made["candidates"])
    assert sum(node["pruned"] for node in made["tree"]) > 0
    assert made["cost"]["generated_tokens"] == len(nodes) - 1
    assert "tree" not in result_to_dict(result, tree=False)
