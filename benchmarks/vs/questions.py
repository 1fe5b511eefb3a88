"""Problems as all sides get them, and how their answers are graded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks.vs.protocol import Json
from benchmarks.vs.workloads import Question
from branchwise.answers.extract import extract_answer
from branchwise.answers.grade import Grader
from branchwise.answers.vote import choose
from branchwise.models.config import decoder_config
from branchwise.pair.prompts import INSTRUCTION
from branchwise.scoring.formats import make_format
from branchwise.scoring.inputs import WrittenSteps
from branchwise.text.chat import render_chat
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Candidate, Message, Node
from branchwise.weights import open_checkpoint


def read_questions(policy: str, data: Path, count: int) -> list[Question]:
    """The first `count` lines of a JSONL file with `id`, `problem` and `answer`. Raises FileNotFoundError."""
    return make_questions(policy, map(json.loads, data.read_text().splitlines()[:count]))


def make_questions(policy: str, problems: Iterable[Json]) -> list[Question]:
    """Problems in the policy's chat template, and in "+"/"-" turns of it for the PRM."""
    checkpoint = open_checkpoint(policy)
    tokenizer = checkpoint.tokenizer()
    turns = make_format("rlhflow", checkpoint, decoder_config(checkpoint.config, policy), tokenizer).input
    assert isinstance(turns, WrittenSteps)
    to_verdict = tokenizer.encode(turns.form.end, special=True, after="x")
    to_user = tokenizer.encode(turns.between, special=True, after=turns.form.end)
    found = []
    for each in problems:
        messages: list[Message] = [
            {"role": "system", "content": INSTRUCTION}, {"role": "user", "content": each["problem"]},
        ]  # fmt: skip
        chat = render_chat(tokenizer, messages)
        head = turns.prompt(each["problem"])
        ids = tokenizer.encode(chat, special=True)
        found.append(Question(each["id"], each["problem"], each["answer"], chat, ids, head, to_verdict, to_user))
    return found


def stop_ids(tokenizer: Tokenizer, delimiter: str = "\n\n") -> list[int]:
    """All words whose bytes hold the delimiter: where engines that see ids only can stop."""
    pattern = delimiter.encode()
    return [word for word in range(tokenizer.vocab_size) if pattern in tokenizer.token_bytes(word)]


def correct(solutions: list[Json], answers: dict[str, str | None], tokenizer: Tokenizer) -> int:
    """How many problems the weighted vote of their branches gets right; branches are texts or token ids."""
    right = 0
    with Grader() as grade:
        for each in solutions:
            candidates = []
            for said, score in each["branches"]:
                text = said if isinstance(said, str) else tokenizer.decode(said)
                node = Node(0, None, 0, 0, 0)
                candidates.append(Candidate(node, text, extract_answer(text), [score], score, "eos"))
            gold, chosen = answers[each["id"]], choose(candidates, "weighted").chosen
            right += gold is not None and chosen is not None and grade(chosen.answer, gold)
    return right
