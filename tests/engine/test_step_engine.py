"""Trees equal sequences, bit for bit; whatever else runs, and however many threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from branchwise._C import lineage_root
from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import KvCache
from branchwise.engine.policy_tree import PolicyTree
from branchwise.errors import ConfigError, InputError, OutOfMemory, StaleNodeError
from branchwise.models.decoder import Decoder
from branchwise.text.automaton import Verdict
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Endings, Node, Sampling, Settings, StepOptions
from checkpoints import FAMILY_CONFIGS, character_tokenizer, random_checkpoint
from model_tools import cpu_decoder

Steps = dict[tuple[int, ...], tuple[list[int], float, str | None]]


class SomeTokensStop:
    """Stands in for the step detector: random models seldom write a blank line."""

    start = 0

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def advance(self, state: int, token: int) -> tuple[int, Verdict]:
        if token in self.tokenizer.eos_ids:
            return state, Verdict.SOLUTION
        return state + 1, Verdict.STEP if self.ends(state, token) else Verdict.GO

    def ends(self, state: int, token: int) -> bool:
        return state > 1 and (token % 7 == 0 or state == 9)

    def next_step(self, state: int) -> int:
        return self.start

    def ending(self, begun: int, tokens: list[int]) -> tuple[str, None]:
        return self.tokenizer.decode(tokens), None


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def make_engine(model: Decoder, blocks: int = 2000, **options: Any) -> StepEngine:
    return StepEngine(
        model, character_tokenizer(), KvCache(model.config, blocks, model.dtype, model.backend), **options
    )


def open_tree(
    engine: StepEngine, prompt: list[int], sampling: Sampling, key: int = 1, branches: int = 8, *, states: bool = False
) -> PolicyTree:
    settings = Settings(sampling, max_tokens=60, max_step_tokens=20, seed=5, states=states)
    engine.detectors[Endings()] = SomeTokensStop(engine.tokenizer)  # type: ignore[assignment]
    tree = engine.open(prompt, lineage=lineage_root(key), branches=branches, paths=branches, steps=6, settings=settings)
    assert tree is not None
    return tree


def options_of(tree: PolicyTree) -> StepOptions:
    """How the steps of a tree are written if nobody says otherwise."""
    return tree.settings.step()


def expand(engine: StepEngine, tree: PolicyTree, node: Node, n: int) -> int:
    return engine.expand(tree, node, n, options_of(tree))


def run_until_idle(engine: StepEngine) -> list[Node]:
    done = []
    while not engine.idle:
        done += [node for _, node in engine.poll()]
    return done


def grow(engine: StepEngine, trees: list[PolicyTree], width: int, depth: int) -> None:
    """Every node gets `width` children, breadth first; all trees together."""
    frontier = [(tree, tree.root) for tree in trees]
    for level in range(depth):
        for tree, node in frontier:
            expand(engine, tree, node, width if level < 2 else 1)
        run_until_idle(engine)
        frontier = [(t, child) for t, node in frontier for child in node.children if child.finish == "stop"]


def steps_of(root: Node) -> Steps:
    found: Steps = {}
    stack = list(root.children)
    while stack:
        node = stack.pop()
        found[node.lineage_path] = (node.tokens, node.logprob, node.finish)
        stack += node.children
    return found


def alone(model: Decoder, prompt: list[int], path: tuple[int, ...], sampling: Sampling, key: int) -> Steps:
    """Decode one branch with nothing beside it: a single row an iteration, no siblings, no other problem."""
    engine = make_engine(model, 40)
    tree = open_tree(engine, prompt, sampling, key, branches=1)
    node = tree.root
    for index in path:
        tree.states[node].asked = index  # indices taken, nothing decoded
        expand(engine, tree, node, 1)
        (node,) = run_until_idle(engine)
    return {step.lineage_path: (step.tokens, step.logprob, step.finish) for step in node.path}


@pytest.fixture(params=["llama-fp32", "qwen2-bf16", "gemma3-fp32", "mistral-bf16"])
def model(request: pytest.FixtureRequest) -> Decoder:
    family, dtype = request.param.split("-")
    return cpu_decoder(random_checkpoint(family, seed=11), DTYPES[dtype])


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


SAMPLINGS = {"plain": Sampling(1.0), "top-p": Sampling(1.2, top_p=0.9, top_k=40), "greedy": Sampling(0.0)}
SAMPLINGS["penalised"] = Sampling(1.0, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2)


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_every_branch_equals_that_branch_decoded_alone(model: Decoder, threads: int, sampling: Sampling) -> None:
    prompt = list(range(4, 75))
    engine = make_engine(model)
    tree = open_tree(engine, prompt, sampling)
    other = open_tree(engine, list(range(20, 30)), sampling, key=2)
    grow(engine, [tree, other], width=3, depth=3)
    shared = steps_of(tree.root)
    leaves = [path for path in shared if not any(len(p) > len(path) and p[: len(path)] == path for p in shared)]
    assert max(len(path) for path in leaves) >= 2
    for path in leaves[:6]:
        for prefix, step in alone(model, prompt, path, sampling, key=1).items():
            assert shared[prefix] == step


def test_results_do_not_depend_on_batch_limits_or_company(model: Decoder) -> None:
    sampling = Sampling(0.9)
    prompts = [list(range(4 + i, 30 + 7 * i)) for i in range(4)]
    expected = None
    for max_rows, prefill_rows, order in ((256, 512, (0, 1, 2, 3)), (3, 16, (2, 0, 3, 1)), (1, 1, (3, 2, 1, 0))):
        engine = make_engine(model, max_rows=max_rows, prefill_rows=prefill_rows)
        trees = {i: open_tree(engine, prompts[i], sampling, key=i) for i in order}
        grow(engine, [trees[i] for i in order], width=2, depth=2)
        found = {i: steps_of(tree.root) for i, tree in trees.items()}
        expected = expected or found
        assert found == expected


def test_expanding_twice_gives_further_children(model: Decoder) -> None:
    at_once, in_turn = (make_engine(model) for _ in range(2))
    first, second = (open_tree(engine, list(range(4, 40)), Sampling(1.0)) for engine in (at_once, in_turn))
    expand(at_once, first, first.root, 3)
    run_until_idle(at_once)
    for n in (1, 2):
        expand(in_turn, second, second.root, n)
        run_until_idle(in_turn)
    assert steps_of(first.root) == steps_of(second.root)


def test_all_kv_comes_back(model: Decoder) -> None:
    engine = make_engine(model)
    tree = open_tree(engine, list(range(4, 80)), Sampling(1.0))
    grow(engine, [tree], width=3, depth=2)
    engine.kv.tree.check()
    held = engine.kv.n_blocks - engine.kv.free_blocks
    assert held == tree.lease.blocks == tree.lease.peak_blocks
    assert 0 < tree.lease.tokens <= engine.kv.tree.held_slots
    for node in [node for node in tree.states if node is not tree.root]:
        engine.prune(tree, node)
        engine.prune(tree, node)  # again: nothing happens
        engine.kv.tree.check()
    assert tree.lease.tokens == tree.prompt_tokens
    expand(engine, tree, tree.root, 2)
    engine.poll()
    engine.close(tree)
    engine.close(tree)
    assert tree.lease.blocks == tree.lease.tokens == 0
    assert tree.cost.kv_tokens == tree.lease.peak_tokens > tree.prompt_tokens
    assert engine.kv.free_blocks == engine.kv.n_blocks
    assert engine.idle


def test_prefix_is_read_once_for_all_branches() -> None:
    """The tree attention path is taken: keys of a shared prompt are read once, not once a branch."""
    model = cpu_decoder(random_checkpoint("llama"), torch.float32)
    engine = make_engine(model)
    tree = open_tree(engine, list(range(4, 90)) * 3, Sampling(1.0), branches=8)
    expand(engine, tree, tree.root, 8)
    run_until_idle(engine)
    stats = engine.runner.stats
    assert stats.kv_bytes_unshared > 3 * stats.kv_bytes_read


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_every_family_decodes(family: str) -> None:
    engine = make_engine(cpu_decoder(random_checkpoint(family), torch.bfloat16))
    tree = open_tree(engine, [5, 6, 7], Sampling(0.7))
    expand(engine, tree, tree.root, 4)
    nodes = run_until_idle(engine)
    assert len(nodes) == 4
    assert all(node.finish and node.tokens and node.logprob <= 0 for node in nodes)


def test_caps_end_steps_and_solutions() -> None:
    engine = make_engine(cpu_decoder(random_checkpoint("llama", seed=2), torch.float32))
    settings = Settings(Sampling(1.0), Endings(("\0",)), max_tokens=30, max_step_tokens=12)
    tree = engine.open([5, 6], lineage=1, branches=2, paths=2, steps=9, settings=settings)
    assert tree is not None
    expand(engine, tree, tree.root, 2)
    for node in run_until_idle(engine):
        assert (node.finish, len(node.tokens)) == ("length", 12) or node.finish == "eos"


def test_bad_requests_are_refused() -> None:
    engine = make_engine(cpu_decoder(random_checkpoint("llama"), torch.float32), blocks=60)
    with pytest.raises(InputError, match="prompt is empty"):
        open_tree(engine, [], Sampling())
    with pytest.raises(InputError, match=r"3000 tokens.*context is 2048"):
        open_tree(engine, [5] * 3000, Sampling())
    with pytest.raises(OutOfMemory, match=r"one problem needs .* 10 tokens and 60 branches.*lower n: 59 is the most"):
        open_tree(engine, [5] * 10, Sampling(), branches=60)
    with pytest.raises(OutOfMemory, match=r"raise it, or shorten the prompt$"):
        open_tree(engine, [5] * 2000, Sampling(), branches=2)
    largest = open_tree(engine, [5] * 10, Sampling(), branches=59)
    engine.close(largest)
    tree = open_tree(engine, [5, 6], Sampling(), branches=2)
    with pytest.raises(ConfigError, match="at least 1 child"):
        expand(engine, tree, tree.root, 0)
    expand(engine, tree, tree.root, 1)
    (node,) = run_until_idle(engine)
    engine.prune(tree, node)
    with pytest.raises(StaleNodeError, match="pruned"):
        expand(engine, tree, node, 1)
    engine.close(tree)
    with pytest.raises(StaleNodeError, match="closed"):
        expand(engine, tree, tree.root, 1)


def test_running_out_of_kv_leaves_the_engine_usable() -> None:
    engine = make_engine(cpu_decoder(random_checkpoint("llama"), torch.float32), blocks=24)
    tree = open_tree(engine, [5] * 40, Sampling(1.0), branches=1)  # promised one branch, asked for many
    expand(engine, tree, tree.root, 23)
    with pytest.raises(OutOfMemory):
        run_until_idle(engine)
    engine.kv.tree.check()
    engine.close(tree)
    assert engine.kv.free_blocks == engine.kv.n_blocks
    again = open_tree(engine, [5] * 40, Sampling(1.0), branches=1)
    expand(engine, again, again.root, 1)
    assert len(run_until_idle(engine)) == 1
