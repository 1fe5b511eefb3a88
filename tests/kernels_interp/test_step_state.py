"""The step automaton on the device, against its twin and against the engine's own words."""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise_kernels import reference
from branchwise_kernels.step_state import EOS, LENGTH, RUNNING, STOP, WAITS, StepState, step_state
from kernels_interp.harness.guard import Guard

ROWS, WORDS, FUNCTIONS, ITERATIONS = 5, 7, 6, 6


def random_state(rng: torch.Generator) -> StepState:
    def numbers(high: int) -> torch.Tensor:
        return torch.randint(0, high, (ROWS,), generator=rng, dtype=torch.int32)

    start = numbers(50)
    state = StepState.empty(start + numbers(60), numbers(640), ITERATIONS, automata=2)
    return replace(
        state,
        token=numbers(WORDS).long(),
        automata=torch.stack([numbers(3), numbers(2) + 3]),
        node_start=start,
        page_begin=numbers(8),
        max_step=numbers(8) + 1,
        generated=numbers(3),
        last_position=state.positions + numbers(6) + 1,
        finish=(numbers(4) > 2).int() * LENGTH,
    )


def copy_of(state: StepState) -> StepState:
    return StepState(**{field.name: getattr(state, field.name).clone() for field in fields(state)})


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_a_burst_equals_its_twin(seed):
    rng = torch.Generator().manual_seed(seed)
    state = random_state(rng)
    twin = copy_of(state)
    functions = torch.randint(0, FUNCTIONS, (WORDS,), generator=rng, dtype=torch.int32)
    after = [torch.randint(low, low + 3, (FUNCTIONS, 3), generator=rng) for low in (0, 2)]
    after = torch.cat([after[0], after[1].clamp(3, 4)[:, :2]], dim=1)
    kinds = torch.rand(after.shape, generator=rng)
    after[kinds < 0.1] += WAITS
    after[kinds > 0.9], after[kinds > 0.97] = -1, -2
    transitions = after.to(torch.int16)
    pages = torch.randint(0, 100, (16,), generator=rng, dtype=torch.int32)
    for _ in range(ITERATIONS):
        tokens = torch.randint(0, WORDS, (ROWS,), generator=rng, dtype=torch.int32)
        logprobs = -torch.rand(ROWS, generator=rng)
        with Guard():
            step_state(tokens, logprobs, state, functions, transitions, pages)
        reference.step_state(tokens, logprobs, twin, functions, transitions, pages)
        for field in fields(state):
            assert torch.equal(getattr(state, field.name), getattr(twin, field.name)), field.name


def one_row(**values: int) -> StepState:
    state = StepState.empty(torch.tensor([70], dtype=torch.int32), torch.tensor([0], dtype=torch.int32), 4)
    chosen = {"finish": RUNNING, "node_start": 7, "max_step": 9, "last_position": 99} | values
    for name, value in chosen.items():
        getattr(state, name).fill_(value)
    return state


def after(state: StepState, token: int) -> StepState:
    """Words: 0 goes on, 1 is the delimiter, 2 the end of the sequence, 3 could be the delimiter, 4 a far state."""
    transitions = torch.tensor([[0], [-1], [-2], [WAITS], [300]], dtype=torch.int16)
    functions, pages = torch.arange(5, dtype=torch.int32), torch.tensor([5, 6], dtype=torch.int32)
    step_state(torch.tensor([token], dtype=torch.int32), torch.zeros(1), state, functions, transitions, pages)
    return state


def test_which_finish_comes_first():
    assert after(one_row(), 1).finish.item() == STOP
    assert after(one_row(last_position=71), 1).finish.item() == LENGTH  # the end of the context before the delimiter
    assert after(one_row(last_position=71), 2).finish.item() == EOS
    assert after(one_row(max_step=1), 0).finish.item() == LENGTH
    assert after(one_row(max_step=1), 1).finish.item() == STOP
    assert after(one_row(), 0).finish.item() == RUNNING


def test_what_waits_ends_with_half_of_its_tokens():
    for generated, finish in ((2, RUNNING), (4, RUNNING), (5, STOP), (9, STOP)):  # of 11; one more is drawn
        state = after(one_row(max_step=11, generated=generated), 3)
        assert (state.finish.item(), state.automata.item()) == (finish, 0)
    assert after(one_row(max_step=11, generated=10), 3).finish.item() == STOP
    assert after(one_row(max_step=2, last_position=71), 3).finish.item() == LENGTH


def test_more_states_than_a_byte_counts():
    assert after(one_row(), 4).automata.item() == 300


def test_the_slot_moves_to_the_next_page():
    state = after(one_row(), 0)  # position 71 is offset 64 of a node that starts at 7
    assert (state.positions.item(), state.slots.item()) == (71, 6 * 64)


def test_a_finished_row_stands_still():
    state = one_row(finish=STOP)
    before = copy_of(state)
    after(state, 0)
    assert state.ring_tokens[0].item() == -1
    for field in fields(state):
        if not field.name.startswith(("ring", "iteration")):
            assert torch.equal(getattr(state, field.name), getattr(before, field.name)), field.name
