"""The bundled pair through the GPU's kernels: the same tokens as on the CPU, greedy and in seeded search, in fp32."""

from __future__ import annotations

import json

import pytest
import torch

from branchwise.api import Engine
from branchwise.assets import asset_path
from branchwise.backend.gpu.interpreter import InterpBackend
from branchwise.backend.gpu.sampler import TritonSampler
from branchwise.engine import decode_loop
from branchwise.engine.decode_loop import DecodeLoop
from branchwise.errors import CheckpointError, ConfigError
from branchwise.pair import timing
from branchwise.types import Problem, Sampling

SEARCHES = [("greedy", {}), ("beam", {"n": 4, "expand": 2}), ("dvts", {"n": 4, "expand": 2}), ("majority", {"n": 3})]


def problems(count: int) -> list[Problem]:
    lines = asset_path("problems.jsonl").read_text().splitlines()
    return [Problem(each["id"], each["problem"]) for each in map(json.loads, lines[1 : count + 1])]


def solved(
    engine: Engine, given: list[Problem], strategy: str, options: dict[str, int]
) -> tuple[list[object], list[float]]:
    """Every step of every search, and the scores of those that have one."""
    found = engine.solve_many(given, strategy, seed=5, top_p=0.95, **options)
    results = sorted(found, key=lambda result: result.problem.id)
    nodes = [node for result in results for node in every_node(result.tree)]
    steps = [(node.lineage, node.tokens, node.finish) for node in nodes]
    return [*steps, *(result.answer for result in results)], [node.score for node in nodes if node.score is not None]


def told(events: list[str], name: str, function):
    def call(*args, **kwargs):
        events.append(name)
        return function(*args, **kwargs)

    return call


def every_node(root):
    yield root
    for child in root.children:
        yield from every_node(child)


def test_heads_that_no_kernel_takes_are_refused():
    for head_dim in (7, 512):
        with pytest.raises(ConfigError, match=f"heads of {head_dim} dimensions"):
            InterpBackend().kv_pool(1, 4, 1, head_dim, torch.float32)


def test_heads_that_shared_memory_cannot_hold_are_refused(monkeypatch):
    monkeypatch.setattr(InterpBackend, "shared_memory", lambda _: 101_376)  # an RTX 4090
    InterpBackend().kv_pool(1, 4, 1, 256, torch.bfloat16)
    with pytest.raises(ConfigError, match=r"heads of 256 dimensions in float32 need 148 KiB .* has 99 KiB"):
        InterpBackend().kv_pool(1, 4, 1, 256, torch.float32)


SLOW = [pytest.param(problems(3), {}, *search, marks=pytest.mark.slow, id=f"{search[0]}-3") for search in SEARCHES]
SHORT = {"delimiter": "="}  # three levels in 29 iterations, of steps of 4 to 13 tokens


@pytest.mark.parametrize(("given", "settings", "strategy", "options"), [
    pytest.param([Problem("p", "2+3=?")], SHORT, "beam", SEARCHES[1][1], id="beam"), *SLOW,
])  # fmt: skip
def test_the_same_search_as_on_the_cpu(given, settings, strategy, options, monkeypatch):
    """And meanwhile: steps of early finishers are scored while the others' next burst is under way."""
    monkeypatch.setattr(timing, "MIN_ROWS", 1)
    events: list[str] = []
    monkeypatch.setattr(DecodeLoop, "start", told(events, "start", DecodeLoop.start))
    monkeypatch.setattr(DecodeLoop, "finish", told(events, "finish", DecodeLoop.finish))
    found = []
    for device in ("cpu", "interpreter"):
        with Engine(device=device, dtype="float32", kv_memory=64 << 20, **settings) as engine:
            monkeypatch.setattr(engine.judge.runner, "forward", told(events, "score", engine.judge.runner.forward))
            found.append(solved(engine, given, strategy, options))
            paths = engine.policy.runner.stats.attention_path
            assert set(paths) <= {"tree", "rows"}
            assert sum(paths.values()) == engine.policy.runner.stats.iterations
    if strategy in ("beam", "dvts"):
        assert "start score finish" in " ".join(events)
        assert {"stop", "eos"} <= {step[2] for step in found[0][0][: -len(given)]}
    (cpu_steps, cpu_scores), (gpu_steps, gpu_scores) = found
    assert gpu_steps == cpu_steps
    assert gpu_scores == pytest.approx(cpu_scores, abs=1e-4)


def test_a_row_without_finite_logits_ends_its_own_search(monkeypatch):
    """In the middle of a burst: the other search goes on, and all KV is free again."""

    def damaged(self, hidden, draws, workspace, filtered, tokens, logprobs):
        draw_into(self, hidden, draws, workspace, filtered, tokens, logprobs)
        logprobs[(draws.seed == 1) & (draws.position == 10)] = float("nan")

    draw_into = TritonSampler.draw_into
    monkeypatch.setattr(TritonSampler, "draw_into", damaged)
    given = [Problem(f"p{i}", "1+2*3=?", seed=i) for i in range(2)]
    with Engine(device="interpreter", dtype="float32", kv_memory=16 << 20, max_tokens=5) as engine:
        results = {each.problem.id: each for each in engine.solve_many(given, "majority", n=1)}
        assert isinstance(results["p1"].error, CheckpointError)
        assert results["p0"].error is None
        assert len(results["p0"].tree.children[0].tokens) > 2
        assert engine.policy.kv.free_blocks == engine.policy.kv.n_blocks


