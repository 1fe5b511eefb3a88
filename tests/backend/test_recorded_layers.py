"""Recorded passes of a model give the bits of its forward pass, whatever rows and pools come."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from branchwise import _C
from branchwise.backend.cpu.recorded import MOST_ROWS, RecordedLayers
from branchwise.engine.kv import KvCache
from branchwise.engine.runner import Feed, Runner
from branchwise.models.decoder import Decoder
from checkpoints import FAMILY_CONFIGS, random_checkpoint
from model_tools import cpu_decoder

KV_BLOCKS = 64


def feeds_of(kv: KvCache, lengths: list[int]) -> list[Feed]:
    return [Feed(kv.tree.add_root(), [3 + (7 * i) % 80 for i in range(length)]) for length in lengths]


def one_by_one(model: Decoder, kv: KvCache, feeds: list[Feed], taps: Sequence[int] = ()) -> Tensor:
    """The same feeds through the same memory, every kernel called from Python."""
    runner = Runner(model, kv)
    runner.layers = partial(model.through_layers, taps=taps)
    return runner.forward(feeds)


@pytest.mark.parametrize("taps", [(), (1,), (0, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_same_bits_as_single_calls(family: str, dtype: torch.dtype, taps: Sequence[int]) -> None:
    model = cpu_decoder(random_checkpoint(family, seed=1), dtype)
    kv, other = (KvCache(model.config, KV_BLOCKS, dtype, model.backend) for _ in range(2))
    runner = Runner(model, kv, taps)
    assert isinstance(runner.layers, RecordedLayers)
    for lengths in ([5], [70, 3], [1, 1, 1], [MOST_ROWS + 1], [2]):
        given = runner.forward(feeds_of(kv, lengths))
        assert given.shape == (len(lengths), (1 + len(taps)) * model.config.hidden_size)
        assert torch.equal(given, one_by_one(model, other, feeds_of(other, lengths), taps))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_the_last_row_of_a_feed_is_that_of_a_pass_over_every_row(family: str, dtype: torch.dtype) -> None:
    model = cpu_decoder(random_checkpoint(family, seed=4), dtype)
    kv = KvCache(model.config, KV_BLOCKS, dtype, model.backend)
    lengths = [5, 1, 70, 3]
    feeds = feeds_of(kv, lengths)
    last = Runner(model, kv, (1,)).forward(feeds)
    plan = kv.planner.build([feed.handle for feed in feeds], lengths)
    model.rope.cover(512)
    every = model.forward(torch.tensor([token for feed in feeds for token in feed.tokens]), plan, kv.layers, (1,))
    assert torch.equal(last, every[[4, 5, 75, 78]])


def test_recorded_again_for_more_rows_and_another_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cpu_decoder(random_checkpoint("qwen2", seed=2), torch.bfloat16)
    recordings = []
    record = _C.record
    monkeypatch.setattr(_C, "record", lambda body: recordings.append(1) or record(body))
    first, second = (KvCache(model.config, KV_BLOCKS, torch.bfloat16, model.backend) for _ in range(2))
    runner = Runner(model, first)
    for lengths, expected in (([3], 1), ([60], 1), ([65], 2), ([1], 2), ([MOST_ROWS + 1], 2)):
        runner.forward(feeds_of(first, lengths))
        assert len(recordings) == expected
    runner.kv = second
    given = runner.forward(feeds_of(second, [9]))
    assert len(recordings) == 3
    runner.forward(feeds_of(second, [20]))
    assert torch.equal(given, one_by_one(model, first, feeds_of(first, [9])))  # what was returned stays as it is
