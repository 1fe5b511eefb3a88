"""Votes taken again from what records keep, wherever that is exactly what a fresh run would say.

Searches whose candidates are drawn one by one, each whatever the others are (`Chains.independent`), are known for every
vote, aggregate and smaller n: the first of the candidates are those of a search of fewer. Of all others only the vote
comes after the search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from branchwise.answers.vote import POWER, Vote, choose
from branchwise.confidence import ConfidenceOptions, Measure
from branchwise.report.kept import candidates, cuts, first
from branchwise.report.record import Kept, Record
from branchwise.strategies.auto import Auto  # its votes say when it ends
from branchwise.strategies.candidates import by_measure
from branchwise.strategies.chains import Chains
from branchwise.strategies.protocol import Limits
from branchwise.strategies.registry import STRATEGIES
from branchwise.types import Aggregate, Cost

JUDGED_CUT = "prm_context"  # ends what would have gone on without a judge


@dataclass(frozen=True, slots=True)
class Rule:
    """How a search ends: so many candidates, one score of each, and a vote (see `choose`).

    judged: whether it has scores    independent: whether each candidate is what it is whatever the others are
    measure: how sure the policy was, in the place of scores    told: what of that it asks for
    """

    n: int
    aggregate: Aggregate
    vote: Vote
    judged: bool
    independent: bool
    measure: Measure | None = None
    keep_percent: float = 100
    power: float = POWER
    told: ConfidenceOptions | None = None


def rule_of(settings: Mapping[str, Any]) -> Rule | None:
    """That of a results file, by its settings; None where more than a vote makes the answer of its candidates."""
    strategy, options = STRATEGIES.get(settings["strategy"]), settings["options"]
    if strategy is None or settings["source"] is not None:
        return None
    made = strategy(**options)
    independent = isinstance(made, Chains) and made.independent
    if (not independent and "vote" not in options) or isinstance(made, Auto):
        return None
    kind, vote = options.get("aggregate", "last"), options.get("vote", "majority")
    told = made.demand(Limits(1, 1)).confidence
    if told is None and settings.get("confidence_top") is not None:
        told = ConfidenceOptions(settings["confidence_top"], settings["confidence_window"])
    beside = {name: options[name] for name in ("measure", "keep_percent", "power") if name in options}
    return Rule(made.n, kind, vote, not independent or made.uses_scores, independent, **beside, told=told)


def why_not(have: Rule, want: Rule) -> str:
    """What of a vote cannot be taken again, and why, or ""."""
    if want.n > have.n:
        return f"n={want.n}: it drew {have.n}"
    if want.n < have.n and not have.independent:
        return f"n={want.n}: it would grow other branches than with n={have.n}"
    if want.aggregate != have.aggregate and not have.independent:
        return f"aggregate={want.aggregate}: it was searched by aggregate={have.aggregate}"
    if want.measure is not None and not have.independent:
        return f"measure={want.measure}: it was searched by a judge's scores"
    if want.measure is not None and (have.told is None or want.told != have.told):
        return (
            f"measure={want.measure}: it was not told how sure the policy was (--confidence-top, --confidence-window)"
        )
    if want.measure is None and not have.judged and (want.judged or want.vote != "majority"):
        return f"vote={want.vote}: its candidates have no scores"
    return ""


def retake(record: Record, have: Rule, want: Rule, grade: Callable[[str | None, str], bool]) -> Record | None:
    """The record that a search by `want` would have; None where this one cannot say: it failed, or its judge's context
    cut what another search would have gone on with.

    grade: asked about answers that the record did not choose
    """
    same = (want.n, want.judged) == (have.n, have.judged)
    if record["error"] is not None or (not same and JUDGED_CUT in record["cuts"]):
        return None
    kept = first(record["candidates"], want.n) if have.independent else record["candidates"]
    kind = want.aggregate if have.independent else None
    drawn = candidates(kept, kind, judged=want.judged)
    if want.measure is not None:
        drawn = [by_measure(each, want.measure) for each in drawn]
    selection = choose(drawn, want.vote, keep_percent=want.keep_percent, power=want.power)
    answer = selection.chosen.answer if selection.chosen else None
    correct, gold = record["correct"], record["gold"]
    if correct is not None and gold is not None and answer != record["answer"]:
        correct = grade(answer, gold)
    return {
        "id": record["id"],
        "question": record["question"],
        "prompt_digest": record["prompt_digest"],
        "error": None,
        "gold": gold,
        "answer": answer,
        "correct": correct,
        "score": selection.chosen.score if selection.chosen else None,
        "confidence": record["confidence"] if same else None,
        "calibrated": record["calibrated"] if same else False,
        "decisions": [],
        "votes": selection.votes,
        "cuts": record["cuts"] if same else cuts(kept),
        "equal": record["equal"],
        "unjudged": record["unjudged"] if same else {},
        "cost": record["cost"] if same else _cost(record, kept, want.judged),
        "wall_seconds": record["wall_seconds"] if same else None,
        "shared": None,
    }


def _cost(record: Record, kept: Sequence[Kept], judged: bool) -> dict[str, Any]:
    """What a search of these candidates alone would have cost, as far as that is known: not how long it takes."""
    whole, of_all = Cost(**record["cost"]), record["candidates"]

    def left(spent: float, of: Callable[[Kept], float]) -> Any:
        return spent - sum(map(of, of_all)) + sum(map(of, kept))

    prm_flops = left(whole.prm_flops, lambda each: each["prm_flops"])
    cost = Cost(
        generated_tokens=left(whole.generated_tokens, lambda each: each["tokens"]),
        prefill_tokens=whole.prefill_tokens,
        prm_tokens=left(whole.prm_tokens, lambda each: each["prm_tokens"]) if judged else 0,
        flops=left(whole.flops, lambda each: each["flops"]) - (0.0 if judged else prm_flops),
        prm_flops=prm_flops if judged else 0.0,
    )
    return asdict(cost)
