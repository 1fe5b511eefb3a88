"""What the model thought of tokens that were drawn or given: log-probabilities, ranks, and the likeliest words.

Nobody who does not ask pays: the sampler never stores logits, so those who do have the lm_head run for them again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from branchwise.engine.policy_tree import NodeState, PolicyTree
from branchwise.engine.sampler import Sampler
from branchwise.types import TokenLogprob

GROUP_ROWS = 64  # whose logits are held at once: 40 MB for 150,000 words


def token_logprobs(sampler: Sampler, hidden: Tensor, tokens: Sequence[int], most: int) -> list[TokenLogprob]:
    """Of each token, given the state before it. hidden: [tokens, hidden]; most: likeliest words to name."""
    known: list[TokenLogprob] = []
    for begin in range(0, len(tokens), GROUP_ROWS):
        part = slice(begin, begin + GROUP_ROWS)
        known += _judge(sampler.logits(hidden[part]), tokens[part], most)
    return known


def _judge(logits: Tensor, tokens: Sequence[int], most: int) -> list[TokenLogprob]:
    """logits: [tokens, words] fp32. Words are ranked by logit, equal ones by their number."""
    own = logits.gather(1, torch.tensor(tokens, device=logits.device)[:, None])
    ranks = ((logits > own).sum(1) + 1).tolist()
    logprobs = torch.log_softmax(logits, dim=1)
    tops: list[list[int]] = [_likeliest(row, most) for row in logits] if most else [[]] * len(tokens)
    known = []
    for token, rank, row, top in zip(tokens, ranks, logprobs, tops, strict=True):
        own_logprob, *others = row[[token, *top]].tolist()
        known.append(TokenLogprob(token, own_logprob, rank, tuple(zip(top, others, strict=True))))
    return known


def _likeliest(logits: Tensor, most: int) -> list[int]:
    """The words of the largest logits, the largest first; `topk` takes any of equal ones."""
    least = logits.topk(min(most, len(logits))).values[-1]
    words = (logits >= least).nonzero()[:, 0]
    order = torch.sort(logits[words], descending=True, stable=True).indices
    likeliest: list[int] = words[order[:most]].tolist()
    return likeliest


def add_step_logprobs(sampler: Sampler, states: Sequence[NodeState], hidden: Tensor, tokens: Sequence[int]) -> None:
    """Tell steps that asked for it what the model thought of the token that each has just drawn.

    hidden: [states, hidden], before the tokens
    """
    found: list[tuple[NodeState, TokenLogprob]] = []
    for most in {state.options.logprobs for state in states} - {None}:
        assert most is not None
        rows = [row for row, state in enumerate(states) if state.options.logprobs == most and tokens[row] >= 0]
        known = token_logprobs(sampler, hidden[rows], [tokens[row] for row in rows], most)
        found += zip([states[row] for row in rows], known, strict=True)
    for state, logprob in found:  # all of them or none
        if state.node.logprobs is None:
            state.node.logprobs = []
        state.node.logprobs.append(logprob)


def add_prompt_logprobs(sampler: Sampler, tree: PolicyTree, root: NodeState, hidden: Tensor) -> None:
    """Tell a root what the model thinks of prompt tokens: those after the ones that are being fed.

    hidden: [tokens fed, hidden]    root: as it is before them
    """
    wish = tree.settings.prompt_logprobs
    assert wish is not None
    known = tree.root.logprobs = tree.root.logprobs or []
    first = root.start + root.fed + 1  # the token that the first row speaks of
    begin = wish.start + len(known)  # others are known from an earlier time that they were fed
    assert first <= begin, "the state before a token of which more is wanted was not computed"
    end = min(first + len(hidden), len(tree.prompt))
    if begin < end:
        known += token_logprobs(sampler, hidden[begin - first : end - first], tree.prompt[begin:end], wish.most)
