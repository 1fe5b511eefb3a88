"""`train-head` with the bundled policy: from problems to a head that commands take, and on where it was cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from branchwise.assets import asset_path
from branchwise.training.plot import has_plots

SMALL = ("--threads", 1, "--kv-memory", "64M", "--max-tokens", 100)
FEW = ("--layers", 3)


@pytest.fixture
def sums(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(line + "\n" for line in asset_path("problems.jsonl").read_text().splitlines()[:16]))
    return path


def flipped(data: bytes) -> bytes:
    """With another bit in its middle."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_from_problems_to_a_head_and_on_where_it_was_cut(command, sums):
    train = ("train-head", sums, "--out", "head.safetensors", "-n", 4, *FEW, *SMALL)
    done = command(*train, "--json", "--no-plot")
    assert done.code == 0, done.err
    report = done.document
    assert (report["problems"], report["solutions"], report["plot"]) == (16, 64, None)
    assert "16/16" in done.err

    drawn = Path("head.samples/majority-n4-seed0.jsonl").read_text()
    kept = sorted(path.name for path in Path("head.states").iterdir())
    assert len(kept) == 16
    again = command(*train, *(() if has_plots() else ("--no-plot",)))
    assert again.code == 0, again.err
    assert "16/16" not in again.err.replace("states of 16/16", "")
    assert Path("head.samples/majority-n4-seed0.jsonl").read_text() == drawn
    assert sorted(path.name for path in Path("head.states").iterdir()) == kept
    assert "64 solutions of 16 problems" in again.out
    assert Path("head.png").exists() == has_plots()

    whole = Path("head.safetensors").read_bytes()
    damages = [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"none", flipped]
    for name, damage in zip(kept[:4], damages, strict=True):
        path = Path("head.states") / name
        path.write_bytes(damage(path.read_bytes()))
    assert command(*train, "--no-plot").code == 0
    assert Path("head.safetensors").read_bytes() == whole

    solved = command("solve", "12+3*4=?", "--judge", "head.safetensors", "-s", "best_of_n", "-n", 2, "--json", *SMALL)
    assert solved.code == 0, solved.err
    assert solved.document["score"] is not None
    rows = ("eval", sums, "--limit", 2, "--judge", "head.safetensors", "-s", "best_of_n", "-n", 2, *SMALL)
    assert command(*rows).code == 0
    header = json.loads(Path("sums.results/best_of_n-n2-seed0.jsonl").read_text().splitlines()[0])
    assert "value_head" in json.dumps(header["settings"])


def test_samples_that_are_there(command, sums):
    assert command("eval", sums, "-s", "best_of_n,majority", "-n", 4, *SMALL).code == 0  # the second shares
    done = command("train-head", sums, "--out", "head.safetensors", "--samples", "sums.results", "--no-plot", *FEW,
                   *SMALL)  # fmt: skip
    assert done.code == 0, done.err
    assert "64 solutions of 16 problems" in done.out
    assert not Path("head.samples").exists()
    other = command("train-head", sums, "--out", "h.safetensors", "--samples", "sums.results", "--no-plot",
                    "--instruction", "Think.", *SMALL)  # fmt: skip
    assert other.code == 2
    assert "to another prompt than this engine's" in other.err
    large = command("train-head", sums, "--out", "h.safetensors", "--samples", "sums.results", "--no-plot",
                    "--policy", asset_path("policy-large"), *SMALL)  # fmt: skip
    assert large.code == 2
    assert "solutions of another policy" in large.err
    path = Path("sums.results/best_of_n-n4-seed0.jsonl")
    first, second, *rest = path.read_text().splitlines()
    record = json.loads(second)
    record["candidates"][1]["steps"][0][0] = 100_000
    path.write_text("\n".join([first, json.dumps(record), *rest]) + "\n")
    other = command("train-head", sums, "--out", "h.safetensors", "--samples", "sums.results", "--no-plot", *SMALL)
    assert other.code == 2
    assert "has the token 100000, the policy knows 0 to" in other.err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--out", "head.gguf"), "expected a name that ends in .safetensors"),
        (("--out", "h.safetensors", "-n", 1), "1 solutions of each of 16 problems are too few"),
        (("--out", "h.safetensors", "--limit", 3), "8 solutions of each of 3 problems are too few"),
        (("--out", "h.safetensors", "--prm", "some/prm"), "leave out --prm and --judge"),
        (("--out", "h.safetensors", "--layers", "two"), "--layers two: expected whole numbers"),
        (("--out", "h.safetensors", "--samples", "nowhere"), "nowhere is no folder"),
    ],
)
def test_mistakes_are_one_line(command, sums, words, error):
    done = command("train-head", sums, "--no-plot", *words, *SMALL)
    assert done.code == 2
    assert error in " ".join(done.err.split())
    assert not Path("h.safetensors").exists()


def test_problems_without_answers(command, sums):
    rows = [json.loads(line) for line in sums.read_text().splitlines()]
    sums.write_text("".join(json.dumps({"id": row["id"], "problem": row["problem"]}) + "\n" for row in rows))
    done = command("train-head", sums, "--out", "head.safetensors", "--no-plot", *SMALL)
    assert done.code == 2
    assert "none of the 16 problems has an 'answer'" in " ".join(done.err.split())
