"""Every command line test runs `main` in this process, with a fake in place of the engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from branchwise.cli import main, models
from cli.fake_engine import FakeEngine


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document that is all of stdout."""
        made: dict[str, Any] = json.loads(self.out)
        return made


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs the command line with the given words."""

    def run(*words: object) -> Done:
        capsys.readouterr()
        code = main([str(word) for word in words])
        printed = capsys.readouterr()
        return Done(code, printed.out, printed.err)

    return run


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The engine that every command gets."""
    fake = FakeEngine()
    monkeypatch.setattr(models, "open_engine", fake.open)
    monkeypatch.setattr(models, "identity", lambda source: (source, source))
    monkeypatch.setattr(models, "resolved", lambda engine: {"kernels": engine.kernels})
    return fake


@pytest.fixture
def problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of six problems, in a folder of its own that is the current one."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sums.jsonl"
    rows = [{"id": f"p{i}", "problem": f"{i}+1=?", "answer": str(i % 3)} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
