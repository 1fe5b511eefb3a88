"""Safetensors folders, whole and sharded: every damaged header and index is refused by name before data is read."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from branchwise.errors import CheckpointError
from branchwise.weights import open_checkpoint
from branchwise.weights.safetensors_file import read_header
from weights.samples import COMMON, stored_weights, tiny_model


def packed(header: Any, data: int = 16, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def one(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes}


def two(begin: int, end: int) -> dict[str, Any]:
    return one() | {"b": {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}}


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes are too few"),
    "no header": (packed(b"", 0), "not valid JSON"),
    "header longer than the file": (packed(one(), length=1000), "the header claims 1000 bytes"),
    "huge header": (packed(one(), length=(1 << 64) - 1), "the header claims"),
    "not JSON": (packed(b"{"), "not valid JSON"),
    "not UTF-8": (packed(b'{"\xff": 1}'), "not valid JSON"),
    "deep nesting": (packed(b"[" * 100_000), "not valid JSON"),
    "huge number": (packed(b'{"a": ' + b"9" * 10_000 + b"}"), "not valid JSON"),
    "not an object": (packed([1]), "expected a JSON object"),
    "tensor twice": (packed(b'{"a": 1, "a": 1}'), "key 'a' appears twice"),
    "entry is a number": (packed({"a": 1}), "tensor 'a' needs dtype, shape and data_offsets"),
    "dtype missing": (packed({"a": {"shape": [1], "data_offsets": [0, 4]}}), "needs dtype"),
    "dtype unknown": (packed(one(dtype="F3")), "unknown dtype 'F3'"),
    "dtype is a list": (packed(one(dtype=["F32"])), "unknown dtype"),
    "dtype of another width": (packed(one(dtype="F16")), "does not fit its data_offsets"),
    "shape negative": (packed(one(shape=[-2, -2])), "shape of tensor 'a' must be"),
    "shape is a number": (packed(one(shape=4)), "shape of tensor 'a' must be"),
    "shape holds booleans": (packed(one(shape=[True, 4])), "shape of tensor 'a' must be"),
    "shape holds fractions": (packed(one(shape=[4.0])), "shape of tensor 'a' must be"),
    "shape overflows": (packed(one(shape=[1 << 40, 1 << 40])), "does not fit"),
    "shape too large": (packed(one(shape=[5])), "does not fit"),
    "offsets reversed": (packed(one(data_offsets=[16, 0])), "does not fit"),
    "three offsets": (packed(one(data_offsets=[0, 16, 16])), "does not fit"),
    "offsets past the end": (packed(two(16, 20)), "tensors end at byte 20 of the data, the file has 16"),
    "overlap": (packed(two(12, 18), 18), "tensor 'b' at 12 overlaps the one before it"),
    "gap": (packed(two(17, 20), 20), "tensor 'b' at 17 leaves a gap"),
    "gap at the start": (packed(one(data_offsets=[4, 20]), 20), "leaves a gap"),
    "bytes left over": (packed(one(), 17), "tensors end at byte 16 of the data, the file has 17"),
    "data cut": (packed(one(), 15), "tensors end at byte 16 of the data, the file has 15"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_header(case: str, tmp_path: Path) -> None:
    data, message = HOSTILE[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=message) as caught:
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_truncated_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3), "b": torch.ones(2, 2)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_header(path)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_we_accept_the_library_accepts(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3), "b": torch.ones(2, 2, dtype=torch.bfloat16)}, path, {"format": "pt"})
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        tensors = read_header(path)
    except CheckpointError:
        return
    try:
        with safe_open(path, framework="pt") as file:
            assert set(file.keys()) == set(tensors)
    except SafetensorError as error:  # only what has nothing to do with tensors: a damaged __metadata__
        assert "metadata" in str(error).lower()  # noqa: PT017


def write_folder(folder: Path, shards: dict[str, list[str]] | None = None) -> dict[str, torch.Tensor]:
    """A model folder: one file, or the shards given as file name -> tensor names (the rest go to the last)."""
    folder.mkdir(exist_ok=True)
    weights = {name: tensor.clone() for name, tensor in stored_weights(tiny_model("qwen2")).items()}
    (folder / "config.json").write_text(json.dumps(COMMON | {"architectures": ["Qwen2ForCausalLM"]}))
    if shards is None:
        save_file(weights, folder / "model.safetensors")
        return weights
    for file, names in shards.items():
        save_file({name: weights[name] for name in names}, folder / file)
    write_index(folder, {name: file for file, names in shards.items() for name in names})
    return weights


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


NAMES = [f"model.layers.{layer}.mlp.{part}_proj.weight" for layer in (0, 1) for part in ("gate", "up")]
A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize("shards", [None, {A: NAMES[:3], B: NAMES[3:]}])
def test_every_tensor_comes_back(shards: dict[str, list[str]] | None, tmp_path: Path) -> None:
    weights = write_folder(tmp_path, shards)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.source == str(tmp_path)
    assert checkpoint.config["architectures"] == ["Qwen2ForCausalLM"]
    assert checkpoint.names() == set(NAMES if shards else weights)
    for name in checkpoint.names():
        for dtype in (torch.float32, torch.bfloat16):
            loaded = checkpoint.load(name, dtype)
            assert loaded.is_contiguous()
            assert torch.equal(loaded, weights[name].to(dtype))
        assert checkpoint.shape(name) == tuple(weights[name].shape)


def test_loaded_tensors_own_their_memory(tmp_path: Path) -> None:
    write_folder(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    first = checkpoint.load("model.norm.weight", torch.float32)
    kept = first.clone()
    first.zero_()
    second = checkpoint.load("model.norm.weight", torch.float32)
    assert torch.equal(second, kept)
    assert second.untyped_storage().nbytes() == 4 * second.numel()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_stored_types(dtype: torch.dtype, tmp_path: Path) -> None:
    write_folder(tmp_path)
    stored = torch.linspace(-2, 2, 7, dtype=dtype)
    save_file({"score.weight": stored, "scalar": torch.tensor(0.5, dtype=dtype)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert torch.equal(checkpoint.load("score.weight", torch.float32), stored.float())
    assert checkpoint.shape("scalar") == ()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.bool])
def test_types_that_are_no_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    write_folder(tmp_path)
    save_file({"a": torch.ones(4).to(dtype)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor 'a' is stored as \w+, expected one of F32"):
        open_checkpoint(tmp_path).load("a", torch.float32)


def test_unknown_name_gets_a_hint(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(CheckpointError, match=r"no tensor 'lm_head.weight'"):
        open_checkpoint(tmp_path).load("lm_head.weight", torch.float32)


def test_file_that_shrank_after_opening(tmp_path: Path) -> None:
    write_folder(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"cannot read tensor 'model\.norm\.weight'"):
        checkpoint.load("model.norm.weight", torch.float32)


BROKEN_INDEX: dict[str, tuple[Any, str]] = {
    "not a map": ([1], "weight_map must map"),
    "value is a number": ({"a": 1}, "weight_map must map"),
    "absolute path": ({NAMES[0]: "/etc/x.safetensors"}, "must be the name of a .safetensors file"),
    "path upwards": ({NAMES[0]: "../x.safetensors"}, "must be the name of a .safetensors file"),
    "pickle": ({NAMES[0]: "pytorch_model.bin"}, "must be the name of a .safetensors file"),
    "missing shard": (dict.fromkeys(NAMES, "model-3.safetensors"), "shard 'model-3.safetensors' is missing"),
    "leftover entry": (
        dict.fromkeys(NAMES[:3], A) | {NAMES[3]: B, "ghost.weight": A},
        f"are listed in {A} but are not there: ghost.weight",
    ),
    "entry in the wrong shard": (
        dict.fromkeys(NAMES[1:], A) | {NAMES[0]: B},
        f"listed in {A} but are not there: {NAMES[3]}",
    ),
    "unlisted tensor": (dict.fromkeys(NAMES[:2], A) | {NAMES[3]: B}, f"stored in {A} but not listed there: {NAMES[2]}"),
}


@pytest.mark.parametrize("case", BROKEN_INDEX)
def test_broken_index(case: str, tmp_path: Path) -> None:
    weight_map, message = BROKEN_INDEX[case]
    write_folder(tmp_path, {A: NAMES[:3], B: NAMES[3:]})
    write_index(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    weights = write_folder(tmp_path, {A: NAMES[:3], B: NAMES[3:]})
    save_file({name: weights[name] for name in NAMES[2:]}, tmp_path / B)
    with pytest.raises(CheckpointError, match=f"stored in two shards: {NAMES[2]}"):
        open_checkpoint(tmp_path)


def test_two_saves_in_one_folder(tmp_path: Path) -> None:
    weights = write_folder(tmp_path, {A: NAMES[:3], B: NAMES[3:]})
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"they come from two saves. Remove the one"):
        open_checkpoint(tmp_path)
    write_index(tmp_path, dict.fromkeys(weights, "model.safetensors"))
    assert open_checkpoint(tmp_path).names() == set(weights)  # other files that no index names do not matter


def test_an_index_that_names_some_of_the_shards(tmp_path: Path) -> None:
    c = "model-00003-of-00003.safetensors"
    for shards, message in (
        ({A: NAMES[:2]}, r"names 1 of the 2 shards model-\.\.\.-of-\.\.\.: model-00001-of-00002"),
        ({c: NAMES[:2], "model-00001-of-00003.safetensors": NAMES[2:]}, "names 2 of the 3 shards"),
        ({A: NAMES[:2], c: NAMES[2:]}, "names shards of several saves"),
    ):
        write_folder(tmp_path, shards)
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(tmp_path)
    write_folder(tmp_path, {"x-0-of-2.safetensors": NAMES[:2], "x-1-of-2.safetensors": NAMES[2:]})  # counted from 0
    assert open_checkpoint(tmp_path).names() == set(NAMES)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json", "m.gguf"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device", "loop"])
def test_what_is_no_file_is_not_waited_for(name: str, kind: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    path = tmp_path / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    else:
        path.symlink_to(path if kind == "loop" else "/dev/zero")
    if kind == "loop" and name.endswith("index.json"):
        return  # as good as absent
    with pytest.raises(CheckpointError):
        open_checkpoint(path if name == "m.gguf" else tmp_path)


def test_a_shard_that_is_a_pipe(tmp_path: Path) -> None:
    write_folder(tmp_path, {A: NAMES[:3], B: NAMES[3:]})
    (tmp_path / B).unlink()
    os.mkfifo(tmp_path / B)
    with pytest.raises(CheckpointError, match=f"{B} is a pipe, expected an ordinary file"):
        open_checkpoint(tmp_path)


def test_a_shape_of_100_000_dimensions_takes_no_time(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed(one(shape=[(1 << 62) - 1] * 100_000)))
    begin = time.perf_counter()
    with pytest.raises(CheckpointError, match="shape of tensor 'a' has 100000 numbers, at most 8 can be"):
        read_header(path)
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "config.json cannot be read: No such file"),
        ("{", "config.json: not valid JSON"),
        ("[]", "config.json: expected a JSON object"),
    ],
)
def test_config(config: str | None, message: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "config.json").unlink()
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("pytorch_model.bin", "pickled weights only.*save_pretrained"),
        ("consolidated.00.pt", "pickled weights only"),
        ("m.Q8_0.gguf", "To open a GGUF file, give its own path: m.Q8_0.gguf"),
        ("readme.md", "neither model.safetensors nor model.safetensors.index.json is there"),
    ],
)
def test_folder_without_safetensors(file: str, message: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / file)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_tokenizer_of_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"yes": 0, "no": 1}, unk_token="no"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert open_checkpoint(tmp_path).tokenizer().encode("yes") == [0]
