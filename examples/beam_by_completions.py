"""A beam search as frameworks write it over plain completions: every step sends each whole text again, n samples of it.

The engine sees that equal prompts are one, and what comes back as token ids is gone on with token by token.
"""

import branchwise as bw

N, KEEP, STEPS = 16, 4, 12


def beam_search(engine, question):
    """The solution with the best last step, by completions for steps and a PRM for scores of texts."""
    chat = [{"role": "user", "content": question}]
    beams, done = [(chat, [])], []  # what to send, and its steps so far
    while beams and len(beams[0][1]) < STEPS:
        prompts, grown = [prompt for prompt, _ in beams], []
        outs = engine.complete(prompts, n=N // len(beams), stop="\n\n", include_stop=True)
        for (_, steps), out in zip(beams, outs, strict=True):
            for sample in out.samples:
                branch = out.prompt + sample.tokens, [*steps, sample.text]
                (grown if sample.finish == "stop" else done).append(branch)
        beams = best(engine, question, grown)[:KEEP]
    return best(engine, question, done)[0][1]


def best(engine, question, branches):
    """Branches by the score of their last step, the best first."""
    scores = engine.score_steps([(question, steps) for _, steps in branches])
    order = sorted(range(len(branches)), key=lambda i: -(scores[i][-1] or 0.0))
    return [branches[i] for i in order]


def main():
    with bw.Engine(seed=1) as engine:
        for question in ("12+3*4-5+60=?", "(31+4)*2-9=?", "61+2*13-40=?"):
            print(question, "".join(beam_search(engine, question)).rsplit("\\boxed", 1)[-1])


if __name__ == "__main__":
    main()
