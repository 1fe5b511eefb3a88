"""Records of results files as this version writes them, for tests that say only what they are about."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from branchwise.types import Cost


def kept(place: int = 0, **more: Any) -> Any:
    """A candidate of one step."""
    return {
        "path": [place], "answer": "1", "score": None, "scores": [], "finish": "eos", "cut": None, "count": 1,
        "steps": [[5]], "confidence": None, "tokens": 1, "prm_tokens": 0, "flops": 0.0, "prm_flops": 0.0, **more,
    }  # fmt: skip


def record(id_: str = "a", *, cost: dict[str, float] | None = None, **more: Any) -> Any:
    """A result without candidates. cost: what of it is not 0"""
    return {
        "id": id_, "question": "q", "prompt_digest": None, "error": None, "answer": "1", "gold": "1", "correct": True,
        "score": None, "confidence": None, "calibrated": False, "decisions": [], "votes": [], "cuts": {}, "equal": 0,
        "unjudged": {}, "cost": {**asdict(Cost()), **(cost or {})}, "wall_seconds": 1.0, "shared": None, "text": "",
        "candidates": [], **more,
    }  # fmt: skip
