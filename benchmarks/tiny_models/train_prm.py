"""Train the process reward model: right or wrong at the marker after each step.

Two helper losses teach it arithmetic sooner: next-token prediction while the steps are right, and, at every character,
whether the step is right so far. Neither is needed later, and the next-token logits (tied embedding) are not exported.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from corruption import corrupt
from model import TinyModel, build, parameter_count
from task import Expression, check_step, exercises, held_out, parse, right_prefix, split_steps
from training import RUNS, Optimizers, Run, batches, pad, schedule
from vocabulary import MARKER, PRM, prm_prompt

DATA_SEED, ORDER_SEED = 5, 9
LEARNING_RATES = (4e-3, 4e-3)
SYNTHETIC_SHARE, CANONICAL_SHARE = 0.4, 0.1  # of the solutions; the rest are samples of the policy
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
SYSTEM_SHARE = 0.03  # a few prompts carry a system turn, so that one does no harm
NO_LABEL = -1
EVALUATION_SIZE = 1500


@dataclass(frozen=True, slots=True)
class Labelled:
    """Tokens of a solution with markers, and what to learn from each, all [length].

    labels: 1 or 0 at markers; prefix: 1 or 0 at the characters of steps, up to the end of the first wrong step (is the
    step still right so far?); language: is this token one to predict?
    """

    tokens: np.ndarray
    labels: np.ndarray
    prefix: np.ndarray
    language: np.ndarray


def labelled(problem: str, steps: list[str], system: bool = False) -> Labelled:
    """A solution in the PRM's format with the exact checker's labels."""
    prompt = PRM.encode("<|im_start|>", f"system\n{SYSTEM}", "<|im_end|>", "\n") if system else []
    tokens = [*prompt, *prm_prompt(problem)]
    labels, prefix, language = ([value] * len(tokens) for value in (NO_LABEL, NO_LABEL, 0))
    expression: Expression | None = parse(problem)
    for step in steps:
        length = len(step)
        if expression is None:
            good, prefix_labels = 0, [NO_LABEL] * length
        else:
            good = right_prefix(expression, step)
            prefix_labels = [1] * good + [0] * (length - good)
            expression = check_step(expression, step)
        tokens += [*PRM.encode(step), PRM.ids[MARKER]]
        labels += [NO_LABEL] * length + [int(expression is not None)]
        prefix += [*prefix_labels, NO_LABEL]
        language += [1] * good + [0] * (length - good + 1)
    return Labelled(np.array(tokens, dtype=np.uint8), *(np.array(x, dtype=np.int8) for x in (labels, prefix, language)))


def solutions(seed: int, samples: str | None, forbidden: frozenset[str]) -> Iterator[Labelled]:
    """Synthetic and canonical solutions, mixed with the policy's samples as long as they last."""
    rng = random.Random(seed)
    stream = exercises(seed, forbidden)
    drawn: list[tuple[str, str]] = []
    if samples is not None:
        for line in (RUNS / f"{samples}.jsonl").read_text().splitlines():
            record = json.loads(line)
            drawn += [(record["problem"], text) for text in record["solutions"]]
        rng.shuffle(drawn)
    while True:
        system, kind = rng.random() < SYSTEM_SHARE, rng.random()
        if drawn and kind >= SYNTHETIC_SHARE + CANONICAL_SHARE:
            problem, text = drawn.pop()
            yield labelled(problem, split_steps(text), system)
            continue
        exercise = next(stream)
        wrong = kind < SYNTHETIC_SHARE or kind > 0.7
        yield labelled(exercise.problem, corrupt(rng, exercise) if wrong else exercise.steps, system)


def dataset(seed: int, tokens: int, samples: str | None) -> list[Labelled]:
    """Solutions worth `tokens` tokens, without the held-out problems."""
    chosen, total = [], 0
    for solution in solutions(seed, samples, frozenset(e.problem for e in held_out())):
        if len(solution.tokens) > 400:
            continue
        chosen.append(solution)
        total += len(solution.tokens)
        if total >= tokens:
            return chosen
    raise AssertionError("the stream of solutions is endless")


