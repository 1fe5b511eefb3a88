"""Solutions to learn from: written by the policy, labelled by their final answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from branchwise.assets import asset_path
from branchwise.errors import ConfigError, InputError, ResultsError
from branchwise.pair.prompts import prompt_digest, prompt_ids
from branchwise.report.folder import read_cells
from branchwise.report.record import Kept, Record
from branchwise.strategies import Majority
from branchwise.types import Problem, Result
from branchwise.weights import open_checkpoint
from branchwise.weights.identity import identity

if TYPE_CHECKING:
    from branchwise.api import Engine

Grade = Callable[[str | None, str], bool]
BUNDLED = "bundled policy-small"  # in settings of a run, in the place of an identity
LEAST_PROBLEMS = 8  # of which a part is held out
LEAST_MIXED = 3  # problems that have both right and wrong solutions: only they tell what choosing is worth


@dataclass(frozen=True, slots=True)
class Sample:
    """One solution. steps: token ids of each    right: whether its final answer is"""

    problem: str
    steps: tuple[tuple[int, ...], ...]
    right: bool


@dataclass(frozen=True, slots=True)
class Solved:
    """The solutions of one problem, and the token ids of its prompt."""

    problem: str
    prompt: tuple[int, ...]
    samples: tuple[Sample, ...]


def labelled(problems: Iterable[Any]) -> list[Problem]:
    """The problems that have a gold answer. InputError: none has, so nothing says which solutions are right."""
    given = list(problems)
    found = [each for each in given if isinstance(each, Problem) and each.answer is not None]
    if not found:
        raise InputError(
            f"none of the {len(given)} problems has an 'answer': a value head learns which solutions are right, so it"
            ' needs labelled problems, as in {"id": "1", "problem": "1+1=?", "answer": "2"}'
        )
    return found


def check_budget(problems: int, n: int) -> None:
    """ConfigError: too few solutions to learn anything from."""
    if problems < LEAST_PROBLEMS or n < 2:
        raise ConfigError(
            f"{n} solutions of each of {problems} problems are too few: a value head needs at least 2 solutions of"
            f" {LEAST_PROBLEMS} labelled problems, and does well with 8 of some hundreds"
        )


def draw(engine: Engine, problems: Sequence[Problem], n: int, seed: int | None, grade: Grade) -> list[Solved]:
    """n solutions of each problem, drawn now. A problem whose search fails is left out."""
    found = [
        solved(engine, result.problem, [[step.tokens for step in each.node.path] for each in result.candidates],
               [each.answer for each in result.candidates], grade)
        for result in engine.solve_many(problems, Majority(n=n), seed=seed)
        if _is_there(result)
    ]  # fmt: skip
    order = {problem.id: place for place, problem in enumerate(problems)}
    return sorted(found, key=lambda each: order[each.problem])


def _is_there(result: Result) -> bool:
    return result.error is None and result.problem.answer is not None


def solved(
    engine: Engine, problem: Problem, solutions: Sequence[Sequence[Sequence[int]]], answers: Sequence[str | None],
    grade: Grade,
) -> Solved:  # fmt: skip
    """Solutions with their labels. solutions: token ids by step"""
    pair, gold = engine.pair, problem.answer
    assert gold is not None
    ids = prompt_ids(pair.policy.tokenizer, problem, pair.instruction, chat=pair.chat, context=pair.policy.context)
    graded = {answer: answer is not None and grade(answer, gold) for answer in dict.fromkeys(answers)}
    kept = [tuple(tuple(step) for step in solution if step) for solution in solutions]
    samples = [Sample(problem.id, *each) for each in zip(kept, map(graded.__getitem__, answers), strict=True)]
    return Solved(problem.id, tuple(ids), tuple(each for each in samples if each.steps))


def read_samples(engine: Engine, folder: Path, problems: Sequence[Problem], policy: str, grade: Grade) -> list[Solved]:
    """The solutions of these problems in a folder of results, of whatever strategy and seed.

    policy: identity of the engine's    ResultsError: none are there, or they are another policy's, or of other prompts
    """
    wanted = {problem.id: problem for problem in problems}
    kept: dict[str, tuple[list[Any], list[Any]]] = {}
    for name, header, records in read_cells(folder):
        theirs = header["settings"]["policy"]
        if theirs == BUNDLED:
            theirs = identity(open_checkpoint(str(asset_path("policy-small"))))
        if theirs != policy:
            raise ResultsError(f"{folder} holds solutions of another policy ({theirs}) than this one ({policy})")
        for id_, record in records.items():
            drawn = record.get("candidates")  # none where another cell holds them
            if id_ in wanted and record["error"] is None and drawn:
                _check_prompt(folder, record, engine, wanted[id_])
                _check_words(folder / f"{name}.jsonl", id_, drawn, engine.policy.model.config.vocab_size)
                steps, answers = kept.setdefault(id_, ([], []))
                steps += [each["steps"] for each in drawn]
                answers += [each["answer"] for each in drawn]
    found = [solved(engine, problem, *kept[problem.id], grade) for problem in problems if problem.id in kept]
    if not found:
        raise ResultsError(
            f"{folder} holds no solutions of these {len(wanted)} problems: name their own file of problems"
        )
    return found


def _check_words(path: Path, id_: str, drawn: Sequence[Kept], words: int) -> None:
    for each in drawn:
        wrong = next((word for step in each["steps"] for word in step if not 0 <= word < words), None)
        if wrong is not None:
            raise ResultsError(
                f"{path}: a solution of {id_!r} has the token {wrong}, the policy knows 0 to {words - 1};"
                " remove its line"
            )


def _check_prompt(folder: Path, record: Record, engine: Engine, problem: Problem) -> None:
    pair = engine.pair
    ids = prompt_ids(pair.policy.tokenizer, problem, pair.instruction, chat=pair.chat, context=pair.policy.context)
    if record["prompt_digest"] != prompt_digest(ids):
        raise ResultsError(
            f"{folder} answered {problem.id!r} to another prompt than this engine's: use the same problems,"
            " --instruction, --date and --template-var"
        )


def check_both(solved: Sequence[Solved]) -> None:
    """InputError: all are right or all are wrong, or next to none of the problems has both: nothing can be learned."""
    right = [sample.right for each in solved for sample in each.samples]
    if all(right) or not any(right):
        what = "right" if right and all(right) else "wrong"
        raise InputError(
            f"all {len(right)} solutions are {what}, so there is nothing to tell apart: take"
            f" {'harder' if what == 'right' else 'easier'} problems, another temperature, or more solutions of each"
        )
    mixed = sum(len({sample.right for sample in each.samples}) == 2 for each in solved)
    if len(solved) < LEAST_PROBLEMS or mixed < LEAST_MIXED:
        raise InputError(
            f"of {len(solved)} problems {mixed} have both right and wrong solutions: a value head needs"
            f" {LEAST_PROBLEMS} problems, {LEAST_MIXED} of them with both; take more of them, or more solutions of each"
        )
