"""Completions while they are written: pieces joined are the text, and whoever leaves frees what grew for him."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest

import branchwise as bw
from branchwise.completions import Piece, Sample

PROMPT = "12+3*4-5+60=?\n\n"


@pytest.fixture(scope="module")
def engine() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=64 << 20, max_tokens=120, prefix_cache=False) as made:
        yield made


def free(engine: bw.Engine) -> bool:
    return engine.policy.idle and engine.policy.kv.free_blocks == engine.policy.kv.n_blocks


async def read(engine: bw.Engine, **options: Any) -> list[Piece]:
    return [piece async for piece in engine.astream(PROMPT, **options)]


@pytest.mark.parametrize(
    "options",
    [
        {}, {"n": 3, "temperature": 1.5}, {"n": 2, "stop": ["=1", "\n\n1", "never"]}, {"n": 2, "max_tokens": 1},
        {"n": 2, "stop": "=", "include_stop": True}, {"n": 3, "temperature": 0.0}, {"stop_token_ids": [24]},
    ],
)  # fmt: skip
def test_pieces_joined_are_the_samples(engine: bw.Engine, options: dict[str, Any]) -> None:
    (whole,) = engine.complete(PROMPT, seed=3, **options)
    pieces = asyncio.run(read(engine, seed=3, **options))
    texts: dict[int, str] = {}
    ended: dict[int, Sample] = {}
    for piece in pieces:
        assert piece.index not in ended
        texts[piece.index] = texts.get(piece.index, "") + piece.text
        if piece.sample is not None:
            ended[piece.index] = piece.sample
    for index, sample in enumerate(whole.samples):
        told = ended[index]
        assert (told.text, told.tokens, told.logprob) == (sample.text, sample.tokens, sample.logprob)
        assert (told.finish, told.stop_reason, told.repeat) == (sample.finish, sample.stop_reason, sample.repeat)
        assert texts[index] == sample.text
    if not options:
        assert len(pieces) > 10
    assert free(engine)


def test_pieces_come_while_the_rest_is_written(engine: bw.Engine) -> None:
    async def main() -> None:
        slow = engine.astream(PROMPT, ignore_eos=True, max_tokens=120, seed=1)
        first = await anext(slow)
        assert first.sample is None
        assert len(engine._service.board.watching) == 1
        await slow.aclose()  # type: ignore[attr-defined]
        assert await engine.acomplete(PROMPT, seed=1)

    asyncio.run(main())
    engine.stop()
    assert free(engine)


def test_whoever_leaves_or_is_cancelled_frees_the_rows(engine: bw.Engine) -> None:
    async def leave() -> None:
        async for _ in engine.astream(PROMPT, n=4, ignore_eos=True):
            break

    async def never_read() -> None:
        engine.astream(PROMPT, n=4)

    async def main() -> None:
        await leave()
        await never_read()
        task = asyncio.ensure_future(read(engine, n=4, ignore_eos=True))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gc.collect()
        await asyncio.sleep(0)
        await engine.acomplete(PROMPT, max_tokens=2)

    asyncio.run(main())
    engine.stop()
    assert free(engine)
    assert engine._service.board.watching == {}


def test_errors_of_a_stream(engine: bw.Engine) -> None:
    async def broken(prompt: Any) -> None:
        async for _ in engine.astream(prompt):
            pass

    with pytest.raises(bw.ConfigError, match="no option 'echo'"):
        engine.astream(PROMPT, echo=True)
    with pytest.raises(bw.InputError, match="the prompt is empty"):
        asyncio.run(broken(""))
    engine.stop()


def test_many_streams_beside_searches(engine: bw.Engine) -> None:
    """Each is what it is alone."""

    async def main() -> tuple[list[list[Piece]], bw.Result]:
        streams = [read(engine, seed=seed, n=2, stop=["="] * (seed % 2)) for seed in range(6)]
        *pieces, result = await asyncio.gather(*streams, engine.asolve("7*8+5-20=?", "beam", n=4))
        return pieces, result

    pieces, result = asyncio.run(main())
    engine.stop()
    assert result.answer == engine.solve("7*8+5-20=?", "beam", n=4).answer
    for seed, found in enumerate(pieces):
        (whole,) = engine.complete(PROMPT, n=2, seed=seed, stop=["="] * (seed % 2))
        texts = ["".join(piece.text for piece in found if piece.index == i) for i in range(2)]
        assert texts == [sample.text for sample in whole.samples]
