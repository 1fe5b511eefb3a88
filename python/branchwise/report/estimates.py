"""What k of n independent solutions would come to: unbiased estimates of pass@k and maj@k.

Both are the mean over all choices of k out of the n that were drawn, in every order, counted and not enumerated.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb


def pass_at(n: int, right: int, k: int) -> float:
    """Chance that one of k solutions is right, of n of which `right` are.

    Source: Chen et al., Evaluating Large Language Models Trained on Code, arXiv 2107.03374.
    """
    assert 1 <= k <= n, f"{k} of {n}"
    return 1 - comb(n - right, k) / comb(n, k)


def majority_at(n: int, classes: Sequence[tuple[int, bool]], k: int) -> float:
    """Chance that the most frequent answer of k solutions is right; of several such answers the earliest one counts.

    classes: how many of the n state each answer, and whether it is right; the others state none
    """
    assert 1 <= k <= n, f"{k} of {n}"
    sizes = [size for size, _ in classes]
    silent = n - sum(sizes)
    wins = 0.0
    for place, (size, is_right) in enumerate(classes):
        if is_right:
            others = [other for index, other in enumerate(sizes) if index != place]
            wins += sum(comb(size, votes) * _beaten(others, silent, votes, k - votes) for votes in range(1, size + 1))
    return wins / comb(n, k)


def _beaten(others: Sequence[int], silent: int, votes: int, rest: int) -> float:
    """In how many ways the rest of the choice gives no other answer more than `votes`; t equals share each way.

    ways[t][s]: that s solutions were chosen from the answers so far, t of which have as many votes
    """
    if rest < 0:
        return 0.0
    ways = [[1] + [0] * rest]
    for size in others:
        grown = [[0] * (rest + 1) for _ in range(min(len(ways) + 1, rest // votes + 1))]
        for equal, row in enumerate(ways):
            for chosen, count in enumerate(row):
                if count:
                    for more in range(min(votes, size, rest - chosen) + 1):
                        now = equal + (more == votes)
                        grown[now][chosen + more] += count * comb(size, more)
        ways = grown
    return sum(
        count * comb(silent, rest - chosen) / (1 + equal)
        for equal, row in enumerate(ways)
        for chosen, count in enumerate(row)
        if count
    )
