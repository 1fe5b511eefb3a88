"""The context is the checkpoint's own, and tables of angles are filled as far as somebody gets."""

from __future__ import annotations

import pytest
import torch

import branchwise as bw
from branchwise.backend.cpu.backend import CpuBackend
from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import KvCache
from branchwise.engine.runner import Feed, Runner
from branchwise.models.config import decoder_config
from branchwise.models.rope import Rope, RopeTables
from checkpoints import random_checkpoint
from model_tools import cpu_decoder


def tables(positions: int = 1 << 30, room: int = 5000) -> RopeTables:
    ropes = Rope((1.0, 0.1, 0.01), amplitude=1.5), Rope(())
    made = RopeTables(ropes, 8, positions, CpuBackend())
    made.reserve(room)
    return made


@pytest.mark.parametrize("context", [100, 40_000, 131_072, 1_000_000])
def test_the_context_is_what_the_checkpoint_says(context: int) -> None:
    model = cpu_decoder(random_checkpoint("llama", max_position_embeddings=context), torch.float32)
    engine = StepEngine(
        model, random_checkpoint("llama").tokenizer(), KvCache(model.config, 8, model.dtype, CpuBackend())
    )
    assert engine.context == context


def test_angles_are_right_at_every_position_whatever_was_asked_for_first() -> None:
    made, places = tables(), torch.arange(5000).float()
    for end in (1, 900, 1024, 1025, 1026, 3000, 5000):
        made.cover(end)
        cosines, sines = made[0]
        angles = torch.outer(places[:end], torch.tensor([1.0, 0.1, 0.01]))
        assert torch.equal(cosines[:end, :3], angles.cos() * 1.5)
        assert torch.equal(sines[:end, :3], angles.sin() * 1.5)
        assert (cosines[:end, 3] == 1).all()  # a pair that is not turned
        assert (sines[:end, 3] == 0).all()
        assert (made[1][0][:end] == 1).all()


def test_positions_that_nobody_uses_are_not_filled() -> None:
    made = tables(room=4000)
    made.cover(10)
    filled = int((made[0][0] != 0).any(1).sum())
    assert 10 <= filled <= 1024


def test_tables_stay_where_they_are_until_there_must_be_more_room() -> None:
    made = tables(positions=9000)
    first = made[0][0]
    made.cover(3000)
    made.reserve(2000)
    assert made[0][0].data_ptr() == first.data_ptr()
    made.reserve(1 << 40)
    assert len(made[0][0]) == 9000  # not beyond the context
    assert torch.equal(made[0][0][:3000], first[:3000])
    made.cover(4500)
    assert torch.equal(made[0][0][:4500], first[:4500])  # what was recorded with the old ones goes on


def test_a_runner_fills_what_its_rows_need_and_reserves_what_its_cache_holds() -> None:
    model = cpu_decoder(random_checkpoint("llama", max_position_embeddings=1 << 30), torch.float32)
    kv = KvCache(model.config, 100, model.dtype, CpuBackend())
    runner = Runner(model, kv)
    cosines = model.rope[0][0]
    assert len(cosines) == 100 * kv.block_slots
    node = kv.tree.add_root()
    whole = list(range(3, 90)) * 24
    parts = [runner.forward([Feed(node, whole[begin : begin + 300])]) for begin in range(0, len(whole), 300)]
    assert (cosines[: len(whole)] != 0).any(1).all()
    fresh = cpu_decoder(random_checkpoint("llama", max_position_embeddings=1 << 30), torch.float32)
    kv = KvCache(fresh.config, 100, fresh.dtype, CpuBackend())
    fresh.rope.cover(len(whole))
    node, runner = kv.tree.add_root(), Runner(fresh, kv)
    for begin, part in zip(range(0, len(whole), 300), parts, strict=True):
        assert torch.equal(runner.forward([Feed(node, whole[begin : begin + 300])]), part)


def test_frequencies_that_depend_on_the_length_end_the_context() -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    scaling = {"rope_type": "longrope", **factors, "original_max_position_embeddings": 256}
    checkpoint = random_checkpoint("llama", rope_scaling=scaling)
    assert decoder_config(checkpoint.config, "x").max_positions == 256
    with pytest.warns(UserWarning, match="the context is 256 tokens, not 2048: beyond, the model turns"):
        cpu_decoder(checkpoint, torch.float32)
    dynamic = random_checkpoint("llama", rope_scaling={"rope_type": "dynamic", "factor": 4.0})
    assert decoder_config(dynamic.config, "x").max_positions == 2048
    cpu_decoder(dynamic, torch.float32)


def test_the_bundled_pair_is_as_it_was() -> None:
    with bw.Engine() as engine:
        assert engine.solve("12+3*4-5+60=?", strategy="greedy").answer
