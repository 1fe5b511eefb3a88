"""The searches that the GPU benchmark runs beside vLLM, over a stand-in for vLLM."""

from __future__ import annotations

import inspect
import sys
from dataclasses import replace
from types import FunctionType, ModuleType, SimpleNamespace

import pytest

from benchmarks.gpu.vllm_steps import VllmSteps, VllmTree, vllm_search
from branchwise.assets import asset_path
from branchwise.errors import ConfigError, InputError, StaleNodeError
from branchwise.pair.protocol import Policy, PolicyTree, RowLoad
from branchwise.types import Endings, Problem, Sampling, Settings, StepOptions
from branchwise.weights import open_checkpoint

OPTIONS = StepOptions(Sampling(), Endings(), 32)


class StandIn:
    """As `vllm.LLM`: every step says which it is, and the third one ends the solution."""

    def __init__(self, model: str, **flags: object) -> None:
        assert flags["enable_prefix_caching"] is True
        self.tokenizer = open_checkpoint(model).tokenizer()
        self.rounds: list[int] = []

    def generate(self, prompts, wishes, use_tqdm):
        self.rounds.append(sum(wish.n for wish in wishes))
        return [SimpleNamespace(outputs=[self.output(prompt, wish) for _ in range(wish.n)])
                for prompt, wish in zip(prompts, wishes, strict=True)]  # fmt: skip

    def output(self, prompt: dict[str, list[int]], wish: SimpleNamespace) -> SimpleNamespace:
        assert wish.stop == ["\n\n"]
        assert wish.max_tokens > 0
        before = self.tokenizer.decode(prompt["prompt_token_ids"])
        steps = before.count("1+1=2")
        text = "1+1=2\n\n" if steps < 2 else "1+1=2"
        tokens = self.tokenizer.encode(text) + ([] if steps < 2 else [min(self.tokenizer.eos_ids)])
        return SimpleNamespace(text=text, token_ids=tokens, finish_reason="stop")


@pytest.mark.parametrize(("strategy", "steps"), [("beam", 3), ("dvts", 3)])
def test_searches_over_vllm(monkeypatch, strategy, steps):
    made: list[StandIn] = []
    vllm = ModuleType("vllm")
    vllm.LLM = lambda *args, **flags: made.append(StandIn(*args, **flags)) or made[0]
    vllm.SamplingParams = SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    problems = [Problem("a", "1+1=?"), Problem("b", "2+2=?")]
    pair = (str(asset_path(name)) for name in ("policy-small", "prm"))
    record = vllm_search(*pair, "cpu", problems, strategy, 4, 2)
    assert made[0].rounds == [4 * 2] * steps  # both problems in every call, N rows each
    assert record["strategy"] == strategy
    assert record["tokens"] > 0


@pytest.fixture
def policy() -> VllmSteps:
    llm = StandIn(str(asset_path("policy-small")), enable_prefix_caching=True)
    return VllmSteps(llm, SimpleNamespace, llm.tokenizer, context=100)


def opened(policy: VllmSteps) -> VllmTree:
    ids = policy.tokenizer.encode("1+1=?\n\n")
    return policy.open(ids, lineage=1, branches=4, paths=4, steps=8, settings=Settings())


def parts(protocol: type) -> dict[str, object]:
    """What a protocol asks for: methods with their parameters, properties and attributes without."""
    found: dict[str, object] = dict.fromkeys(protocol.__annotations__)
    for name, value in vars(protocol).items():
        if isinstance(value, property):
            found[name] = None
        elif isinstance(value, FunctionType) and not name.startswith("_"):
            found[name] = [(each.name, each.kind) for each in inspect.signature(value).parameters.values()]
    return found


def test_it_is_a_policy(policy: VllmSteps) -> None:
    tree = opened(policy)
    for given, protocol in ((policy, Policy), (tree, PolicyTree), (policy.load, RowLoad)):
        for name, parameters in parts(protocol).items():
            assert hasattr(given, name), name
            if parameters is not None:
                mine = inspect.signature(getattr(type(given), name)).parameters.values()
                assert [(each.name, each.kind) for each in mine] == parameters, name
    assert tree.settings.max_tokens == 100 - len(tree.prompt)
    assert tree.settings.limit == "context"


def test_a_prompt_must_fit_into_the_context(policy: VllmSteps) -> None:
    for ids in ([], [1] * 99):
        with pytest.raises(InputError, match=rf"the prompt has {len(ids)} tokens, the model's context is 100"):
            policy.open(ids, lineage=1, branches=1, paths=1, steps=1, settings=Settings())


def test_all_that_waits_is_one_call(policy: VllmSteps) -> None:
    one, other = opened(policy), opened(policy)
    firsts = [policy.expand(tree, tree.root, n, OPTIONS) for tree, n in ((one, 2), (other, 1), (one, 1))]
    assert firsts == [0, 0, 2]
    assert (policy.load.used, policy.load.max_rows, policy.idle) == (4, 4, False)
    done = policy.poll()
    assert [(tree, node.index, node.finish) for tree, node in done] == [
        (one, 0, "stop"), (one, 1, "stop"), (other, 0, "stop"), (one, 2, "stop"),
    ]  # fmt: skip
    assert one.root.children == [node for tree, node in done if tree is one]
    assert len({node.lineage for node in one.root.children}) == 3
    assert policy.idle
    assert policy.poll() == []
    assert policy.llm.rounds == [4]


def test_what_is_cancelled_leaves_the_tree_and_the_queue(policy: VllmSteps) -> None:
    tree = opened(policy)
    policy.expand(tree, tree.root, 2, OPTIONS)
    policy.poll()
    kept, gone = tree.root.children
    policy.expand(tree, gone, 1, OPTIONS)
    policy.poll()
    (below,) = gone.children
    policy.expand(tree, below, 1, OPTIONS)
    late = policy.expand(tree, tree.root, 2, OPTIONS)
    assert policy.cancel(tree, tree.root, late, 2) == []  # they had not begun
    assert policy.cancel(tree, tree.root, 1, 1) == [gone, below]
    assert tree.root.children == [kept]
    assert tree.cost.cancelled_tokens == len(gone.tokens) + len(below.tokens)
    assert policy.idle
    assert policy.expand(tree, tree.root, 1, OPTIONS) == 4  # no index is given twice


def test_what_is_pruned_or_has_ended_cannot_go_on(policy: VllmSteps) -> None:
    tree = opened(policy)
    policy.expand(tree, tree.root, 2, OPTIONS)
    node, other = (node for _, node in policy.poll())
    for finish in ("stop", "eos"):
        policy.expand(tree, node, 1, OPTIONS)
        ((_, node),) = policy.poll()
        assert node.finish == finish
    policy.expand(tree, other, 1, OPTIONS)
    policy.prune(tree, other)
    assert policy.idle
    for stale in (node, other):
        with pytest.raises(StaleNodeError):
            policy.expand(tree, stale, 1, OPTIONS)
    policy.expand(tree, tree.root, 1, OPTIONS)
    policy.close(tree)
    policy.close(tree)
    assert policy.idle
    with pytest.raises(StaleNodeError):
        policy.expand(tree, tree.root, 1, OPTIONS)


def test_what_is_not_compared_is_said(policy: VllmSteps) -> None:
    tree = opened(policy)
    with pytest.raises(ConfigError, match="further prompts are not compared"):
        policy.plant(tree, tree.root, [1], tree.settings)
    with pytest.raises(ConfigError, match="given text is not compared"):
        policy.expand(tree, tree.root, 1, replace(OPTIONS, feed="x"))
