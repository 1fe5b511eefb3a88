"""Who gets a row in the next iteration."""

from __future__ import annotations

from typing import Any, cast

from branchwise.engine.kv_step import KvStep
from branchwise.engine.rows import Opening, RowQueue


def opening(parent: Any, n: int) -> Opening:
    return Opening(cast(Any, None), parent, 0, n, cast(Any, None))


def test_a_prompt_counts_once_however_many_wish_for_its_children() -> None:
    queue = RowQueue(max_rows=64, prefill_rows=512)
    prompt, other = (KvStep(None, [1] * 300, 0) for _ in range(2))
    wishes = [opening(prompt, 4) for _ in range(10)] + [opening(other, 4), opening(prompt, 4), opening(other, 4)]
    queue.openings.extend(wishes)
    _, first, _ = queue.next_batch(lambda opening, begun: True)
    assert first == wishes[:11]  # 300 tokens of one prompt and 300 of the other, which is more than enough
    _, second, _ = queue.next_batch(lambda opening, begun: True)
    assert second == wishes[11:]
