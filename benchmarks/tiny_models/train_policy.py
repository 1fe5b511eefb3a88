"""Train a policy: next-token prediction on canonical solutions, the loss on the solution alone."""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import torch
import torch.nn.functional as F
from generation import accuracy
from model import TinyModel, build, parameter_count
from task import SEPARATOR, Exercise, exercises, held_out
from vocabulary import END, POLICY, policy_prompt

from training import Optimizers, Run, batches, pad, schedule

DATA_SEED, ORDER_SEED = 1, 7
DATA_TOKENS = 5_000_000  # how much is generated; a run may use less of it
WARMUP_TOKENS, DECAY_SHARE = 100_000, 0.255
LEARNING_RATES = {"policy-small": (5e-3, 5e-3), "policy-large": (3e-3, 3e-3)}


def dataset(tokens: int) -> tuple[list[np.ndarray], list[int]]:
    """Enough sequences for `tokens` tokens, and the length of the prompt of each: the same for both policies."""
    sequences, prompts, total = [], [], 0
    for exercise in exercises(DATA_SEED, frozenset(e.problem for e in held_out())):
        prompt = policy_prompt(exercise.problem)
        sequence = [*prompt, *POLICY.encode(SEPARATOR.join(exercise.steps), END)]
        sequences.append(np.array(sequence, dtype=np.uint8))
        prompts.append(len(prompt))
        total += len(sequence)
        if total >= tokens:
            return sequences, prompts
    raise AssertionError("the stream of exercises is endless")


def loss_of(model: TinyModel, rows: list[np.ndarray], prompts: list[int]) -> torch.Tensor:
    """Mean cross-entropy over the tokens of the solutions."""
    tokens = pad(rows, 0)
    place = torch.arange(tokens.shape[1])[None]
    wanted = (place >= torch.tensor(prompts)[:, None]) & (place < torch.tensor([len(row) for row in rows])[:, None])
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.hidden(tokens[:, :-1])
        logits = model.logits(hidden[wanted[:, 1:]])
    return F.cross_entropy(logits.float(), tokens[:, 1:][wanted[:, 1:]])


def train(name: str, budget: int, tokens_per_batch: int, lr_scale: float, run_name: str) -> None:
    """Train until `budget` tokens were seen once each, evaluating and saving every so often."""
    torch.manual_seed(11)
    model = build(name, len(POLICY))
    optimizers = Optimizers(model, *(lr * lr_scale for lr in LEARNING_RATES[name]))
    run = Run(run_name)
    steps, seen = run.resume(model, optimizers)
    sequences, prompts = dataset(DATA_TOKENS)
    problems: list[Exercise] = held_out()[:100]
    print(f"{name}: {parameter_count(model)} parameters, {len(sequences)} sequences, {seen} tokens done", flush=True)
    report_every = max(1, budget // tokens_per_batch // 9)
    for group in itertools.islice(batches(sequences, tokens_per_batch, ORDER_SEED), steps, None):
        if seen >= budget:
            break
        rows = [sequences[i] for i in group]
        loss = loss_of(model, rows, [prompts[i] for i in group])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(schedule(seen, budget, WARMUP_TOKENS, DECAY_SHARE))
        steps += 1
        seen += sum(map(len, rows))
        if steps % report_every == 0:
            run.save(model, optimizers, steps, seen)
            run.log(step=steps, tokens=seen, loss=loss.item(), seconds=run.seconds, accuracy=accuracy(model, problems))
    run.save(model, optimizers, steps, seen)
    run.log(step=steps, tokens=seen, loss=loss.item(), seconds=run.seconds, accuracy=accuracy(model, problems))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(LEARNING_RATES))
    parser.add_argument("--tokens", type=int, default=3_600_000, help="training tokens, each seen once")
    parser.add_argument("--batch", type=int, default=3072, help="tokens in a batch")
    parser.add_argument("--lr-scale", type=float, default=1.0)
    parser.add_argument("--run", help="name of the run (default: the model's)")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.name, args.tokens, args.batch, args.lr_scale, args.run or args.name)


if __name__ == "__main__":
    main()
