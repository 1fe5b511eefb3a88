"""A model is known by what it holds: not by its place, its name or its times."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from branchwise.assets import asset_path
from branchwise.weights import open_checkpoint
from branchwise.weights.identity import _read_parts, identity
from weights.samples import tiny_model, write_gguf


def known(path: Path) -> str:
    return identity(open_checkpoint(path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a bundled model, in shards so that there are several files."""
    made = tmp_path / "model"
    shutil.copytree(asset_path("policy-small"), made)
    tensors = load_file(made / "model.safetensors")
    (made / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, made / shard)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (made / "model.safetensors.index.json").write_text(json.dumps(index))
    return made


def test_a_copy_elsewhere_is_the_same(folder, tmp_path):
    before = known(folder)
    assert before.startswith("llama, ")
    copied = shutil.copytree(folder, tmp_path / "deep" / "another")
    os.utime(copied / "config.json", (1, 1))
    (copied / "README.md").write_text("notes")
    assert known(copied) == before


def test_any_tensor_that_changes_makes_another_model(folder):
    seen = {known(folder)}
    for shard in ("model-1.safetensors", "model-2.safetensors"):
        tensors = load_file(folder / shard)
        for name in tensors:
            tensors[name] = tensors[name] * 1.01
            save_file(tensors, folder / shard)
            seen.add(known(folder))
    assert len(seen) == 1 + len(open_checkpoint(folder).names())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_configuration_and_tokenizer_belong_to_it(folder, name):
    before = known(folder)
    with (folder / name).open("a") as file:
        file.write(" ")
    assert known(folder) != before


def test_a_gguf_file_may_be_renamed_but_not_retrained(tmp_path):
    model = tiny_model("llama")
    before = known(write_gguf(tmp_path / "a.gguf", "llama", model))
    (tmp_path / "a.gguf").rename(tmp_path / "b.gguf")
    assert known(tmp_path / "b.gguf") == before
    model.lm_head.weight.data.mul_(1.01)
    assert known(write_gguf(tmp_path / "a.gguf", "llama", model)) != before
    assert known(write_gguf(tmp_path / "a.gguf", "llama", tiny_model("llama"), general__name="x")) != before


def test_of_a_large_tensor_three_samples_are_read(tmp_path):
    import torch

    path = tmp_path / "large.safetensors"
    save_file({"w": torch.zeros(1 << 22)}, path)
    parts = _read_parts(path)
    assert sum(end - begin for begin, end in parts) < 1 << 15
    assert parts[-1][1] == path.stat().st_size
    assert parts[1][0] == parts[0][1]
