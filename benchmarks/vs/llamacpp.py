"""llama.cpp as a rival: batched decoding over copied sequences, through its C interface."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import llama_cpp as lib

from benchmarks.vs.protocol import Json, serve
from benchmarks.vs.workloads import TEMPERATURE


class LlamaCpp:
    """A GGUF model as it is, or requantised by llama.cpp itself (`quantise="q8_0"`; the file is kept in `folder`)."""

    def __init__(self, model: str, threads: int, folder: str, quantise: str | None = None) -> None:
        lib.llama_backend_init()
        path = requantised(Path(model), quantise, Path(folder)) if quantise else Path(model)
        self.file, self.threads = path.name, threads
        self.model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.words = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))

    def about(self) -> Json:
        """Versions and settings."""
        system = lib.llama_print_system_info().decode()
        return {
            "versions": {"llama-cpp-python": lib.__version__},
            "flags": {"file": self.file, "threads": self.threads, "flash_attention": "auto", "system": system},
        }

    def sampling(self, prompt: list[int], rows: int, tokens: int, top_p: float, seed: int) -> Json:
        """`rows` samples of `tokens` tokens each: the prompt once, its KV copied to every sequence."""
        context = self._context(rows, len(prompt) + tokens)
        samplers = [self._sampler(top_p, seed + row) for row in range(rows)]
        batch = lib.llama_batch_init(max(len(prompt), rows), 0, 1)
        memory = lib.llama_get_memory(context)
        begin = time.perf_counter()
        _fill(batch, prompt, range(len(prompt)), [0] * len(prompt), [i + 1 == len(prompt) for i in range(len(prompt))])
        self._decode(context, batch)
        for row in range(1, rows):
            lib.llama_memory_seq_cp(memory, 0, row, -1, -1)
        drawn = [lib.llama_sampler_sample(sampler, context, -1) for sampler in samplers]
        for position in range(len(prompt), len(prompt) + tokens - 1):
            _fill(batch, drawn, [position] * rows, range(rows), [True] * rows)
            self._decode(context, batch)
            drawn = [lib.llama_sampler_sample(sampler, context, row) for row, sampler in enumerate(samplers)]
        seconds = time.perf_counter() - begin
        lib.llama_batch_free(batch)
        for sampler in samplers:
            lib.llama_sampler_free(sampler)
        lib.llama_free(context)
        return {"seconds": seconds, "tokens": rows * tokens}

    def _context(self, rows: int, length: int) -> lib.llama_context_p:
        wish = lib.llama_context_default_params()
        # One KV for all sequences: their prompt is held once, and copying it is free.
        wish.kv_unified = True
        wish.n_ctx, wish.n_seq_max = rows * length, rows
        wish.n_batch = wish.n_ubatch = 512
        wish.n_threads = wish.n_threads_batch = self.threads
        context = lib.llama_init_from_model(self.model, wish)
        if not context:
            raise RuntimeError(f"llama.cpp cannot make a context for {rows} sequences of {length} tokens")
        return context

    def _sampler(self, top_p: float, seed: int) -> lib.llama_sampler_p:
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_temp(TEMPERATURE))
        if top_p < 1:
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_p(top_p, 1))
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(seed))
        return chain

    @staticmethod
    def _decode(context: lib.llama_context_p, batch: lib.llama_batch) -> None:
        if code := lib.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode returned {code}")


def _fill(batch: lib.llama_batch, tokens: object, positions: object, sequences: object, wanted: object) -> None:
    """Write tokens into a batch, each for one sequence; `wanted`: whose logits are."""
    rows = list(zip(tokens, positions, sequences, wanted, strict=True))
    batch.n_tokens = len(rows)
    for i, (token, position, sequence, logits) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, logits
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence


def requantised(model: Path, kind: str, folder: Path) -> Path:
    """The same model in another of llama.cpp's formats; made once."""
    target = folder / f"{model.stem}-as-{kind}.gguf"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        wish = lib.llama_model_quantize_default_params()
        wish.ftype, wish.allow_requantize = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}"), True
        part = target.with_suffix(".partial")
        if lib.llama_model_quantize(str(model).encode(), str(part).encode(), ctypes.byref(wish)):
            raise RuntimeError(f"llama.cpp cannot turn {model} into {kind}")
        part.rename(target)
    return target


if __name__ == "__main__":
    serve(LlamaCpp)
