"""Many requests in one event loop, as a server has them: searches, a tree grown by hand, a deadline, a cancellation.

All of them share the engine's batches; each result is what it would be alone.
"""

import asyncio

import branchwise as bw


async def searches(engine):
    """Three searches at once, each with a strategy of its own; the last one may take two seconds."""
    results = await asyncio.gather(
        engine.asolve("12+3*4-5+60=?", "dvts", n=16, expand=4),
        engine.asolve("7*8+5-20=?", "majority", n=8, temperature=1.0),
        engine.asolve("(31+4)*2-9=?", "beam", n=8, deadline=2.0),
    )
    return [(result.problem.text, result.answer, result.cuts) for result in results]


async def by_hand(engine):
    """Steps of a tree, each awaited."""
    with await engine.aopen("90-4*7+11=?", branches=4) as tree:
        first = await tree.aexpand(tree.root, 4, score=True)
        best = max(first, key=lambda node: node.score or 0.0)
        if not best.is_final:
            await tree.aexpand(best, 2, temperature=0.0)
        return best.text.strip(), round(best.score or 0.0, 3)


async def impatient(engine):
    """A search that nobody waits for any more: its rows and KV are free at the next step."""
    task = asyncio.ensure_future(engine.asolve("61+2*13-40+8*9-7=?", "best_of_n", n=16))
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return "cancelled"


async def main():
    with bw.Engine() as engine:
        for outcome in await asyncio.gather(searches(engine), by_hand(engine), impatient(engine)):
            print(outcome)


if __name__ == "__main__":
    asyncio.run(main())
