"""What a record keeps of every candidate: enough to vote again, and to say what fewer of them would have cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from branchwise.answers.aggregate import aggregate
from branchwise.confidence import TraceConfidence
from branchwise.report.record import Kept
from branchwise.tree import walk
from branchwise.types import Aggregate, Candidate, Cut, Node


def keep(drawn: Sequence[Candidate], tree: Node) -> list[Kept]:
    """Candidates of a tree, in its order."""
    judged = _judged(tree)
    return [_keep(candidate, judged) for candidate in drawn]


def candidates(kept: Sequence[Kept], kind: Aggregate | None = None, *, judged: bool = True) -> list[Candidate]:
    """The candidates again, without their texts.

    kind: makes their scores anew; None: as they were    judged: False: without their scores
    """
    made = []
    for each in kept:
        scores = each["scores"] if judged else []
        score = each["score"] if kind is None and judged else aggregate(scores, kind or "last") if scores else None
        told = each["confidence"]
        made.append(
            Candidate(
                _node(each["path"]), "", each["answer"], scores, score, each["finish"], each["count"],
                None if told is None else TraceConfidence(**told),
            )
        )  # fmt: skip
    return made


def first(kept: Sequence[Kept], n: int) -> list[Kept]:
    """The first n of independent candidates; one that stands for many stands for what is left of n."""
    taken: list[Kept] = []
    left = n
    for each in sorted(kept, key=lambda each: each["path"]):
        if not left:
            break
        taken.append({**each, "count": min(each["count"], left)})
        left -= taken[-1]["count"]
    return taken


def cuts(kept: Sequence[Kept]) -> dict[Cut, int]:
    """How many of the candidates each limit ended."""
    return dict(Counter(each["cut"] for each in kept if each["cut"] is not None))


def _keep(candidate: Candidate, judged: dict[Node, tuple[int, float]]) -> Kept:
    path = candidate.node.path
    tokens = sum(node.cost.generated_tokens for node in path)
    own = sum(node.cost.flops - node.cost.prm_flops for node in path)
    prm_tokens = sum(judged[node][0] for node in path)
    prm_flops = sum(judged[node][1] for node in path)
    return {
        "path": list(candidate.node.lineage_path),
        "answer": candidate.answer,
        "score": candidate.score,
        "scores": candidate.scores,
        "finish": candidate.finish,
        "cut": candidate.node.cut,
        "count": candidate.count,
        "steps": [node.tokens for node in path],
        "confidence": None if candidate.confidence is None else asdict(candidate.confidence),
        "tokens": tokens,
        "prm_tokens": prm_tokens,
        "flops": own + prm_flops,
        "prm_flops": prm_flops,
    }


def _judged(root: Node) -> dict[Node, tuple[int, float]]:
    """The judge's tokens and FLOPs of every node; those of steps that read alike go to the first in the tree."""
    names: dict[Node, int] = {root: 0}  # of the text of each branch
    known: dict[tuple[int, str], int] = {}
    alike: dict[int, list[Node]] = {}
    for node in walk(root):
        if node.parent is not None:
            name = known.setdefault((names[node.parent], node.text), len(known) + 1)
            names[node] = name
            alike.setdefault(name, []).append(node)
    spent = {root: (0, 0.0)}
    for nodes in alike.values():
        paid = [(node.cost.prm_tokens, node.cost.prm_flops) for node in nodes if node.cost.prm_tokens]
        paid += [(0, 0.0)] * (len(nodes) - len(paid))
        spent.update(zip(nodes, paid, strict=True))
    return spent


def _node(path: Sequence[int]) -> Node:
    node = Node(0, None, 0, 0, 0)
    for index in path:
        node = Node(0, node, index, node.depth + 1, 0)
    return node
