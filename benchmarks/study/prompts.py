"""Problems with worked examples before each, as base models are asked.

python benchmarks/study/prompts.py gsm8k_dev.jsonl > dev.jsonl

Reads JSON lines with id, problem and answer, writes them with a `prompt`: four examples, one calculation a paragraph,
then the question. A small chat model writes half as much that way as when it is told to go step by step.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

EXAMPLES = (
    (
        "Natalie has 3 boxes of 12 pens and gives away 7. Each pen that is left sells for $2. How much money does she"
        " get?",
        (
            "Natalie has 3 * 12 = 36 pens.",
            "After giving some away she has 36 - 7 = 29 pens.",
            "She gets 29 * 2 = 58 dollars.",
        ),
        "58",
    ),
    (
        "Ann reads 20 pages a day from Monday to Friday, and half as many on each day of the weekend. How many pages"
        " does she read in a week?",
        (
            "From Monday to Friday Ann reads 20 * 5 = 100 pages.",
            "On each day of the weekend she reads 20 / 2 = 10 pages.",
            "On the weekend she reads 10 * 2 = 20 pages.",
            "In a week she reads 100 + 20 = 120 pages.",
        ),
        "120",
    ),
    (
        "A shirt costs $40. It is sold at 25% off, and a tax of 10% is added to the lower price. What does one pay for"
        " two shirts?",
        (
            "The discount is 40 * 0.25 = 10 dollars.",
            "The lower price is 40 - 10 = 30 dollars.",
            "With tax a shirt costs 30 * 1.1 = 33 dollars.",
            "Two shirts cost 33 * 2 = 66 dollars.",
        ),
        "66",
    ),
    (
        "Ben is 4 years older than Cara. In 6 years the sum of their ages will be 40. How old is Ben now?",
        (
            "In 6 years both are 6 years older, so the sum of their ages now is 40 - 2 * 6 = 28.",
            "Twice Cara's age is 28 - 4 = 24.",
            "Cara is 24 / 2 = 12 years old.",
            "Ben is 12 + 4 = 16 years old.",
        ),
        "16",
    ),
)


def prompt(problem: str) -> str:
    """The examples, then the problem, ending where its solution begins."""
    worked = [
        f"Question: {question}\n\nAnswer: {blocks}\n\nThe answer is \\boxed{{{answer}}}.\n\n"
        for question, steps, answer in EXAMPLES
        for blocks in ["\n\n".join(steps)]
    ]
    return f"{''.join(worked)}Question: {problem}\n\nAnswer:"


def main() -> None:
    """Print the rows of the file that is named, each with its prompt."""
    for line in Path(sys.argv[1]).read_text().splitlines():
        row = json.loads(line)
        print(json.dumps({**row, "prompt": prompt(row["problem"])}))


if __name__ == "__main__":
    main()
