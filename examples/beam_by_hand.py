"""A beam search of your own over eight problems at once: the step-level calls that other frameworks build on.

`expand_many` grows the steps of all problems in one batch and scores each as soon as it is written. Run it:
`python examples/beam_by_hand.py`.
"""

import branchwise as bw
from branchwise.answers import extract_answer

QUESTIONS = [
    "12+3*4-5+60=?", "7*8+5-20=?", "(31+4)*2-9=?", "90-4*7+11=?",
    "5*6-8+14=?", "44-3*9+2=?", "(8+7)*3-20=?", "61+2*13-40=?",
]  # fmt: skip
N, EXPAND, MAX_STEPS = 8, 4, 20


class Beam:
    """One problem: its tree, the branches to grow next, and those that have ended."""

    def __init__(self, engine, question):
        self.question = question
        self.tree = engine.open(question, branches=N)
        self.wishes = [(self.tree.root, N)]
        self.finished = []

    def keep_the_best(self, children):
        """Finished branches keep their slots; the best of the others get children in those that are left."""
        growing = []
        for child in children:
            ended = child.is_final or child.depth == MAX_STEPS
            (self.finished if ended else growing).append(child)
        growing.sort(key=lambda node: -(node.score or 0.0))
        kept = growing[: max(1, len(growing) // EXPAND)]
        for node in growing[len(kept) :]:
            self.tree.prune(node)
        self.wishes = [(node, len(growing) // len(kept)) for node in kept]

    def answer(self):
        best = max(self.finished, key=lambda node: (extract_answer(node.branch_text) is not None, node.score or 0.0))
        return extract_answer(best.branch_text)


if __name__ == "__main__":
    with bw.Engine() as engine:
        beams = [Beam(engine, question) for question in QUESTIONS]
        while growing := [beam for beam in beams if beam.wishes]:
            entries = [(beam.tree, node, n) for beam in growing for node, n in beam.wishes]
            groups = iter(engine.expand_many(entries, score=True))
            for beam in growing:
                beam.keep_the_best([child for _ in beam.wishes for child in next(groups)])
        for beam in beams:
            print(f"{beam.question:16} {beam.answer()}")
            beam.tree.close()
