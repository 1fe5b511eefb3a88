"""The engine and what ends its steps: texts of users, what stays open, and what a branch carries from step to step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import KvCache
from branchwise.engine.policy_tree import PolicyTree
from branchwise.engine.sampler import Draw, DrawnToken
from branchwise.types import Endings, Node, Sampling, Settings
from checkpoints import character_tokenizer, random_checkpoint
from model_tools import cpu_decoder


class Dictation:
    """In the sampler's place: every branch writes this text."""

    def __init__(self, engine: StepEngine, text: str) -> None:
        self.ids = engine.tokenizer.encode(text)
        self.prompt = 2

    def draw(self, hidden: object, draws: Sequence[Draw]) -> list[DrawnToken]:
        return [DrawnToken(self.ids[(draw.position - self.prompt) % len(self.ids)], -1.0, None) for draw in draws]


def grown(text: str, endings: Endings, step_tokens: int = 40, steps: int = 9) -> list[Node]:
    """The steps of a branch that writes a text, over and over."""
    model = cpu_decoder(random_checkpoint("llama"), torch.float32)
    engine = StepEngine(model, character_tokenizer(), KvCache(model.config, 400, model.dtype, model.backend))
    engine.sampler = Dictation(engine, text)  # type: ignore[assignment]
    settings = Settings(Sampling(0.0), endings, max_tokens=200, max_step_tokens=step_tokens)
    tree = engine.open([5, 6], lineage=1, branches=1, paths=1, steps=steps, settings=settings)
    assert isinstance(tree, PolicyTree)
    node: Node | None = tree.root
    while node is not None and len(node.path) < steps and not node.is_final:
        engine.expand(tree, node, 1, settings.step())
        while not engine.idle:
            ((_, node),) = engine.poll() or [(tree, node)]
    engine.close(tree)
    assert node is not None
    return node.path


def texts(nodes: list[Node]) -> list[str]:
    return [node.text for node in nodes]


def test_any_of_several_delimiters_ends_a_step() -> None:
    nodes = grown("ab. cd; ef. ", Endings((". ", "; ")), steps=4)
    assert texts(nodes) == ["ab. ", "cd; ", "ef. ", "ab. "]
    assert {node.finish for node in nodes} == {"stop"}


def test_nothing_but_a_cap_ends_a_step_without_delimiters() -> None:
    (node,) = grown("a\n\nb. ", Endings(()), steps=1)
    assert (node.text, node.finish) == ("a\n\nb. " * 6 + "a\n\nb", "length")


def test_a_stop_ends_the_solution_and_has_no_text() -> None:
    nodes = grown("ab. cd. ef<end>gh", Endings((". ",), ("<end>",)))
    assert texts(nodes) == ["ab. ", "cd. ", "ef"]
    assert [node.finish for node in nodes] == ["stop", "stop", "eos"]
    assert nodes[-1].is_final
    assert len(nodes[-1].tokens) == nodes[-1].cost.generated_tokens == len("ef<end>")
    assert [node.stopped_by for node in nodes] == [None, None, "<end>"]


def test_a_stop_may_begin_in_the_step_before() -> None:
    nodes = grown("ab. Q: ", Endings((". ",), (". Q:",)))
    assert texts(nodes) == ["ab. ", ""]
    assert nodes[-1].finish == "eos"


def test_a_solution_ends_with_the_line_of_its_box() -> None:
    nodes = grown("so\n\nx = \\boxed{7}.\nand", Endings(at_answer=True))
    assert texts(nodes) == ["so\n\n", "x = \\boxed{7}.\n"]
    assert nodes[-1].finish == "eos"


def test_what_is_open_waits_until_half_of_the_tokens_are_written() -> None:
    text = "\\[a\n\nb\n\n\\]\n\n"
    assert texts(grown(text, Endings(), step_tokens=40, steps=1)) == [text]
    early = grown("\\[a\n\nbbb\n\nc", Endings(), step_tokens=20, steps=1)
    assert texts(early) == ["\\[a\n\nbbb\n\n"]  # 11 of 20 tokens
    assert early[0].finish == "stop"
    assert texts(grown("\\[never closed", Endings(), step_tokens=8, steps=1)) == ["\\[never "]


def test_a_fence_that_was_cut_is_still_open_in_the_next_step() -> None:
    nodes = grown("```\na\n\nb\n```\n\nend\n\n", Endings(), step_tokens=10, steps=3)
    assert texts(nodes) == ["```\na\n\n", "b\n```\n\n", "end\n\n"]
