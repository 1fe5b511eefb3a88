"""A comparison that is killed again and again comes to the results of one that was not, each cell once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from branchwise.assets import asset_path

KILLS = 10
STRATEGIES = "greedy,majority,best_of_n,beam,rebase,particles"
NUMBERS, SEEDS = "4,8", 3
CELLS = 3 + 5 * 2 * 3


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """All records by cell and id, without what clocks say. A record that is there twice fails."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        for record in map(json.loads, path.read_text().splitlines()[1:]):
            name = f"{path.stem}/{record['id']}"
            assert name not in found
            cost = {
                key: value for key, value in record["cost"].items() if key in ("generated_tokens", "prefill_tokens")
            }
            kept = [{key: value for key, value in each.items() if "prm" not in key and key != "flops"}
                    for each in record.get("candidates", [])]  # fmt: skip
            found[name] = {**record, "cost": cost, "candidates": kept, "wall_seconds": None}
    return found


def words(folder: str, problems: object) -> list[str]:
    return ["eval", str(problems), "-s", STRATEGIES, "-n", NUMBERS, "--seeds", str(SEEDS), "--out", folder]


def test_killed_in_the_middle_of_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"p{i}", "problem": f"{i}+1=?", "answer": str(i)} for i in range(2)]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = str(Path(__file__).with_name("killed.py"))

    def run(write: int, folder: str) -> int:
        return subprocess.run(
            [sys.executable, script, str(write), *words(folder, "p.jsonl")], check=False, capture_output=True
        ).returncode

    generator = random.Random(7)
    for _ in range(KILLS // 2):
        assert run(generator.randrange(14), "killed") == -signal.SIGKILL
    assert run(-1, "killed") == run(-1, "whole") == 0
    assert records(Path("killed")) == records(Path("whole"))
    assert len(records(Path("whole"))) == CELLS * 2


@pytest.mark.slow
def test_killed_at_random_moments_with_models(tmp_path, monkeypatch, command):
    """The bundled models, and votes from the files of a run that was killed: those of the run that was not."""
    if not asset_path("prm").is_dir():
        pytest.skip("the bundled models are not in this build")
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "BRANCHWISE_THREADS": "1"}

    def run(folder: str) -> subprocess.Popen[bytes]:
        given = [*words(folder, asset_path("problems.jsonl")), "--limit", "4", "--max-tokens", "200"]
        return subprocess.Popen(
            [sys.executable, "-m", "branchwise", *given],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip

    def count() -> int:
        return sum(path.read_bytes().count(b"\n") for path in Path("killed").glob("*.jsonl"))

    generator, kills = random.Random(3), 0
    while kills < KILLS:
        process, before = run("killed"), count()
        while count() <= before + 1 and process.poll() is None:
            time.sleep(0.02)
        time.sleep(generator.random())
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    whole, again = run("whole"), run("killed")
    for process in (whole, again):
        assert process.wait(1200) == 0
    assert kills == KILLS
    assert records(Path("killed")) == records(Path("whole"))
    assert len(records(Path("whole"))) == CELLS * 4
    votes = [command("votes", name, "-n", "4", "--json").document["votes"] for name in ("killed", "whole")]
    assert [each["answers"] for each in votes[0]] == [each["answers"] for each in votes[1]]
