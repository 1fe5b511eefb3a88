"""vLLM on the same card: the samples of `decode`, over random weights of the same shape."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu import synthetic
from benchmarks.gpu.decode import TOKENS
from benchmarks.gpu.stages import Bench, Record, Skipped

ARCHITECTURE = "Qwen2ForCausalLM"


def vllm(bench: Bench) -> Iterator[Record]:
    """Samples of one prompt, with prefix caching on; our own process has ended, its memory is free."""
    if importlib.util.find_spec("vllm") is None:
        raise Skipped("vLLM is not installed")
    from vllm import LLM, SamplingParams

    name = "tiny" if bench.tiny else "qwen2.5-1.5b"
    with tempfile.TemporaryDirectory() as folder:
        config = {**synthetic.SHAPES[name], "architectures": [ARCHITECTURE], "torch_dtype": "bfloat16"}
        Path(folder, "config.json").write_text(json.dumps(config))
        llm = LLM(
            folder, load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", enable_prefix_caching=True,
            max_model_len=1024,
        )  # fmt: skip
    prompt = {"prompt_token_ids": [1] * synthetic.PROMPT}
    for rows, top_p in ((64, 1.0), (64, 0.95), (16, 1.0), (256, 1.0)):
        wish = SamplingParams(
            n=rows, temperature=0.8, top_p=top_p, max_tokens=TOKENS, ignore_eos=True, detokenize=False
        )
        for _ in range(2):
            begin = time.perf_counter()
            outputs = llm.generate([prompt], wish, use_tqdm=False)[0].outputs
            spent = time.perf_counter() - begin
        tokens = sum(len(output.token_ids) for output in outputs)
        yield {"kind": "vllm", "model": name, "rows": rows, "top_p": top_p, "tokens_per_s": tokens / spent}
