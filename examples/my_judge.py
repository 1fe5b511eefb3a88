"""Judges of your own: one that checks arithmetic, and one that runs the code of a solution in a process with limits.

A judge is a function of a question and of branches, each the texts of its steps, that returns a number for each branch.
"""

import re
import subprocess
import sys

import branchwise as bw

LIMITS = "import resource as r; r.setrlimit(r.RLIMIT_CPU, (2, 2)); r.setrlimit(r.RLIMIT_AS, (1 << 30, 1 << 30))\n"


def arithmetic(question, branches):
    """The share of the equations a+b=c, a-b=c and a*b=c in the last step that hold; 1/2 where there is none."""
    return [_share_that_holds(steps[-1]) for steps in branches]


def _share_that_holds(text):
    found = re.findall(r"(-?\d+)\s*([-+*])\s*(-?\d+)\s*=\s*(-?\d+)", text)
    if not found:
        return 0.5
    works = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    right = [works[sign](int(a), int(b)) == int(c) for a, sign, b, c in found]
    return sum(right) / len(right)


def runs(question, branches):
    """1 where the last block of Python code of a branch runs to its end, 0 where it does not, 1/2 without code.

    Each block runs in a process of its own, with two seconds, 1 GiB and an empty environment. That keeps accidents
    away; code that means harm needs a sandbox.
    """
    return [_runs("".join(steps)) for steps in branches]


def _runs(text):
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    if not blocks:
        return 0.5
    command = [sys.executable, "-I", "-c", LIMITS + blocks[-1]]
    try:
        done = subprocess.run(command, env={}, capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return 0.0
    return float(done.returncode == 0)


if __name__ == "__main__":
    print(runs("", [["```python\nprint(6 * 7)\n```"], ["```python\nwhile True: pass\n```"], ["no code"]]))
    judge = bw.PythonJudge(arithmetic, isolate=True, seconds=5)
    with bw.Engine(judge=judge) as engine:
        for result in engine.solve_many(["12+3*4-5+60=?", "7*8+5-20=?"], strategy="beam", n=16):
            print(result.problem.text, result.answer, result.scores, result.unjudged)
