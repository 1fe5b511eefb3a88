"""What follows a kept prefix is the same, bit for bit, as what follows tokens that were fed. Who gets its blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from branchwise.backend.cpu.backend import CpuBackend
from branchwise.engine.kv import KvCache
from branchwise.engine.runner import Feed, Runner
from branchwise.errors import OutOfMemory
from checkpoints import random_checkpoint
from model_tools import cpu_decoder
from tolerances import assert_close

FIRST = [3 + place * 7 % 80 for place in range(330)]
SECOND = [*FIRST[:300], *(5 + place * 11 % 70 for place in range(40))]
STEP = [9, 20, 31, 42]


class Session:
    """Prompts on one model, each with a step below it."""

    def __init__(self, family: str, dtype: torch.dtype, n_blocks: int = 100) -> None:
        model = cpu_decoder(random_checkpoint(family, seed=3), dtype)
        self.kv = KvCache(model.config, n_blocks, model.dtype, CpuBackend())
        self.runner = Runner(model, self.kv)

    def run(self, prompt: list[int], *, exact: bool = True) -> tuple[int, list[Tensor]]:
        """Tokens that were there, and the hidden states behind the prompt and behind each token of a step below it."""
        kv = self.kv
        match = kv.prefixes.match(prompt, exact=exact)
        if match.length == len(prompt):
            assert match.handle is not None
            assert isinstance(match.known, Tensor)
            states, node = [match.known], match.handle
            kv.tree.hold(node)
        else:
            node = kv.tree.add_root() if match.handle is None else kv.tree.fork(match.handle, 1)[0]
            for begin in range(match.length, len(prompt), 150):
                (last,) = self.runner.forward([Feed(node, prompt[begin : begin + 150])])
            states = [last.clone()]
            kv.tree.seal(node)
            kv.prefixes.offer(node, prompt[match.length :], states[0])
        (child,) = kv.tree.fork(node, 1)
        states += [self.runner.forward([Feed(child, [token])])[0].clone() for token in STEP]
        kv.tree.prune(child)
        kv.tree.prune(node)
        return match.length, states


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_an_exact_prefix_leaves_all_bits_as_they_are(family: str, dtype: torch.dtype) -> None:
    cached, plain = Session(family, dtype), Session(family, dtype)
    found = [cached.run(prompt) for prompt in (FIRST, SECOND, FIRST, SECOND, FIRST[:290])]
    assert [length for length, _ in found] == [0, 256, 330, 340, 256]
    for (_, states), prompt in zip(found, (FIRST, SECOND, FIRST, SECOND, FIRST[:290]), strict=True):
        plain.kv.prefixes.clear()
        length, expected = plain.run(prompt)
        assert length == 0
        assert same(states, expected)


def test_a_prefix_cut_at_any_block_is_right_but_for_rounding_and_harms_no_exact_one() -> None:
    cached, plain = Session("llama", torch.float32), Session("llama", torch.float32)
    _, expected = plain.run(SECOND)
    _, first = cached.run(FIRST)
    length, states = cached.run(SECOND, exact=False)
    assert length == 288
    for one, other in zip(states, expected, strict=True):
        assert_close("hidden", one, other)
    found = [cached.run(prompt) for prompt in (SECOND, FIRST)]
    assert [length for length, _ in found] == [256, 256]
    assert same(found[0][1], expected)
    assert same(found[1][1], first)
    assert [cached.run(prompt)[0] for prompt in (SECOND, FIRST)] == [340, 330]


def test_kept_prefixes_make_room_and_no_more_than_is_needed() -> None:
    session = Session("llama", torch.float32, n_blocks=40)  # of 32 slots
    tree, prefixes = session.kv.tree, session.kv.prefixes
    session.run(FIRST)
    assert (prefixes.n_blocks, tree.n_free_blocks, session.kv.free_blocks) == (11, 29, 40)
    nodes = [tree.add_root(), tree.add_root()]
    session.kv.append(nodes, [27 * 32, 3 * 32])
    assert (prefixes.n_blocks, tree.n_free_blocks) == (0, 10)
    with pytest.raises(OutOfMemory, match="11 more KV blocks are needed, 10 of 40 are free"):
        session.kv.append(nodes, [32, 10 * 32])
    assert [tree.length(node) for node in nodes] == [27 * 32, 3 * 32]
    session.kv.append(nodes, [32, 9 * 32])
    assert session.kv.free_blocks == 0
    session.kv.take_back(nodes, [33, 1])
    assert session.kv.free_blocks == 1
