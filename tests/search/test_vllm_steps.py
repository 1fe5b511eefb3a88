"""The searches that the GPU benchmark runs beside vLLM, over a stand-in for vLLM."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from benchmarks.gpu.vllm_steps import vllm_search
from branchwise.assets import asset_path
from branchwise.types import Problem
from branchwise.weights import open_checkpoint


class StandIn:
    """As `vllm.LLM`: every step says which it is, and the third one ends the solution."""

    def __init__(self, model: str, **flags: object) -> None:
        assert flags["enable_prefix_caching"] is True
        self.tokenizer = open_checkpoint(model).tokenizer()
        self.rounds: list[int] = []

    def generate(self, prompts, wishes, use_tqdm):
        self.rounds.append(sum(wish.n for wish in wishes))
        return [SimpleNamespace(outputs=[self.output(prompt, wish) for _ in range(wish.n)])
                for prompt, wish in zip(prompts, wishes, strict=True)]  # fmt: skip

    def output(self, prompt: dict[str, list[int]], wish: SimpleNamespace) -> SimpleNamespace:
        assert wish.stop == ["\n\n"]
        assert wish.max_tokens > 0
        before = self.tokenizer.decode(prompt["prompt_token_ids"])
        steps = before.count("1+1=2")
        text = "1+1=2\n\n" if steps < 2 else "1+1=2"
        tokens = self.tokenizer.encode(text) + ([] if steps < 2 else [min(self.tokenizer.eos_ids)])
        return SimpleNamespace(text=text, token_ids=tokens, finish_reason="stop")


@pytest.mark.parametrize(("strategy", "steps"), [("beam", 3), ("dvts", 3)])
def test_searches_over_vllm(monkeypatch, strategy, steps):
    made: list[StandIn] = []
    vllm = ModuleType("vllm")
    vllm.LLM = lambda *args, **flags: made.append(StandIn(*args, **flags)) or made[0]
    vllm.SamplingParams = SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    problems = [Problem("a", "1+1=?"), Problem("b", "2+2=?")]
    pair = (str(asset_path(name)) for name in ("policy-small", "prm"))
    record = vllm_search(*pair, "cpu", problems, strategy, 4, 2)
    assert made[0].rounds == [4 * 2] * steps  # both problems in every call, N rows each
    assert record["strategy"] == strategy
    assert record["tokens"] > 0
