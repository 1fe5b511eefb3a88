"""The examples run as a user runs them, say something sensible, and stay short enough to copy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EXPECTED = {
    "my_strategy.py": ("12+3*4-5+60=? 79", "7*8+5-20=? 41"),
    "beam_by_hand.py": ("12+3*4-5+60=?    79", "(31+4)*2-9=?     61", "61+2*13-40=?     47"),
    "beam_by_completions.py": ("12+3*4-5+60=? {79}", "(31+4)*2-9=? {61}", "61+2*13-40=? {47}"),
    "my_judge.py": ("[1.0, 0.0, 0.5]", "12+3*4-5+60=? 79", "7*8+5-20=? 41"),
    "train_head.py": ("trained on 1200 solutions", "AUC 0.8", "weighted by the head:"),
    "async_requests.py": ("'12+3*4-5+60=?', '79', {}", "4*7=28", "cancelled"),
}


def test_every_example_is_tried() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


SLOW = [pytest.param(name, marks=pytest.mark.slow) if name == "train_head.py" else name for name in EXPECTED]


@pytest.mark.parametrize("name", SLOW)
def test_an_example(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 60
    done = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for words in EXPECTED[name]:
        assert words in done.stdout
