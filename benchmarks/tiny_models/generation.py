"""Batched generation with a KV cache, and accuracy: enough to steer training without the engine."""

from __future__ import annotations

import torch
from model import Cache, TinyModel
from task import Exercise, extract
from torch import Tensor
from vocabulary import END, POLICY, policy_prompt

MAX_TOKENS = 220


@torch.inference_mode()
def generate(
    model: TinyModel,
    prompts: list[list[int]],
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    stop_at_step: bool = False,
    max_tokens: int = MAX_TOKENS,
) -> list[list[int]]:
    """Continue each prompt to END, or (`stop_at_step`) to the end of a step; the ending is part of the result.

    Prompts are left-padded to one length; the KV cache drops finished rows as it goes.
    """
    longest = max(map(len, prompts))
    offsets = torch.tensor([longest - len(prompt) for prompt in prompts])
    tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    outputs: list[list[int]] = [[] for _ in prompts]
    rows, cache = torch.arange(len(prompts)), Cache()
    keys = longest
    place = torch.arange(keys)
    causal = place[None, :] <= place[:, None]
    mask = (causal[None] & (place[None, None, :] >= offsets[:, None, None]))[:, None]
    mask[:, :, place, place] = True  # a padding row looks at itself: no empty softmax
    positions = (place[None] - offsets[:, None]).clamp(min=0)
    end, newline = POLICY.ids[END], POLICY.ids["\n"]
    for _ in range(max_tokens):
        logits = model.logits(model.hidden(tokens, positions, mask, cache)[:, -1])
        chosen = draw(logits, temperature, generator)
        keep = []
        for slot, (row, token) in enumerate(zip(rows.tolist(), chosen.tolist(), strict=True)):
            output = outputs[row]
            output.append(token)
            stepped = stop_at_step and token == newline and len(output) > 2 and output[-2] == newline
            if token != end and not stepped:
                keep.append(slot)
        if not keep:
            break
        kept = torch.tensor(keep)
        if len(keep) < len(rows):
            rows, chosen, offsets = rows[kept], chosen[kept], offsets[kept]
            cache.select(kept)
        keys += 1
        tokens, positions = chosen[:, None], (keys - 1 - offsets)[:, None]
        mask = (torch.arange(keys)[None] >= offsets[:, None])[:, None, None]
    return outputs


def draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Greedy at temperature 0, else Gumbel-max."""
    if temperature == 0:
        return logits.argmax(-1)
    uniform = torch.rand(logits.shape, generator=generator).clamp(1e-12, 1 - 1e-7)
    return (logits / temperature - (-uniform.log()).log()).argmax(-1)


def accuracy(model: TinyModel, problems: list[Exercise]) -> float:
    """Share of the problems that greedy decoding answers right."""
    outputs = generate(model, [policy_prompt(e.problem) for e in problems])
    right = [extract(POLICY.decode(o)) == e.answer for o, e in zip(outputs, problems, strict=True)]
    return sum(right) / len(right)
