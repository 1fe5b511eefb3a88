"""Results as JSON: the trace that programs read."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from branchwise.tree import walk
from branchwise.types import Node, Result


def result_to_dict(result: Result, *, tree: bool = True) -> dict[str, Any]:
    """Everything about a result; `tree` adds all nodes, in order of id, with their parents' ids."""
    made: dict[str, Any] = {
        "id": result.problem.id,
        "problem": result.problem.text,
        "answer": result.answer,
        "gold": result.problem.answer,
        "correct": result.correct,
        "text": result.text,
        "score": result.score,
        "scores": result.scores,
        "votes": [{"answer": answer, "weight": weight} for answer, weight in result.votes],
        "why": result.why,
        "strategy": result.strategy,
        "prompt_digest": result.prompt_digest,
        "cuts": result.cuts,
        "equal": result.equal,
        "unjudged": result.unjudged,
        "confidence": result.confidence,
        "calibrated": result.calibrated,
        "decisions": [asdict(decision) for decision in result.decisions],
        "error": None if result.error is None else str(result.error),
        "cost": asdict(result.cost),
        "candidates": [
            {
                "node": each.node.id,
                "answer": each.answer,
                "score": each.score,
                "finish": each.finish,
                "count": each.count,
                "confidence": None if each.confidence is None else asdict(each.confidence),
            }
            for each in result.candidates
        ],
    }
    if tree:
        made["tree"] = [_node(node) for node in walk(result.tree)]
    return made


def _node(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "parent": node.parent.id if node.parent is not None else None,
        "index": node.index,
        "depth": node.depth,
        "text": node.text,
        "prompt": node.is_prompt,
        "tokens": len(node.tokens),
        "given": node.given,
        "logprob": node.logprob,
        "confidence": None if node.confidence is None else node.confidence.mean,
        "score": node.score,
        "scores_by": node.scores_by,
        "unjudged": node.unjudged,
        "finish": node.finish,
        "cut": node.cut,
        "pruned": node.pruned,
    }
