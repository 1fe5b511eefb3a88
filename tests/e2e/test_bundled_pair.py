"""The bundled pair through the public engine: every strategy, results that depend on nothing else, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import branchwise as bw
from branchwise.assets import asset_path
from branchwise.pair.prompts import prompt_ids
from branchwise.strategies import Demand, Limits, make_strategy
from branchwise.strategies.registry import STRATEGIES
from branchwise.types import Result, Settings

NEEDS: dict[str, Any] = {  # the bundled policy has room for short prompts, and no token that ends thoughts
    "rsa": {"k": 1, "loops": 2, "agree": None, "frame": "{solutions}\n{problem}"},
    "thinking": {"end": "=", "budget": 5},
}
FEWER = ("auto", "adaptive", "esc", "deepconf", "cotts_beam")  # stop early, or have fewer answers than branches


@pytest.fixture(scope="module")
def engine() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=256 << 20, max_tokens=300) as made:
        yield made


@pytest.fixture(scope="module")
def problems() -> list[bw.Problem]:
    rows = [json.loads(line) for line in asset_path("problems.jsonl").read_text().splitlines()]
    return [bw.Problem(id=row["id"], text=row["problem"], answer=row["answer"]) for row in rows]


def options(name: str) -> dict[str, Any]:
    return {} if name == "greedy" else {"n": 8, **NEEDS.get(name, {})}


def facts(result: Result) -> dict[str, Any]:
    """What must not depend on timing: everything but seconds and row statistics."""
    nodes, stack = [], [result.tree]
    while stack:
        node = stack.pop()
        nodes.append((node.id, node.lineage_path, tuple(node.tokens), node.logprob, node.score, node.finish))
        stack += node.children
    kept = {"answer": result.answer, "votes": result.votes, "scores": result.scores, "nodes": sorted(nodes)}
    return {**kept, "generated_tokens": result.cost.generated_tokens}


def facts_and_costs(result: Result) -> dict[str, Any]:
    """And what must not, either, of a search without reuse; with it, it depends on what ran before."""
    names = ("prefill_tokens", "prm_tokens", "cached_tokens", "flops")
    return {**facts(result), **{name: getattr(result.cost, name) for name in names}}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_runs_and_counts(engine: bw.Engine, problems: list[bw.Problem], name: str) -> None:
    results = list(engine.solve_many(problems[:4], name, reuse=False, **options(name)))
    n, scored = options(name).get("n", 1), make_strategy(name).demand(Limits(300, 300)).scores
    assert sorted(result.problem.id for result in results) == sorted(problem.id for problem in problems[:4])
    for result in results:
        number = sum(each.count for each in result.candidates)
        assert number == n if name not in FEWER else 1 <= number <= n
        assert result.correct is not None
        assert result.cost.generated_tokens == sum(len(node.tokens) - node.given for node in walk(result))
        assert result.cost.cached_tokens == 0
        assert (result.cost.prm_tokens > 0) == scored
        assert engine.judge is not None
        assert result.cost.prm_flops == result.cost.prm_tokens * engine.judge.flops_per_token
    assert engine.policy.kv.free_blocks == engine.policy.kv.n_blocks
    assert engine.judge is not None
    assert engine.judge.kv.free_blocks == engine.judge.kv.n_blocks


def walk(result: Result) -> Iterator[bw.Node]:
    stack = [result.tree]
    while stack:
        node = stack.pop()
        yield node
        stack += node.children


@pytest.mark.parametrize("name", ["beam", "dvts", "weighted_best_of_n"])
def test_a_result_depends_on_its_problem_and_seed_alone(
    engine: bw.Engine, problems: list[bw.Problem], name: str
) -> None:
    threads = torch.get_num_threads()
    together = {r.problem.id: facts_and_costs(r) for r in engine.solve_many(problems[:5], name, n=8, reuse=False)}
    torch.set_num_threads(1)
    try:
        alone = list(engine.solve_many(reversed(problems[:5]), name, n=8, max_in_flight=1, reuse=False))
    finally:
        torch.set_num_threads(threads)
    assert {r.problem.id: facts_and_costs(r) for r in alone} == together
    other = engine.solve(problems[0], name, n=8, seed=1)
    assert facts(other)["nodes"] != together[problems[0].id]["nodes"]


def test_steps_by_hand(engine: bw.Engine) -> None:
    with engine.open("12+3*4-5=?") as tree:
        children = tree.expand(tree.root, n=4, stop="\n\n", max_tokens=64, temperature=0.8)
        scores = tree.score(children)
        assert len(children) == 4
        assert all(score is None or 0 <= score <= 1 for score in scores)
        tree.prune(children[2])
        with pytest.raises(bw.StaleNodeError):
            tree.expand(children[2])
        grown = [child for child in (children[0], children[1], children[3]) if child.finish == "stop"]
        for child in grown:
            (step,) = tree.expand(child, max_tokens=3)
            assert step.parent is child
            assert len(step.tokens) <= 3
        with pytest.raises(bw.ConfigError, match="temperature"):
            tree.expand(tree.root, temperature=-1)
    with pytest.raises(bw.StaleNodeError):
        tree.expand(tree.root)
    assert engine.policy.kv.free_blocks == engine.policy.kv.n_blocks


def test_stopping_early_frees_everything(engine: bw.Engine, problems: list[bw.Problem]) -> None:
    results = engine.solve_many(problems[:6], "beam", n=8, max_in_flight=3)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert engine.policy.kv.free_blocks == engine.policy.kv.n_blocks
    assert engine.policy.idle


def test_mistakes_are_named(engine: bw.Engine) -> None:
    with pytest.raises(bw.InputError, match="empty question"):
        engine.solve("   ")
    with pytest.raises(bw.ConfigError, match="n=10 is no multiple of expand=4"):
        engine.solve("1+1=?", "beam", n=10, expand=4)
    with pytest.raises(bw.ConfigError, match="did you mean 'beam'"):
        engine.solve("1+1=?", "bean")
    with pytest.raises(bw.ConfigError, match="no option 'wdith'"):
        engine.solve("1+1=?", "beam", wdith=3)
    with pytest.raises(bw.InputError, match="context"):
        engine.solve("1+" * 5000 + "1=?", "greedy")
    with pytest.raises(bw.ConfigError, match="top_p"):
        engine.solve("1+1=?", "greedy", top_p=0)
    with pytest.raises(bw.OutOfMemory, match=r"needs kv_memory of .* lower n: 1,819 is the most"):
        engine.solve("1+1=?", "majority", n=200_000)
    with pytest.raises(bw.ConfigError, match="unknown engine option 'dtpye'"):
        bw.Engine(dtpye="float32")
    with pytest.raises(bw.CheckpointError, match="no model at"):
        bw.Engine("/nowhere/at/all")
    without = bw.Engine(asset_path("policy-small"), kv_memory=64 << 20)
    with pytest.raises(bw.ConfigError, match="give the engine a PRM"):
        without.solve("1+1=?", "beam")


def test_solutions_are_capped_by_the_context_of_the_prm(problems: list[bw.Problem]) -> None:
    """Nothing is written that could not be judged even as a single step; what more steps cost is known as they come."""
    with bw.Engine(kv_memory=1 << 30, max_tokens=2048) as engine:
        assert engine.judge is not None
        tree = engine.pair.open(problems[0], Demand(4, 4, 8, scores=True), Settings(max_tokens=2048))
        assert tree is not None
        (judged,) = tree.judges.values()
        caps = tree.policy.settings
        assert judged.prompt_tokens + caps.max_tokens + 1 == engine.judge.context  # one marker
        engine.pair.close(tree)


def test_a_tree_by_hand_grows_deeper_than_it_is_wide() -> None:
    """The number of branches was taken for the number of steps: one branch had room for one step."""
    steps = 20
    with bw.Engine(kv_memory=256 << 20, max_tokens=300) as engine, engine.open("12+3*4-5=?", branches=1) as tree:
        node = tree.root
        for _ in range(steps):
            (node,) = tree.expand(node, max_tokens=3, stop="\0", temperature=0.0)
            node.finish = "stop"  # steps of 3 tokens, whatever they say
        used = engine.policy.kv.n_blocks - engine.policy.kv.free_blocks
        assert node.depth == steps
        assert steps <= used


def test_an_engine_closes_for_good() -> None:
    engine = bw.Engine(kv_memory=64 << 20)
    tree = engine.open("1+1=?", branches=4)
    ticket = engine.submit("1+2=?", "majority", n=4)
    engine.close()
    engine.close()
    with pytest.raises(bw.EngineStateError, match="closed before"):
        ticket.result()
    for call in (lambda: engine.solve("1+1=?"), lambda: engine.open("1+1=?"), lambda: tree.expand(tree.root)):
        with pytest.raises(bw.EngineStateError, match="is closed"):
            call()
    tree.close()


PENALTIES = {"repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.1}


@pytest.mark.parametrize("name", ["beam", "majority"])
def test_penalties_depend_on_nothing_else(problems: list[bw.Problem], name: str) -> None:
    """Given to the engine, to a call or with a problem, alone or among others, with speculation or without."""
    chosen, how = problems[:3], options(name)

    with bw.Engine(kv_memory=256 << 20, max_tokens=60, speculate=True, **PENALTIES) as engine:
        together = {each.problem.id: facts(each) for each in engine.solve_many(chosen, name, **how)}
    with bw.Engine(kv_memory=256 << 20, max_tokens=60) as engine:
        for problem in chosen:
            assert facts(engine.solve(problem, name, **how, **PENALTIES)) == together[problem.id]
        plain = facts(engine.solve(chosen[0], name, **how))
        own = bw.Problem(chosen[0].id, chosen[0].text, sampling=engine.sampling(**PENALTIES), answer=chosen[0].answer)
        assert facts(engine.solve(own, name, **how)) == together[own.id] != plain
        with engine.open(chosen[1].text, branches=4) as tree:
            first, second = (tree.expand(tree.root, 2, **extra) for extra in ({"repetition_penalty": 100.0}, {}))
            assert [node.tokens for node in first] != [node.tokens for node in second]


def test_greedy_text_with_a_repetition_penalty_equals_that_of_transformers(problems: list[bw.Problem]) -> None:
    """`generate` on the bundled policy in fp32, tokens of the prompt penalised as those of the answer."""
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle of this test")
    model = transformers.AutoModelForCausalLM.from_pretrained(asset_path("policy-small"), dtype=torch.float32).eval()
    with bw.Engine(kv_memory=64 << 20, max_tokens=48, max_step_tokens=48, delimiter="\0") as engine:
        for problem, penalty in zip(problems[:3], (1.1, 1.3, 0.9), strict=True):
            result = engine.solve(problem, "greedy", temperature=0, repetition_penalty=penalty)
            written = [token for node in result.tree.children for token in node.tokens]
            prompt = torch.tensor([prompt_ids(engine.policy.tokenizer, problem, "")])
            config = transformers.GenerationConfig(
                max_new_tokens=48, do_sample=False, repetition_penalty=penalty, eos_token_id=3, pad_token_id=3
            )
            mask = torch.ones_like(prompt)
            with torch.no_grad():
                wanted = model.generate(prompt, attention_mask=mask, generation_config=config)[0, prompt.shape[1] :]
            assert written == wanted.tolist()
