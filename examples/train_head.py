"""Train a value head for the bundled policy and answer better with it: scores for free, without a second model.

Solutions of 150 problems are drawn and labelled by their final answers; the head learns which states of the policy lead
to right ones. Then it weighs the votes on problems that it has not seen. Run it: `python examples/train_head.py`.
"""

import json
import tempfile
from pathlib import Path

import branchwise as bw
from branchwise.assets import asset_path

N = 8
OPTIONS = {"max_tokens": 128, "instruction": "", "seed": 1, "kv_memory": 256 << 20}


def accuracy(engine, problems, strategy):
    results = engine.solve_many(problems, strategy, n=N)
    return 100 * sum(bool(result.correct) for result in results) / len(problems)


def main():
    policy = asset_path("policy-small")
    rows = [json.loads(line) for line in asset_path("problems.jsonl").read_text().splitlines()]
    problems = [bw.Problem(row["id"], row["problem"], answer=row["answer"]) for row in rows]
    train, held_out = problems[:150], problems[150:300]
    with tempfile.TemporaryDirectory() as folder:
        head = Path(folder) / "head.safetensors"
        with bw.Engine(policy, **OPTIONS) as engine:
            made = bw.train_head(engine, train, head, n=N)
            majority = accuracy(engine, held_out, "majority")
        report = made.report
        print(f"trained on {report['solutions']} solutions, {100 * report['right']:.0f} % of them right")
        print(f"reads {report['choice']}")
        print(f"AUC {report['auc']:.2f} over all, {report['auc_within']:.2f} within a problem; ECE {report['ece']:.2f}")
        with bw.Engine(policy, judge=head, **OPTIONS) as engine:
            weighted = accuracy(engine, held_out, "weighted_best_of_n")
            beam = accuracy(engine, held_out, "beam")
    print(f"majority of {N}:             {majority:.1f} % of {len(held_out)} other problems")
    print(f"weighted by the head:      {weighted:.1f} %")
    print(f"beam search with the head: {beam:.1f} %")


if __name__ == "__main__":
    main()
