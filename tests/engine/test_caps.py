"""Every cap in tokens, exact to the token: one less is not cut, one more is not written."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import KvCache
from branchwise.engine.policy_tree import PolicyTree
from branchwise.engine.sampler import Draw, DrawnToken
from branchwise.errors import InputError
from branchwise.types import Endings, Node, Sampling, Settings, StepOptions
from checkpoints import character_tokenizer, random_checkpoint
from model_tools import cpu_decoder

NEVER = Endings(())
PROMPT = [5, 6, 7]


class OneWord:
    """In the sampler's place: always the same word, but the end of the sequence at one position."""

    def __init__(self, engine: StepEngine, end_at: int | None = None) -> None:
        (self.word,), (self.end,) = engine.tokenizer.encode("x"), engine.tokenizer.eos_ids
        self.end_at = end_at

    def draw(self, hidden: object, draws: Sequence[Draw]) -> list[DrawnToken]:
        words = [self.end if draw.position == self.end_at else self.word for draw in draws]
        ids = [self.word if word in draw.banned else word for word, draw in zip(words, draws, strict=True)]
        return [DrawnToken(id, -1.0, None) for id in ids]


def make_engine(context: int = 2048, end_at: int | None = None) -> StepEngine:
    model = cpu_decoder(random_checkpoint("llama"), torch.float32)
    engine = StepEngine(model, character_tokenizer(), KvCache(model.config, 200, model.dtype, model.backend))
    engine.sampler = OneWord(engine, end_at)  # type: ignore[assignment]
    engine.context = context
    return engine


def grown(
    engine: StepEngine, settings: Settings, options: StepOptions | None = None, prompt: list[int] = PROMPT
) -> list[Node]:
    """Steps of one branch, until it has ended."""
    tree = engine.open(prompt, lineage=1, branches=1, paths=1, steps=9, settings=settings)
    assert isinstance(tree, PolicyTree)
    node = tree.root
    for _ in range(9):
        engine.expand(tree, node, 1, options or settings.step())
        while not engine.idle:
            engine.poll()
        (node,) = node.children
        if node.is_final:
            break
    engine.close(tree)
    assert engine.kv.free_blocks == engine.kv.n_blocks
    return node.path


@pytest.mark.parametrize("cap", [1, 2, 7, 33])
def test_a_step_and_a_solution(cap: int) -> None:
    for settings, name in (
        (Settings(Sampling(0.0), NEVER, max_tokens=100, max_step_tokens=cap), "step_tokens"),
        (Settings(Sampling(0.0), NEVER, max_tokens=cap, max_step_tokens=100), "tokens"),
        (Settings(Sampling(0.0), NEVER, max_tokens=cap, max_step_tokens=cap), "tokens"),
    ):
        (node,) = grown(make_engine(), settings)
        assert (len(node.tokens), node.finish, node.cut) == (cap, "length", name)
        assert node.text == "x" * cap
        assert node.cost.generated_tokens == cap
        (ended,) = grown(make_engine(end_at=len(PROMPT) + cap - 1), settings)  # in the very last token
        assert (len(ended.tokens), ended.finish, ended.cut) == (cap, "eos", None)


@pytest.mark.parametrize("cap", [1, 5])
def test_an_ask(cap: int) -> None:
    settings = Settings(Sampling(0.0), NEVER, max_tokens=100, max_step_tokens=50)
    (node,) = grown(make_engine(), settings, settings.step(max_tokens=cap))
    assert (len(node.tokens), node.finish, node.cut) == (cap, "length", "step_tokens")


@pytest.mark.parametrize("cap", [5, 6, 7, 8, 9])
def test_a_solution_across_steps(cap: int) -> None:
    """Steps of three tokens."""
    settings = Settings(Sampling(0.0), Endings(("xxx",)), max_tokens=cap, max_step_tokens=50)
    nodes = grown(make_engine(), settings)
    # A delimiter counts from the second character on, so that a step is four.
    assert [len(node.tokens) for node in nodes] == [4] * (cap // 4) + [cap % 4] * (cap % 4 > 0)
    assert nodes[-1].finish == "length"
    assert sum(len(node.tokens) for node in nodes) == cap


@pytest.mark.parametrize("room", [1, 2, 9])
def test_the_context(room: int) -> None:
    """Prompt and solution together fill it to the last token."""
    for most in (room, room + 1, 500):
        engine = make_engine(len(PROMPT) + room)
        (node,) = grown(engine, Settings(Sampling(0.0), NEVER, max_tokens=most, max_step_tokens=most))
        limit = "tokens" if most == room else "context"
        assert (len(node.tokens), node.finish, node.cut) == (room, "length", limit)
    with pytest.raises(InputError, match=f"the prompt has {len(PROMPT) + room} tokens"):
        grown(make_engine(len(PROMPT) + room), Settings(), prompt=[5] * (len(PROMPT) + room))


@pytest.mark.parametrize("least", [0, 1, 4, 8, 9])
def test_the_least(least: int) -> None:
    """The end that comes as token 5 counts unless it is one of the first."""
    settings = Settings(Sampling(0.0), NEVER, max_tokens=100, max_step_tokens=9)
    options = StepOptions(Sampling(0.0), NEVER, 9, min_tokens=least)
    (node,) = grown(make_engine(end_at=len(PROMPT) + 4), settings, options)
    assert (len(node.tokens), node.finish) == ((5, "eos") if least < 5 else (9, "length"))
