"""Steps that are read more than once: what they have to pass before their score, and texts that are written for it."""

from __future__ import annotations

import functools
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise.prm_format import Chat, PrmFormat, Text, Words
from branchwise.scoring.formats import PRM_FORMATS
from branchwise.scoring.prm import Prm
from branchwise.scoring.scorer import PrmTree, Scorer
from branchwise.types import Node
from checkpoints import MemoryCheckpoint, random_checkpoint
from model_tools import cpu_prm
from scoring.recipes import CASES, QUESTION, STEPS, TEACHER, asked_in_two_passes, rendered
from scoring.test_formats import scores_of
from scoring.test_incremental import PROBLEM, make_scorer

PATHFINDER = PRM_FORMATS["pathfinder"]
MIXED = ((1, -1), (-1, 1), (1, 1))  # verdicts of the first pass on three steps: good, or bad
OTHERS = ((1, 1), (-1, -1), (1, 1))


# --- against the authors' procedure -----------------------------------------------------------------------------------


def causal(made: MemoryCheckpoint) -> Any:
    """The model in transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {key: value for key, value in made.config.items() if key != "architectures"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager").eval()
    model.load_state_dict(made.tensors)
    return model


@functools.cache
def judging(verdicts: tuple[tuple[int, int], ...]) -> MemoryCheckpoint:
    """A random model, but for two rows of its lm_head, by which the first pass finds of each step what is wanted."""
    made = CASES["pathfinder"].checkpoint()
    tokenizer, model = made.tokenizer(), causal(made).model
    with torch.no_grad():
        states = [
            model(torch.tensor([ids])).last_hidden_state[0, -1]
            for step in asked_in_two_passes(tokenizer)
            for ids in step
        ]
    margins = [0.25 * each for at, pair in enumerate(verdicts) for each in (*pair, 1.5 - at)]
    row = torch.linalg.lstsq(torch.stack(states), torch.tensor(margins)[:, None], driver="gelsd").solution[:, 0]
    for word, share in (("<+>", 0.5), ("<->", -0.5)):
        made.tensors["lm_head.weight"][tokenizer.token_id(word)] = share * row
    return made


def in_two_passes(made: MemoryCheckpoint, steps: list[str]) -> list[float]:
    """The authors' procedure for each step: -1 where a verdict of the first pass is "<->"; else how likely "<+>" is as
    the third, behind two of them. All are read where the model would write in the place of an `<extra>`."""
    model, tokenizer = causal(made), made.tokenizer()
    plus, minus, mark = (tokenizer.token_id(word) for word in ("<+>", "<->", "<extra>"))

    def verdicts(said: str) -> list[list[float]]:
        """Probabilities of "<+>" and "<->" at every mark."""
        user = {"role": "user", "content": f"{TEACHER}\n\n Question: {QUESTION}"}
        ids = tokenizer.encode(rendered(tokenizer, [user, {"role": "assistant", "content": said}]), special=True)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        return [logits[at - 1, [plus, minus]].softmax(0).tolist() for at, id in enumerate(ids) if id == mark]

    found = []
    for index, step in enumerate(steps):
        said = "\n\n".join([*steps[:index], f"Current Step: {step} Math reasoning: <extra>, Consistency: <extra>"])
        first = verdicts(said)
        assert len(first) == 2
        ((good, _),) = verdicts(said.replace("<extra>", "<+>") + ", Correctness: <extra>")
        found.append(-1.0 if any(bad > good for good, bad in first) else good)
    return found


@pytest.mark.parametrize("verdicts", [MIXED, OTHERS])
def test_scores_are_those_of_two_passes(verdicts: tuple[tuple[int, int], ...]) -> None:
    """Where theirs is -1, which they never choose, it is 0 here, below any that they may choose."""
    made = judging(verdicts)
    expected = in_two_passes(made, STEPS)
    assert [score >= 0 for score in expected] == [min(pair) > 0 for pair in verdicts]
    prm = cpu_prm(made, torch.float32, "pathfinder")
    at_once = scores_of(prm)
    assert at_once == pytest.approx([max(0.0, score) for score in expected], abs=1e-5)
    assert scores_of(prm, one_by_one=True) == scores_of(prm, batch_rows=3) == at_once


def altered(**changes: Any) -> PrmFormat:
    assert isinstance(PATHFINDER.layout, Chat)
    return PrmFormat(replace(PATHFINDER.layout, **changes), PATHFINDER.head)


STEP = "Current Step: {step} Math reasoning: "
MISTAKES = {
    "read at the mark": altered(last=STEP + "<+>, Consistency: <+>, Correctness: <extra>"),
    "one position early": altered(last=STEP + "<+>, Consistency: <+>, Correctness:"),
    "verdicts not filled in": altered(last=STEP + "<extra>, Consistency: <extra>, Correctness: "),
    "one check left out": altered(checks=(STEP,)),
    "checks at the marks": altered(checks=(STEP + "<extra>", STEP + "<extra>, Consistency: <extra>")),
    "a lead that stays": altered(step="Current Step: {step}\n\n"),
    "verdicts that stay": altered(step="{step} Math reasoning: <+>, Consistency: <+>, Correctness: <+>\n\n"),
    "no instruction": altered(messages=(("user", "{problem}"), ("assistant", "{steps}"))),
    "two turns of a user": altered(messages=(*PATHFINDER.layout.messages[:1], ("user", "{steps}"))),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_would_be_seen(kind: str) -> None:
    made = judging(MIXED)
    right, wrong = (scores_of(cpu_prm(made, torch.float32, each)) for each in ("pathfinder", MISTAKES[kind]))
    assert max(abs((one or 0) - (other or 0)) for one, other in zip(right, wrong, strict=True)) > 1e-4


# --- on a tree --------------------------------------------------------------------------------------------------------

TEXT, SIGNS = Text("{problem}\n", "{step}\n"), Words("+", "-")
KINDS = {
    "another lead": altered(messages=(("user", "{problem}"), ("assistant", "{steps}"))),
    "the step itself": PrmFormat(replace(TEXT, checks=("{step}?", "{step} so?")), SIGNS),
    "less and less": PrmFormat(replace(TEXT, checks=("{step} is it?", "{step} is"), last="{step}"), SIGNS),
    "nothing in common": PrmFormat(replace(TEXT, checks=("1) {step}?", "2) {step}?"), last="3) {step}?"), SIGNS),
    "one that leads apart": PrmFormat(replace(TEXT, checks=("{step}?", "{step} so?"), last="so {step}?"), SIGNS),
    "the same again": PrmFormat(replace(TEXT, checks=("{step}\n", "{step}\n")), SIGNS),
    "a tail": PrmFormat(replace(TEXT, last="{step} so?"), SIGNS),
}


@functools.cache
def prm_of(made: PrmFormat) -> Prm:
    """Of a random model, with a head by which most steps pass a check, and any other bit is another score."""
    checkpoint = CASES["pathfinder"].checkpoint() if isinstance(made.layout, Chat) else random_checkpoint("qwen2")
    prm = cpu_prm(checkpoint, torch.float32, made)
    return replace(prm, head=lambda hidden: 0.4 + 0.6 * (hidden[:, 0].double() * 1e3 % 1))


def open_tree(scorer: Scorer, root: Node, *, reuse: bool = False) -> PrmTree:
    return scorer.open(
        root, PROBLEM, branches=16, paths=16, steps=20, tokens=800, step_tokens=800, reuse=reuse
    )  # fmt: skip


def small_tree() -> list[Node]:
    """Some steps, parents first."""
    chance = random.Random(1)
    nodes = [Node(0, None, 0, 0, 1)]
    for number in range(1, 11):
        above = nodes[chance.randrange(min(number, 5))]
        text = "".join(chance.choice("0123456789+-*= ab\n") for _ in range(chance.randint(1, 12))) + "x\n\n"
        nodes.append(Node(number, above, number, above.depth + 1, 1, text=text, finish="stop"))
    return nodes


def chain(*texts: str) -> list[Node]:
    nodes = [Node(0, None, 0, 0, 1)]
    for text in texts:
        nodes.append(Node(len(nodes), nodes[-1], 0, len(nodes), 1, text=text, finish="stop"))
    return nodes


def scored(scorer: Scorer, tree: PrmTree, nodes: list[Node]) -> list[float | None]:
    for node in nodes:
        scorer.submit(tree, node)
    while not scorer.idle:
        scorer.poll()
    return [node.score for node in nodes]


@functools.cache
def one_by_one(made: PrmFormat) -> list[float]:
    """Scores of a tree whose steps come alone, each when the one before has its score."""
    scorer, nodes = make_scorer(prm_of(made)), small_tree()
    tree = open_tree(scorer, nodes[0])
    found = [scored(scorer, tree, [node])[0] for node in nodes[1:]]
    return [score for score in found if score is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_readings_are_those_of_formats_that_read_once(kind: str) -> None:
    """Bit for bit: a format for each of the texts, behind the same steps."""
    made = KINDS[kind]
    assert isinstance(made.layout, Chat | Text)
    texts = [*made.layout.checks, made.layout.last or made.layout.step]
    *checks, scores = [one_by_one(PrmFormat(replace(made.layout, checks=(), last=text), made.head)) for text in texts]
    passed = [min(found, default=1.0) >= 0.5 for found in zip(*checks, strict=True)] if checks else [True] * 10
    assert one_by_one(made) == [score if good else 0.0 for score, good in zip(scores, passed, strict=True)]
    assert not checks or 0 < sum(passed) < 10


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=6)
@given(st.integers(0, 10**6), st.booleans())
def test_nothing_that_happens_changes_a_score(kind: str, order: int, reuse: bool) -> None:
    """Two trees of the same steps, that lose KV, are given up and come back in the middle of what is read."""
    chance = random.Random(order)
    scorer = make_scorer(prm_of(KINDS[kind]), batch_rows=chance.choice([3, 25, 512]))
    nodes = [small_tree(), small_tree()]
    trees = [open_tree(scorer, each[0], reuse=reuse) for each in nodes]
    for _ in range(40):
        at = chance.randrange(2)
        what = chance.choice(["submit", "poll", "poll", "poll", "shed", "hard", "give up", "evict"])
        if what == "submit":
            scorer.submit(trees[at], chance.choice(nodes[at][1:]))
        elif what == "poll":
            scorer.poll(alone=chance.random() < 0.2)
        elif what in ("shed", "hard"):
            scorer.shed(trees[at], hard=what == "hard")
        elif what == "give up":
            scorer.give_up(trees[at])
        else:
            scorer.kv.prefixes.evict(4)
        scorer.kv.tree.check()
    for tree, each in zip(trees, nodes, strict=True):
        assert scored(scorer, tree, each[1:]) == one_by_one(KINDS[kind])
    if not reuse:
        paid = sum(tree.prompt_tokens + tree.rebuilt_tokens for tree in trees)
        paid += sum(node.cost.prm_tokens for each in nodes for node in each)
        assert scorer.runner.stats.rows == paid
    for tree in trees:
        scorer.close(tree)
    assert scorer.kv.free_blocks == scorer.kv.n_blocks


def test_what_is_fed_is_paid_for() -> None:
    """A reading from where it parts from the one before; nothing behind a check that was not passed; the step itself by
    the first one below it."""
    prm = cpu_prm(judging(OTHERS), torch.float32, "pathfinder")
    scorer, nodes = make_scorer(prm), chain(*STEPS)
    tree = scorer.open(nodes[0], QUESTION, branches=1, paths=1, steps=9, tokens=900, step_tokens=300)
    assert [score == 0 for score in scored(scorer, tree, nodes[1:]) if score is not None] == [False, True, False]
    readings = [prm.format.readings(index, text) for index, text in enumerate(STEPS)]
    first = [len(each) for each, _, _ in readings]
    more = len(prm.tokenizer.encode("<extra>, Consistency: ", special=True))
    more += len(prm.tokenizer.encode("<+>, Consistency: <+>, Correctness: ", special=True))
    itself = [len(prm.format.step(index, text)) for index, text in enumerate(STEPS)]
    paid = [node.cost.prm_tokens for node in nodes[1:]]
    assert paid == [first[0] + more, first[1] + itself[0], first[2] + itself[1] + more]
    assert scorer.runner.stats.rows == tree.prompt_tokens + sum(paid)


def test_every_reading_needs_room_in_the_context() -> None:
    made = CASES["pathfinder"].checkpoint()
    prm = cpu_prm(made, torch.float32, "pathfinder")
    length = len(prm.format.prompt(QUESTION)) + len(prm.format.readings(0, STEPS[0])[-1])
    for room, fits in ((length, True), (length - 1, False)):
        made.config["max_position_embeddings"] = room
        scorer, nodes = make_scorer(cpu_prm(made, torch.float32, "pathfinder")), chain(STEPS[0])
        tree = scorer.open(nodes[0], QUESTION, branches=1, paths=1, steps=9, tokens=90, step_tokens=30)
        assert scorer.submit(tree, nodes[1]) == fits


def test_a_step_that_is_fed_anew_from_its_first_token_is_paid_for_once() -> None:
    """Scored, with nothing of it left in the KV, and then taken from a tree that says the same."""
    scorer = make_scorer(prm_of(KINDS["nothing in common"]))
    nodes, others = chain("1+1=2\n\n", "so 2\n\n"), chain("1+1=2\n\n", "so 2\n\n")
    tree, other = (open_tree(scorer, each[0], reuse=True) for each in (nodes, others))
    scored(scorer, tree, nodes[1:2])
    paid = nodes[1].cost.prm_tokens
    scorer.shed(tree, hard=True)
    scored(scorer, other, others[1:])
    assert scored(scorer, tree, nodes[2:]) == [others[2].score]
    assert nodes[1].cost.prm_tokens == paid > 0
