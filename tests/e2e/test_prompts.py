"""Prompts end to end: a policy with a chat template, from the command line to the results file."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import branchwise as bw
from branchwise.assets import asset_path
from branchwise.cli import main
from branchwise.text import chat_template

DATED = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if strftime_now('%Y') == '2026' and thinking %}{{ '\n' }}{% endif %}"
)


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundled policy with a template that prints the date into some prompts, and a recommendation."""
    monkeypatch.setattr(chat_template, "_worker", None)
    folder = shutil.copytree(asset_path("policy-small"), tmp_path / "policy")
    (folder / "chat_template.jinja").write_text(DATED)
    (folder / "generation_config.json").write_text(
        json.dumps({"temperature": 0.6, "top_p": 0.95, "repetition_penalty": 1.1, "min_p": "small"})
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums.jsonl").write_text('{"id": "a", "problem": "1+1=?", "answer": "2"}\n')
    return folder


@pytest.fixture
def run(policy: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--policy", str(policy)])
        return code, *capsys.readouterr()

    return run


def test_the_digest_tells_prompts_apart(policy: Path) -> None:
    def digest(**options: object) -> str | None:
        with bw.Engine(policy, instruction="", kv_memory=32 << 20, max_tokens=8, **options) as engine:
            assert engine.resolved.date == options.get("date", "2024-07-26")
            return engine.solve("1+1=?", "greedy").prompt_digest

    thinking = {"chat_template_kwargs": {"thinking": True}}
    plain = digest()
    assert plain == digest(**thinking)
    assert digest(date="2026-11-30", **thinking) not in (None, plain)
    with pytest.raises(bw.ConfigError, match="never reads the variable 'thinkin'"):
        digest(chat_template_kwargs={"thinkin": True})


def test_ten_megabytes_are_refused_at_once() -> None:
    text = "1+" * 5_000_000
    with bw.Engine(kv_memory=32 << 20) as engine:
        for problem in (text, bw.Problem("p", text, prompt=[5, 6, 7]), bw.Problem("p", "1+1=?", prompt=text)):
            begin = time.perf_counter()
            with pytest.raises(bw.InputError, match="model's context is 512: shorten it"):
                engine.solve(problem, "best_of_n", n=2)
            assert time.perf_counter() - begin < 5.0


def test_the_worker_ends_with_the_engine(policy: Path) -> None:
    with bw.Engine(policy, instruction="", kv_memory=32 << 20, max_tokens=8) as engine:
        engine.solve("1+1=?", "greedy")
        worker = chat_template._worker()
        assert worker is not None
        pid = worker.pid
        assert Path(f"/proc/{pid}").exists()
        del worker
    assert not Path(f"/proc/{pid}").exists()


def test_eval_says_what_is_recommended_and_records_the_prompt(run: Callable[..., tuple[int, str, str]]) -> None:
    words = ["eval", "sums.jsonl", "-s", "greedy", "--max-tokens", "8", "--temperature", "0.6"]
    code, _, err = run(*words, "--date", "2026-11-30", "--template-var", "thinking=true", "--out", "new.results")
    assert code == 0
    assert "the policy recommends temperature 0.6, top-p 0.95, repetition-penalty 1.1; used: temperature 0.6" in err
    assert "for theirs: --temperature 0.6 --top-p 0.95" in err
    assert "recommends min-p 'small', which is no number" in err
    header, record = map(json.loads, Path("new.results/greedy-seed0.jsonl").read_text().splitlines())
    assert header["settings"]["template_var"] == {"thinking": True}
    assert len(record["settings"]) == 16
    assert header["resolved"]["date"] == "2026-11-30"
    assert run(*words, "--out", "old.results")[0] == 0
    other = json.loads(Path("old.results/greedy-seed0.jsonl").read_text().splitlines()[1])
    assert len(record["prompt_digest"]) == len(other["prompt_digest"]) == 16
    assert record["prompt_digest"] != other["prompt_digest"]
    assert record["settings"] != other["settings"]
    assert run(*words, "--out", "old.results", "--date", "today")[0] == 2, "results of other prompts do not mix"


def test_mistakes_are_said_before_models_load(run: Callable[..., tuple[int, str, str]]) -> None:
    for words, message in (
        (["--date", "someday"], "expected a day such as '2026-11-30'"),
        (["--template-var", "thinking"], "expected NAME=VALUE"),
        (["--template-var", "messages=1"], "'messages' is not free"),
        (["--template-var", "nothing=1"], "never reads the variable 'nothing'"),
    ):
        code, _, err = run("eval", "sums.jsonl", "-s", "greedy", *words)
        assert code == 2
        assert message in err.replace("\n", " ")
        assert "Traceback" not in err


def test_doctor(run: Callable[..., tuple[int, str, str]], policy: Path) -> None:
    _, out, _ = run("doctor", "--json")
    says = json.loads(out)["policy"]
    assert says["recommended"] == {"temperature": 0.6, "top_p": 0.95, "repetition_penalty": 1.1}
    assert says["used"]["temperature"] == 0.8
    assert says["reads"] == ["messages", "strftime_now", "thinking"]
    assert says["system role"] is False
    assert "has no system role" in " ".join(run("doctor")[1].split())
    (policy / "generation_config.json").write_text("{")
    code, _, err = run("doctor")
    assert code == 2
    assert "generation_config.json" in err
    assert "Traceback" not in err
