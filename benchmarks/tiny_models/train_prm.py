"""Train the process reward model: right or wrong at the marker after each step. It takes two runs.

`expect`: the lower layers alone learn to do the steps, by predicting the next token of right solutions.
`judge`: those layers stay as they are, and the upper ones learn to compare what was written with what was expected.
Labels at the markers alone teach that very slowly: one bit for twenty characters, and nearly all of them right. So the
layer above the expectation also answers probes ("would this character be right here?", see `prm_data.py`), which it
learns in a minute; the last layer then only has to notice whether any character before the marker was wrong.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import torch
import torch.nn.functional as F
from model import TinyModel, build, parameter_count
from prm_data import NO_LABEL, Solution, judged_solutions, probed, right_solutions, take
from torch import Tensor, nn
from vocabulary import PRM

from training import RUNS, Optimizers, Run, batches, pad, schedule

EXPECT_SEED, PROBE_SEED, JUDGE_SEED, ORDER_SEED = 4, 6, 5, 9
WARMUP_TOKENS, DECAY_SHARE = 140_000, 0.4
LEARNING_RATES = {"expect": (4e-3, 4e-3), "judge": (4e-3, 4e-3)}
EXPECTING, COMPARING, CONCLUDING = range(4), range(4, 5), range(5, 6)  # the layers and what they are for
PROBED_ROWS = 24  # solutions with probes in a batch, beside those that are judged
EVALUATION_SIZE = 1000  # solutions held back


class Trainee(nn.Module):
    """The model and the heads that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.model = build("prm", len(PRM))
        hidden = self.model.shape.hidden_size
        self.expect = nn.RMSNorm(hidden)  # before the tied embedding: next-token logits
        self.compare = nn.Sequential(nn.RMSNorm(hidden), nn.Linear(hidden, 1))  # is this character right?

    def expectation(self, tokens: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The stream after the lower layers."""
        return self.model.run_layers(self.model.model.embed_tokens(tokens), EXPECTING, positions, mask)

    def verdicts(self, stream: Tensor) -> Tensor:
        """Logits of (wrong, right) at every token, from the stream after the lower layers."""
        for layers in (COMPARING, CONCLUDING):
            stream = self.model.run_layers(stream, layers)
        return self.model.score(self.model.model.norm(stream))


def expect_loss(trainee: Trainee, rows: list[Solution]) -> dict[str, Tensor]:
    """Cross-entropy of the next token where it belongs to the solution."""
    tokens = pad([row.tokens for row in rows], 0)
    wanted = pad([row.written for row in rows], 0).bool()[:, 1:]
    with torch.autocast("cpu", torch.bfloat16):
        stream = trainee.expectation(tokens)[:, :-1][wanted]
        logits = trainee.model.logits(trainee.expect(stream)).float()
    return {"expect_loss": F.cross_entropy(logits, tokens[:, 1:][wanted])}


def judge_loss(
    trainee: Trainee, rows: list[Solution], right: list[Solution], rng: np.random.Generator
) -> dict[str, Tensor]:
    """Cross-entropy at the markers of `rows` and at the probes of `right`; the lower layers learn nothing."""
    tokens, labels = pad([row.tokens for row in rows], 0), pad([row.labels for row in rows], NO_LABEL)
    probes, marked = probed(right, rng), labels != NO_LABEL
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            stream = trainee.expectation(tokens)
            probe_stream = trainee.expectation(probes.tokens, probes.positions, probes.mask)
        verdicts = trainee.verdicts(stream)[marked].float()
        compared = trainee.model.run_layers(probe_stream, COMPARING, probes.positions, probes.mask)
        answers = trainee.compare(compared[probes.asked])[:, 0].float()
    return {
        "loss": F.cross_entropy(verdicts, labels[marked]),
        "probe_loss": F.binary_cross_entropy_with_logits(answers, probes.right[probes.asked]),
    }


@torch.inference_mode()
def evaluate(model: TinyModel, rows: list[Solution]) -> dict[str, float]:
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


def begin_judging(trainee: Trainee, run: str) -> None:
    """Take over what `expect` learned, bring its stream to size 1 and hold it there."""
    learned = torch.load(RUNS / f"{run}.pt", weights_only=True)["model"]
    kept = [name for name in learned if name.startswith(("model.model.embed", "expect."))]
    kept += [name for name in learned if any(name.startswith(f"model.model.layers.{i}.") for i in EXPECTING)]
    trainee.load_state_dict({name: learned[name] for name in kept}, strict=False)
    with torch.no_grad():
        rows = take(right_solutions(PROBE_SEED), 20_000)
        size = trainee.expectation(pad([row.tokens for row in rows], 0)).square().mean().sqrt().item()
    trainee.model.scale_stream(1 / size, EXPECTING)
    for name, weight in trainee.named_parameters():
        weight.requires_grad_(name not in kept)


def train(part: str, budget: int, tokens_per_batch: int, samples: str) -> None:
    """Train until `budget` tokens were seen once each, saving and evaluating at times."""
    torch.manual_seed(13)
    trainee = Trainee()
    judging, unseen, right = part == "judge", [], []
    if judging:
        begin_judging(trainee, "prm-expect")
        data = take(judged_solutions(JUDGE_SEED, samples), budget)
        unseen, data = data[:EVALUATION_SIZE], data[EVALUATION_SIZE:]
    else:
        data = take(right_solutions(EXPECT_SEED), budget)
    optimizers = Optimizers(trainee, *LEARNING_RATES[part])
    run = Run("prm" if judging else "prm-expect")
    steps, seen = run.resume(trainee, optimizers)
    print(f"{part}: {parameter_count(trainee.model)} parameters, {len(data)} solutions, {seen} tokens done", flush=True)
    groups = list(batches([s.tokens for s in data], tokens_per_batch, ORDER_SEED))
    if judging:
        right = list(itertools.islice(right_solutions(PROBE_SEED), PROBED_ROWS * len(groups)))
    for group in groups[steps:]:
        rows = [data[i] for i in group]
        if judging:
            begin = steps * PROBED_ROWS
            loss = judge_loss(
                trainee, rows, right[begin : begin + PROBED_ROWS], np.random.default_rng((PROBE_SEED, steps))
            )
        else:
            loss = expect_loss(trainee, rows)
        torch.stack(list(loss.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizers.step(schedule(seen, budget, WARMUP_TOKENS, DECAY_SHARE))
        steps += 1
        seen += sum(len(row.tokens) for row in rows)
        if steps % (len(groups) // 12) == 0 or steps == len(groups):
            run.save(trainee, optimizers, steps, seen)
            figures = evaluate(trainee.model, unseen) if judging else {}
            run.log(step=steps, tokens=seen, seconds=run.seconds, **{k: v.item() for k, v in loss.items()}, **figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["expect", "judge"])
    parser.add_argument("--tokens", type=int, help="training tokens, each seen once (14 million to expect, 5 to judge)")
    parser.add_argument("--batch", type=int, default=3072, help="tokens in a batch")
    parser.add_argument("--samples", default="samples", help="file of the policy's samples in runs/, without .jsonl")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.part, args.tokens or (14_000_000 if args.part == "expect" else 5_000_000), args.batch, args.samples)


if __name__ == "__main__":
    main()
