"""What `open_checkpoint` takes a source for: folder, GGUF file, hub id, or a mistake with a way out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from branchwise.errors import CheckpointError
from branchwise.weights import open_checkpoint
from branchwise.weights.hub import is_hub_id
from weights.samples import stored_weights, tiny_model, write_gguf
from weights.test_safetensors_file import write_folder


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "model.pth", "model.pkl", "model.ckpt"])
def test_pickle_is_never_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(CheckpointError, match=r"is a pickle.*safetensors"):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_file_of_a_folder(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(CheckpointError, match=f"Give its folder: {tmp_path}"):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "source", ["", "no-such-folder", "./no/such", "/no/such", "a/b/c", "models/x.gguf", "a/b@c", "a//b"]
)
def test_nothing_there(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(CheckpointError, match=r"no model at|config\.json cannot be read"):
        open_checkpoint(source)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", True),
        ("a/b", True),
        ("peiyi9979/math-shepherd-mistral-7b-prm", True),
        ("gpt2", False),
        ("../b", False),
        ("a/..", False),
        ("a/b.", False),
        ("-a/b", False),
        ("a/b/c", False),
        ("a/b\n", False),
        ("a/" + "b" * 97, False),
        ("ä/b", False),
        ("a/b.gguf", False),
    ],
)
def test_shape_of_a_hub_id(source: str, expected: bool) -> None:
    assert is_hub_id(source) is expected


@pytest.mark.parametrize("source", ["~no-such-user/x", "a" * 5000, "a\0b"])
def test_impossible_path(source: str) -> None:
    with pytest.raises(CheckpointError, match="no model at"):
        open_checkpoint(source)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "m.gguf", "llama", tiny_model("llama"))

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=r"m\.gguf cannot be read: Permission denied"):
        open_checkpoint(path)


def test_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = write_folder(tmp_path / "snapshot")
    asked: list[Any] = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        asked.append((repo_id, allow_patterns))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    checkpoint = open_checkpoint("some/model")
    assert checkpoint.source == "some/model"
    assert checkpoint.names() == set(weights)
    files = ["*.json", "*.jinja", "reward_head.safetensors"]
    assert asked == [("some/model", files), ("some/model", [*files, "model.safetensors"])]


def test_hub_id_fetches_the_shards_that_the_index_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(stored_weights(tiny_model("qwen2")))
    shards = {"weights.1.safetensors": names[:5], "pytorch_model-x.safetensors": names[5:]}
    remote, cache = tmp_path / "remote", tmp_path / "cache"
    write_folder(remote, shards)
    cache.mkdir()

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        for path in remote.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, cache)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("some/model").names() == set(names)


def test_folder_wins_over_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some").mkdir()
    write_folder(tmp_path / "some" / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert open_checkpoint("some/model").config["vocab_size"] == 96


def test_hub_out_of_reach(tmp_path: Path) -> None:
    code = (
        "from branchwise.errors import CheckpointError\n"
        "from branchwise.weights import open_checkpoint\n"
        "try: open_checkpoint('some/model')\n"
        "except CheckpointError as error: print(error)"
    )
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "cannot get 'some/model' from the model hub" in done.stdout
    assert "Check the id and the network" in done.stdout


@pytest.mark.parametrize("error", [OSError("x"), ValueError("x"), huggingface_hub.errors.HTTPError("x")])
def test_hub_errors(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repo_id: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=type(error).__name__):
        open_checkpoint("some/model")


def test_path_and_text_are_the_same(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "weights of a model", "llama", tiny_model("llama"))  # known by content, not by suffix
    assert open_checkpoint(path).names() == open_checkpoint(str(path)).names()
    assert open_checkpoint(path).source == str(path)


def test_import_is_light() -> None:
    code = "import sys, branchwise.weights; assert not {'torch', 'numpy', 'gguf', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(filter(None, sys.path))}, check=True)
