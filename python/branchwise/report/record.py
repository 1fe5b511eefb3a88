"""What a results file holds: the record of every problem, which keeps all candidates, and the settings of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from branchwise.confidence import TraceConfidence
from branchwise.shapes import misfit
from branchwise.types import Cost, Cut, Decision, FinishReason


class Kept(TypedDict):
    """A candidate.

    path     child indices from the root
    answer, score, scores, finish, cut, count    as in `Candidate` and `Node`
    steps                                        token ids of each step of the path
    confidence                                   None where it was not told
    tokens, prm_tokens, flops, prm_flops         what the steps of the path took. A step that several branches say, and
                                                 the judge read once, counts with the first of them
    """

    path: list[int]
    answer: str | None
    score: float | None
    scores: list[float]
    finish: FinishReason | None
    cut: Cut | None
    count: int
    steps: list[list[int]]
    confidence: Annotated[dict[str, Any], TraceConfidence] | None
    tokens: int
    prm_tokens: int
    flops: float
    prm_flops: float


class _Optional(TypedDict, total=False):
    """text, candidates   not of results that were shared: they are in the record of another cell
    settings             digest of the first line, where it was read from a file
    """

    text: str
    candidates: list[Kept]
    settings: str


class Record(_Optional):
    """The result of a problem, see `Result`.

    question        digest of the problem and its gold answer    prompt_digest: of the token ids that were fed
    wall_seconds    since the result before it; None where nothing was timed
    shared          name of the cell that it was taken from
    """

    id: str
    question: str
    prompt_digest: str | None
    error: str | None
    answer: str | None
    gold: str | None
    correct: bool | None
    score: float | None
    confidence: float | None
    calibrated: bool
    decisions: list[Annotated[dict[str, Any], Decision]]
    votes: list[tuple[str, float]]
    cuts: dict[Cut, int]
    equal: int
    unjudged: dict[str, int]
    cost: Annotated[dict[str, Any], Cost]
    wall_seconds: float | None
    shared: str | None


class Settings(TypedDict):
    """What a search depends on; the rest is common to the folder, and for people to read."""

    policy: str
    prm: str | None
    strategy: str
    options: dict[str, Any]
    source: str | None
    seed: int


class Header(TypedDict):
    """The first line of a file that is read for its results. label: the strategy, in words"""

    settings: Settings
    label: str


def fault(record: dict[str, Any]) -> str | None:
    """What of a record is not as this version writes it; None: nothing."""
    wrong = misfit(record, Record)
    if wrong is not None:
        return wrong
    if record["correct"] is not None and record["gold"] is None:
        return "it was graded, without a gold answer"
    if record["shared"] is None and "candidates" not in record:
        return "candidates is missing"
    return misplaced(record.get("candidates", []))


def misplaced(kept: Sequence[Kept]) -> str | None:
    """What of candidates does not fit together; None: all of it does."""
    for place, each in enumerate(kept):
        path, steps, scores = each["path"], each["steps"], each["scores"]
        if not path or min(path) < 0 or len(steps) != len(path) or len(scores) > len(steps):
            return f"candidates[{place}] has {len(steps)} steps and {len(scores)} scores, its path is {path}"
        if each["count"] < 1:
            return f"candidates[{place}].count is {each['count']}, expected 1 or more"
    return None