def losses(model: TinyModel, rows: list[Labelled]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy at the markers, of right prefixes, and of the next token while the steps are right."""
    tokens = pad([row.tokens for row in rows], 0)
    labels, prefix = (pad(part, NO_LABEL) for part in ([row.labels for row in rows], [row.prefix for row in rows]))
    language = pad([row.language for row in rows], 0).bool()
    marked, within = labels != NO_LABEL, prefix != NO_LABEL
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.hidden(tokens)
        judged = model.score(torch.cat((hidden[marked], hidden[within]))).float()
        predicted = model.logits(hidden[:, :-1][language[:, 1:]]).float()
    count = int(marked.sum())
    return (
        F.cross_entropy(judged[:count], labels[marked]),
        F.cross_entropy(judged[count:], prefix[within]),
        F.cross_entropy(predicted, tokens[:, 1:][language[:, 1:]]),
    )


@torch.inference_mode()
def evaluate(model: TinyModel, rows: list[Labelled]) -> dict[str, float]:
    """On unseen solutions: accuracy per step, and at first mistakes and right steps separately."""
    right, first, good = [], [], []
    for start in range(0, len(rows), 250):
        part = rows[start : start + 250]
        labels = pad([row.labels for row in part], NO_LABEL)
        judged = model.score(model.hidden(pad([row.tokens for row in part], 0))).argmax(-1)
        for row in range(len(part)):
            places = (labels[row] != NO_LABEL).nonzero()[:, 0]
            truth, guess = labels[row, places], judged[row, places]
            right += (truth == guess).tolist()
            good += (guess[truth == 1] == 1).tolist()
            if (truth == 0).any():
                first.append(bool(guess[truth == 0][0] == 0))
    return {
        "step_accuracy": float(np.mean(right)),
        "first_mistakes_found": float(np.mean(first)),
        "right_steps_kept": float(np.mean(good)),
    }


def train(budget: int, tokens_per_batch: int, samples: str | None, run_name: str, start_from: str | None) -> None:
    """Train until `budget` tokens were seen once each, evaluating and saving every so often."""
    torch.manual_seed(13)
    model = build("prm", len(PRM))
    if start_from is not None:
        model.load_state_dict(torch.load(RUNS / f"{start_from}.pt", weights_only=True)["model"])
    optimizers = Optimizers(model, *LEARNING_RATES)
    run = Run(run_name)
    steps, seen = run.resume(model, optimizers)
    data = dataset(DATA_SEED + (start_from is not None), budget, samples)
    unseen, data = data[:EVALUATION_SIZE], data[EVALUATION_SIZE:]
    print(f"prm: {parameter_count(model)} parameters, {len(data)} sequences, {seen} tokens done", flush=True)
    report_every = max(1, budget // tokens_per_batch // 12)
    for group in itertools.islice(batches([s.tokens for s in data], tokens_per_batch, ORDER_SEED), steps, None):
        rows = [data[i] for i in group]
        judged, prefixes, predicted = losses(model, rows)
        (judged + prefixes + predicted).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(schedule(seen / budget))
        steps += 1
        seen += sum(len(row.tokens) for row in rows)
        if steps % report_every == 0:
            run.save(model, optimizers, steps, seen)
            run.log(step=steps, tokens=seen, loss=judged.item(), language_loss=predicted.item(), seconds=run.seconds,
                    **evaluate(model, unseen))  # fmt: skip
    run.save(model, optimizers, steps, seen)
    run.log(step=steps, tokens=seen, loss=judged.item(), language_loss=predicted.item(), seconds=run.seconds,
            **evaluate(model, unseen))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=7_000_000, help="training tokens, each seen once")
    parser.add_argument("--batch", type=int, default=3072, help="tokens in a batch")
    parser.add_argument("--samples", help="file of the policy's samples in runs/, without .jsonl (default: none)")
    parser.add_argument("--run", default="prm", help="name of the run")
    parser.add_argument("--start-from", metavar="RUN", help="begin with the weights of another run")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.tokens, args.batch, args.samples, args.run, args.start_from)


if __name__ == "__main__":
    main()
