"""GGUF metadata and shard indexes with every wrong value: a model that loads, or one line that says what is wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from branchwise.errors import BranchwiseError
from branchwise.weights import open_checkpoint
from model_tools import all_logits, cpu_decoder
from weights.samples import finish, tiny_model, write_gguf
from weights.test_safetensors_file import write_folder, write_index

KINDS = gguf.GGUFValueType
WRONG: list[tuple[Any, gguf.GGUFValueType]] = [
    (0, KINDS.UINT32), (1, KINDS.UINT32), (2, KINDS.UINT32), (7, KINDS.UINT32), (1000, KINDS.UINT32), (-1, KINDS.INT32),
    (2**31, KINDS.UINT32), (2**64 - 1, KINDS.UINT64), (0.0, KINDS.FLOAT32), (float("nan"), KINDS.FLOAT32),
    (float("inf"), KINDS.FLOAT32), (-1.5, KINDS.FLOAT64), (1e-300, KINDS.FLOAT64), (1e300, KINDS.FLOAT64),
    (True, KINDS.BOOL), (False, KINDS.BOOL), ("", KINDS.STRING), ("yarn", KINDS.STRING), ("longrope", KINDS.STRING),
    ([1], KINDS.ARRAY), ([1, 2, 3], KINDS.ARRAY), ([0.5], KINDS.ARRAY), (["x", "y"], KINDS.ARRAY),
    ([True], KINDS.ARRAY),
]  # fmt: skip
MORE = (
    "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.attn_factor",
    "rope.scaling.yarn_beta_fast", "rope.dimension_count", "attention.sliding_window_pattern", "expert_count",
    "attention.causal", "vocab_size",
)  # fmt: skip


def load(path: Path) -> None:
    try:
        model = cpu_decoder(open_checkpoint(path), torch.float32)
    except BranchwiseError as error:
        said = str(error)
    else:
        all_logits(model, list(range(3, 12))[: model.config.max_positions])
        return
    assert "\n" not in said
    assert len(said) < 1200


@pytest.mark.filterwarnings("ignore:.*the context is:UserWarning")
@pytest.mark.parametrize("count", [60, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "phi3", "granite"])
def test_every_key_with_every_wrong_value(architecture: str, count: int | None, tmp_path: Path) -> None:
    reader = gguf.GGUFReader(write_gguf(tmp_path / "m.gguf", architecture, tiny_model(architecture)))
    known = [name for name in reader.fields if name.startswith(("general.", architecture, "tokenizer.ggml.bos"))]
    keys = [*known, *(f"{architecture}.{name}" for name in MORE), "split.count", "split.no", "general.alignment"]
    every = [(key, value) for key in dict.fromkeys(keys) for value in (None, *WRONG)]
    for key, value in every if count is None else random.Random(3).sample(every, count):
        writer = gguf.GGUFWriter(tmp_path / "x.gguf", architecture)
        fields = {name: (field.contents(), field.types[0]) for name, field in reader.fields.items() if "." in name}
        fields = {name: pair for name, pair in fields.items() if not name.startswith("GGUF.")} | {key: value}
        writer.kv_data[0].clear()
        for name, pair in fields.items():
            if pair is not None:
                writer.add_key_value(name, *pair)
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, tensor.data)
        load(finish(writer, tmp_path / "x.gguf"))


INDEXES: list[Any] = [
    {}, [], None, 1, "x", {"a": None}, {"a": 1}, {"a": ["x"]}, {"a": ""}, {"a": "."}, {"a": ".."}, {"a": "/"},
    {"a": ".safetensors"}, {"a": "\ud800.safetensors"}, {"a": "x\0.safetensors"}, {"a": "x" * 5000 + ".safetensors"},
    {"a": "1-of-99999999999999999999.safetensors"}, {"a": "0-of-0.safetensors"}, {"a": "..\\x.safetensors"},
    {"\ud800": "m-00001-of-00001.safetensors"}, {"a": "a\nb.safetensors"}, {"a": "a/b.safetensors"},
    {str(n): f"m-{n:05}-of-00300.safetensors" for n in range(300)},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(INDEXES)))
def test_every_wrong_index(number: int, tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    write_index(tmp_path, INDEXES[number])
    with pytest.raises(BranchwiseError) as caught:
        open_checkpoint(tmp_path)
    str(caught.value).encode()  # no lone surrogate, which no terminal could print
    assert len(str(caught.value)) < 1200
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(INDEXES[number]))
    with pytest.raises(BranchwiseError):
        open_checkpoint(tmp_path)
