"""The step automata on the device: after every drawn token each row learns whether its step goes on.

    row r still running:  ring[iteration, r] = token, logprob
                          automata[a, r]     = transitions[functions[token], automata[a, r]]    for each automaton a
                          finish[r]          = solution | last position | step | step cap, the first that holds
                          if it goes on:       next input = token, position += 1, slot = that of the new position
    any other row:        ring[iteration, r] = -1; nothing else changes

A transition is the state after it, ENDS_STEP or ENDS_SOLUTION; on top of a state, WAITS says that the step could end
but something in it is open: it does when half of its tokens are written.

So a finished row feeds the same token to the same slot again, which changes nothing, and the host looks at the ring
only every few iterations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from branchwise_kernels.checks import expect

RUNNING, STOP, EOS, LENGTH = 0, 1, 2, 3
ENDS_STEP, ENDS_SOLUTION, WAITS = -1, -2, 1 << 14
BLOCK = 64


@dataclass(frozen=True)
class StepState:
    """What the device knows of every row; all but automata and the ring are [rows].

    token int64: next input    positions, slots int32: of that input, the plan's own
    automata [automata, rows] int32: their states
    node_start int32: position of the node's first slot    page_begin int32: where its pages start in the plan's list
    generated, max_step int32: tokens of this step, and how many it may have
    last_position int32: the token drawn for this position ends the solution
    finish int32: RUNNING, STOP, EOS or LENGTH    iteration [1] int32
    ring_tokens [iterations, rows] int32, ring_logprobs [iterations, rows] fp32
    """

    token: Tensor
    positions: Tensor
    slots: Tensor
    automata: Tensor
    node_start: Tensor
    page_begin: Tensor
    generated: Tensor
    max_step: Tensor
    last_position: Tensor
    finish: Tensor
    iteration: Tensor
    ring_tokens: Tensor
    ring_logprobs: Tensor

    @classmethod
    def empty(cls, positions: Tensor, slots: Tensor, iterations: int, automata: int = 1) -> StepState:
        """State for the rows of a plan, none of them running."""
        rows, device = len(positions), positions.device

        def column(dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(rows, dtype=dtype, device=device)

        return cls(
            token=column(torch.int64),
            positions=positions,
            slots=slots,
            automata=torch.zeros(automata, rows, dtype=torch.int32, device=device),
            node_start=column(),
            page_begin=column(),
            generated=column(),
            max_step=column(),
            last_position=column(),
            finish=torch.full((rows,), LENGTH, dtype=torch.int32, device=device),
            iteration=torch.zeros(1, dtype=torch.int32, device=device),
            ring_tokens=torch.full((iterations, rows), -1, dtype=torch.int32, device=device),
            ring_logprobs=torch.zeros(iterations, rows, device=device),
        )


@triton.jit
def step_state_kernel(
    drawn_ptr, logprob_ptr, token_ptr, position_ptr, slot_ptr, automata_ptr, start_ptr, page_begin_ptr,
    generated_ptr, max_step_ptr, last_position_ptr, finish_ptr, iteration_ptr, ring_token_ptr, ring_logprob_ptr,
    function_ptr, transition_ptr, page_ptr, rows, states,
    AUTOMATA: tl.constexpr, PAGE: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """One program; it alone counts the iteration up."""
    iteration = tl.load(iteration_ptr)
    for first in range(0, rows, BLOCK_ROWS):
        row = first + tl.arange(0, BLOCK_ROWS)
        inside = row < rows
        running = inside & (tl.load(finish_ptr + row, mask=inside, other=1) == 0)
        drawn = tl.load(drawn_ptr + row, mask=running, other=0).to(tl.int64)
        logprob = tl.load(logprob_ptr + row, mask=running, other=0.0)
        ring = iteration.to(tl.int64) * rows + row
        tl.store(ring_token_ptr + ring, tl.where(running, drawn, -1).to(tl.int32), mask=inside)
        tl.store(ring_logprob_ptr + ring, logprob, mask=inside)

        function = tl.load(function_ptr + drawn, mask=running, other=0).to(tl.int64)
        lowest = tl.zeros([BLOCK_ROWS], tl.int32)  # of what the automata say, as transitions code it
        waits = tl.zeros([BLOCK_ROWS], tl.int32)
        for automaton in tl.static_range(AUTOMATA):
            place = automata_ptr + automaton * rows + row
            state = tl.load(place, mask=running, other=0)
            after = tl.load(transition_ptr + function * states + state, mask=running, other=0).to(tl.int32)
            lowest = tl.minimum(lowest, after)
            goes = tl.maximum(after, 0)
            waits |= goes & 16384
            tl.store(place, goes & 16383, mask=running)

        generated = tl.load(generated_ptr + row, mask=running, other=0) + 1
        position = tl.load(position_ptr + row, mask=running, other=0) + 1
        at_last = position >= tl.load(last_position_ptr + row, mask=running, other=0)
        most = tl.load(max_step_ptr + row, mask=running, other=0)
        stops = (lowest == -1) | ((waits != 0) & (2 * generated >= most))
        finish = tl.where(at_last, 3, tl.where(stops, 1, tl.where(generated >= most, 3, 0)))
        finish = tl.where(lowest == -2, 2, finish)
        tl.store(finish_ptr + row, finish, mask=running)
        tl.store(generated_ptr + row, generated, mask=running)

        goes_on = running & (finish == 0)
        offset = position - tl.load(start_ptr + row, mask=goes_on, other=0)
        page_index = tl.load(page_begin_ptr + row, mask=goes_on, other=0) + offset // PAGE
        page = tl.load(page_ptr + page_index, mask=goes_on, other=0)
        tl.store(token_ptr + row, drawn, mask=goes_on)
        tl.store(position_ptr + row, position, mask=goes_on)
        tl.store(slot_ptr + row, page * PAGE + offset % PAGE, mask=goes_on)
    tl.store(iteration_ptr, iteration + 1)


def step_state(
    tokens: Tensor, logprobs: Tensor, state: StepState, functions: Tensor, transitions: Tensor, pages: Tensor,
    page: int = 64,
) -> None:  # fmt: skip
    """Take in one drawn token per row; one launch.

    tokens: [rows] int32    logprobs: [rows] fp32    pages: [n] int32, the plan's
    functions: [words] int32    transitions: [functions, states] int16, the states of all automata side by side
    """
    rows = len(state.token)
    expect("tokens", tokens, torch.int32, (rows,))
    expect("logprobs", logprobs, torch.float32, (rows,))
    expect("functions", functions, torch.int32, (len(functions),))
    expect("transitions", transitions, torch.int16, tuple(transitions.shape))
    expect("automata", state.automata, torch.int32, (len(state.automata), rows))
    step_state_kernel[(1,)](
        tokens, logprobs, state.token, state.positions, state.slots, state.automata, state.node_start,
        state.page_begin, state.generated, state.max_step, state.last_position, state.finish, state.iteration,
        state.ring_tokens, state.ring_logprobs, functions, transitions, pages, rows, transitions.shape[1],
        AUTOMATA=len(state.automata), PAGE=page, BLOCK_ROWS=BLOCK, num_warps=2,
    )  # fmt: skip