def test_penalties_in_bursts(monkeypatch):
    """What a burst counts on the device is what the host counts step by step, and the CPU: the same trees."""
    penalties = {"repetition_penalty": 2.0, "presence_penalty": 4.0, "frequency_penalty": 2.0}
    mixed = [
        Problem("all", "1+2*3=?", sampling=Sampling(1.0, top_p=0.95, **penalties)),
        Problem("none", "1+2*3=?", sampling=Sampling(1.0)),
        Problem("greedy", "1+2*3=?", sampling=Sampling(0.0, repetition_penalty=1.5)),
    ]
    found = {}
    for name in ("cpu", "interpreter", "one by one"):
        device = "cpu" if name == "cpu" else "interpreter"
        with monkeypatch.context() as patch:
            if name == "one by one":
                patch.setattr(InterpBackend, "burst", 1)
            with Engine(device=device, dtype="float32", kv_memory=16 << 20, max_tokens=11, max_step_tokens=6) as engine:
                results = engine.solve_many(mixed, "majority", n=1, seed=4)
                found[name] = {
                    each.problem.id: [(node.tokens, round(node.logprob, 3)) for node in every_node(each.tree)]
                    for each in results
                }
    assert found["interpreter"] == found["cpu"] == found["one by one"]
    assert found["cpu"]["all"] != found["cpu"]["none"]


def test_confidence_in_bursts():
    """What the device tells of every token of a burst is what the CPU tells; rows that do not ask hear nothing."""
    found = {}
    for device in ("cpu", "interpreter"):
        with Engine(device=device, dtype="float32", kv_memory=16 << 20, max_tokens=11, max_step_tokens=6) as engine:
            asked = engine.submit(problems(1)[0], "majority", n=2, seed=4, confidence_top=5)
            other = engine.submit(problems(2)[1], "majority", n=1, seed=4, top_p=0.9)
            nodes = [node for node in every_node(asked.result().tree) if node.depth]
            assert all(node.confidence is None for node in every_node(other.result().tree))
            assert [len(node.confidence.values) for node in nodes] == [len(node.tokens) for node in nodes]
            found[device] = (
                [node.tokens for node in nodes],
                [value for node in nodes for value in (*node.confidence.values, *node.confidence.certainties)],
            )
    assert found["interpreter"][0] == found["cpu"][0]
    assert found["interpreter"][1] == pytest.approx(found["cpu"][1], abs=1e-4)


def test_a_prm_on_a_device_of_its_own():
    """The policy on the CPU's kernels, the PRM on the GPU's: the same search as with both on the CPU."""
    found = []
    for options in ({}, {"prm_device": "interpreter"}):
        with Engine(device="cpu", dtype="float32", kv_memory=16 << 20, max_tokens=6, **options) as engine:
            found.append(solved(engine, problems(1), "best_of_n", {"n": 2}))
            assert engine.resolved.prm_blocks > 0
            assert engine.judge.prm.model.backend.name == options.get("prm_device", "cpu")
    (steps, scores), (other_steps, other_scores) = found
    assert other_steps == steps
    assert other_scores == pytest.approx(scores, abs=1e-4)


def test_loops_share_memory_and_the_least_used_one_goes(monkeypatch):
    monkeypatch.setattr(decode_loop, "MOST_LOOPS", 2)
    with Engine(device="interpreter", dtype="float32", kv_memory=16 << 20, max_tokens=3, delimiter="#") as engine:
        for sampling in ({}, {"top_p": 0.9}, {"top_p": 0.9, "presence_penalty": 0.5}, {}):
            engine.solve(problems(1)[0], "majority", n=1, **sampling)
        loops = list(engine.policy.loop._loops.values())
        assert len(loops) == 2
        assert [loop.iteration.filtered for loop in loops] == [True, False]  # the last one is the last that ran
        first, second = (loop.iteration.space.stats.data_ptr() for loop in loops)
        assert first == second


def test_completions_in_bursts():
    """Stops across tokens, tokens that stop, a least and a most, rows that look for different things: as on the CPU."""
    prompt, found, logprobs = "1+2*3=?\n\n", {}, {}
    for device in ("cpu", "interpreter"):
        with Engine(device=device, dtype="float32", kv_memory=16 << 20, max_tokens=12) as engine:
            tickets = [
                engine.submit_completion(prompt, 2, seed=4, temperature=1.5, **options)
                for options in (
                    {"stop": ["=", "\n\n1"]},
                    {"min_tokens": 3, "max_tokens": 5, "stop": "2", "repetition_penalty": 1.3},
                    {"stop_token_ids": [24], "ignore_eos": True, "max_tokens": 7},
                    {"min_tokens": 9, "top_p": 0.9},
                    {"max_tokens": 1},
                )
            ]
            samples = [sample for ticket in tickets for sample in ticket.result().samples]
            found[device] = [(each.tokens, each.text, each.finish, each.stop_reason, each.cut) for each in samples]
            logprobs[device] = [each.logprob for each in samples]
            assert engine.policy.kv.free_blocks == engine.policy.kv.n_blocks
    assert found["interpreter"] == found["cpu"]
    assert logprobs["interpreter"] == pytest.approx(logprobs["cpu"], abs=1e-3)
    assert {finish for _, _, finish, *_ in found["cpu"]} >= {"stop", "length"}
