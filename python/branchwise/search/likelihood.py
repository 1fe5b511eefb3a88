"""Log-likelihoods of given continuations: completions of one token that nobody reads, whose prompts are told of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from branchwise.completions import Completion, Likelihood
from branchwise.errors import InputError
from branchwise.search.completion import OneCompletion, Wanted
from branchwise.search.completion_call import plain
from branchwise.search.service import Service
from branchwise.search.ticket import Ticket
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Endings, PromptLogprobs, Sampling, StepOptions

ONE_TOKEN = StepOptions(Sampling(temperature=0.0), Endings(()), 1)


def submit_likelihoods(
    service: Service[Any], tokenizer: Tokenizer, pairs: Iterable[Sequence[Any]], *, reuse: bool
) -> list[Ticket[Completion]]:
    """A ticket for each pair of a context and its continuation. InputError: something that is no such pair."""
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise InputError(f"pairs={pairs!r}: expected a list of (context, continuation)")
    tickets = []
    for place, pair in enumerate(list(pairs)):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError(f"pair {place} is {pair!r}: expected (context, continuation), each a text or token ids")
        context, ids = encode_pair(tokenizer, *pair, name=f"pair {place}")
        told = PromptLogprobs(1, start=context)
        wanted = Wanted(ids, 1, [0], ONE_TOKEN, f"pair {place}", reuse, told)
        tickets.append(service.submit(OneCompletion(service, wanted)))
    return tickets


def encode_pair(tokenizer: Tokenizer, context: Any, continuation: Any, *, name: str) -> tuple[int, list[int]]:
    """How many tokens the context has, and those of both. A continuation is cut into tokens behind its context.

    What a model begins texts with, or ends them with where it has no such token, stands for an empty context.
    """
    before = _ids(tokenizer, context, "x" if context == "" else "", name)
    if not before:
        first = tokenizer.bos_id if tokenizer.bos_id is not None else min(tokenizer.eos_ids, default=None)
        if first is None:
            raise InputError(f"{name}: the context is empty, and the model has no token to begin with: give some text")
        before = [first]
    after = _ids(tokenizer, continuation, context if isinstance(context, str) and context else "x", name)
    if not after:
        raise InputError(f"{name}: the continuation is empty, so nothing can be said of it")
    return len(before), [*before, *after]


def _ids(tokenizer: Tokenizer, text: Any, behind: str, name: str) -> list[int]:
    """Token ids of a text that stands behind another; ids as they are. behind "": it comes first."""
    given = plain(text)
    if isinstance(given, list):
        return given
    if not isinstance(given, str):
        raise InputError(f"{name}: {text!r} is neither a text nor token ids")
    if behind:
        return tokenizer.encode(given, after=behind) if given else []
    bos = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    return [*bos, *tokenizer.encode(given)]


def as_likelihood(completion: Completion) -> Likelihood:
    """What the policy thinks of the end of a prompt."""
    assert completion.prompt_logprobs is not None
    tokens = [token for token in completion.prompt_logprobs if token is not None]
    greedy = all(token.top[0][0] == token.token for token in tokens)
    return Likelihood(sum(token.logprob for token in tokens), greedy, tokens)
