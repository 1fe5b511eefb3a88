"""The tables of docs/gpu.md are what the script computes, from passes that the engine really makes."""

from __future__ import annotations

import pytest

from benchmarks.gpu.dry import dry_search
from benchmarks.gpu.schedule import BEGIN, DOCUMENT, END, host_table, searches, tables

N, LENGTH, STEPS = 4, 10, 3


def test_a_search_of_known_shape():
    passes, clock = dry_search("beam", N, [LENGTH], STEPS)
    iterations = [each for each in passes if each.kind == "iteration"]
    assert sum(each.times for each in iterations) == STEPS * (LENGTH - 1)  # the first token comes with the opening
    assert {each.rows for each in iterations} == {N}
    openings = [each for each in passes if each.kind == "opening"]
    assert [each.rows for each in openings] == [200, 1, 1]  # the prompt, then the last token of the step that is kept
    judged = [each for each in passes if each.kind == "PRM pass"]
    assert sum(each.rows for each in judged) == 200 + STEPS * N * (LENGTH + 1)  # a marker behind every step
    for each in passes:
        assert 0 < each.working <= each.programs
        assert each.launches >= 28 * (5 + 4)  # a layer: five kernels and four products at least
        assert each.moved > 2e9  # the weights of the smaller model
    assert clock.rows == [N] * STEPS  # a step takes nine iterations: two bursts, and one gap between them
    assert min(clock.gaps) > 0
    assert {kind: len(times) for kind, times in clock.passes.items()} == {"opening": STEPS, "PRM pass": len(judged)}
    assert host_table({("beam", N): (passes, clock)}).splitlines()[2].startswith(f"| beam, N = {N} | {STEPS} | ")


@pytest.mark.slow
def test_the_document_says_what_is_computed():
    assert DOCUMENT.read_text().split(BEGIN)[1].split(END)[0].strip() == tables(searches())
