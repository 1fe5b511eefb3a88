"""Writes a checkpoint that branchwise reads as Hugging Face folders, so that rivals run the very same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import decoders

from benchmarks.vs.venvs import cache_folder
from branchwise.text.tokenizer import Tokenizer
from branchwise.weights import open_checkpoint
from branchwise.weights.checkpoint import Checkpoint


def export_policy(source: str) -> Path:
    """A causal LM in bfloat16 with its tokenizer; written once, then reused."""
    return _export(source, "policy", lambda checkpoint, tokenizer: (checkpoint.config, {}))


def export_judge(source: str) -> Path:
    """The same trunk as a two-class model over its words "+" and "-": a token-pair PRM as pooling engines want it."""

    def head(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        table = "lm_head.weight" if "lm_head.weight" in checkpoint.names() else "model.embed_tokens.weight"
        ids = [tokenizer.encode(word)[-1] for word in "+-"]
        rows = torch.cat([checkpoint.load_rows(table, i, i + 1, torch.bfloat16) for i in ids])
        (causal,) = checkpoint.config["architectures"]
        name = causal.replace("ForCausalLM", "ForSequenceClassification")
        labels = {"id2label": {"0": "+", "1": "-"}, "label2id": {"+": 0, "-": 1}}
        return {**checkpoint.config, "architectures": [name], "num_labels": 2, **labels}, {"score.weight": rows}

    return _export(source, "judge", head)


def _export(source: str, kind: str, describe: Any) -> Path:
    folder = cache_folder() / "models" / f"{Path(source).stem}-{kind}"
    if (folder / "config.json").exists():  # written last
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = open_checkpoint(source)
    tokenizer = checkpoint.tokenizer()
    config, tensors = describe(checkpoint, tokenizer)
    tensors = {name: checkpoint.load(name, torch.bfloat16) for name in sorted(checkpoint.names())} | tensors
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    eos = sorted(tokenizer.eos_ids)
    _write_tokenizer(folder, tokenizer)
    _write(folder / "generation_config.json", {"eos_token_id": eos})
    ends = {"eos_token_id": eos[0], "pad_token_id": eos[0], "bos_token_id": tokenizer.bos_id}
    _write(folder / "config.json", {**config, "torch_dtype": "bfloat16", **ends})
    return folder


def _write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    backend = tokenizer._backend
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": tokenizer.chat_template,
        "add_bos_token": tokenizer.add_bos,
        "pad_token": tokenizer.named_tokens.get("eos_token"),
        **tokenizer.named_tokens,
    }
    _write(folder / "tokenizer_config.json", settings)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))
