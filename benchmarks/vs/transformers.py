"""Hugging Face transformers as a rival: batched sampling."""

from __future__ import annotations

import time

import torch
import transformers

from benchmarks.vs.protocol import Json, serve
from benchmarks.vs.workloads import TEMPERATURE


class Transformers:
    """A causal LM with torch's fused attention."""

    def __init__(self, model: str, threads: int, dtype: str) -> None:
        torch.set_num_threads(threads)
        self.dtype = dtype
        self.model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()

    def about(self) -> Json:
        """Versions and settings."""
        return {
            "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
            "flags": {"dtype": self.dtype, "attention": "sdpa", "threads": torch.get_num_threads()},
        }

    @torch.inference_mode()
    def sampling(self, prompt: list[int], rows: int, tokens: int, top_p: float, seed: int) -> Json:
        """`rows` samples of `tokens` tokens each."""
        torch.manual_seed(seed)
        ids = torch.tensor([prompt]).expand(rows, -1)
        begin = time.perf_counter()
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=TEMPERATURE, top_p=top_p, top_k=0,
            min_new_tokens=tokens, max_new_tokens=tokens,
        )  # fmt: skip
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "tokens": rows * (out.shape[1] - len(prompt))}


if __name__ == "__main__":
    serve(Transformers)
