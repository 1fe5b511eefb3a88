"""The cache of packed weights changes how long a start takes, and nothing else: not results, and not what may fail."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gguf import GGMLQuantizationType as Kind

import branchwise as bw
from branchwise import _C
from branchwise.assets import asset_path
from branchwise.backend.cpu import packed_file, weight_cache
from branchwise.backend.cpu.weight_cache import PackedFolder
from branchwise.errors import ConfigError
from branchwise.models.decoder import Decoder
from branchwise.weights import open_checkpoint
from checkpoints import FAMILY_CONFIGS, MemoryCheckpoint, random_checkpoint
from model_tools import all_logits, cpu_decoder
from weights.samples import tiny_model, write_gguf

TOKENS = list(range(3, 43))


class FileCheckpoint(MemoryCheckpoint):
    """A random model that comes from a file, and knows which of its tensors were read."""

    def __init__(self, file: Path, family: str = "qwen2", **overrides: object) -> None:
        made = random_checkpoint(family, seed=3, **overrides)
        super().__init__(made.config, made.tensors, made.tokenizer())
        self.source = str(file)
        self.read: set[str] = set()
        if not file.exists():
            file.write_bytes(b"weights")

    def files(self) -> list[Path]:
        return [Path(self.source)]

    def load(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        self.read.add(name)
        return super().load(name, dtype)

    def load_rows(self, name: str, begin: int, end: int, dtype: torch.dtype) -> torch.Tensor:
        self.read.add("rows of " + name)
        return super().load_rows(name, begin, end, dtype)

    @property
    def matrices(self) -> set[str]:
        return {name for name in self.read if name.endswith("_proj.weight") or name.startswith("rows")}


@pytest.fixture
def model(tmp_path: Path) -> FileCheckpoint:
    return FileCheckpoint(tmp_path / "tiny.gguf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "made" / "here"


def load(model: object, folder: Path, dtype: torch.dtype = torch.float32, form: str = "int8", **options) -> Decoder:
    return cpu_decoder(model, dtype, weights=form, cache=PackedFolder(folder), **options)


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("int8", torch.float32),
        ("q4", torch.bfloat16),
        ("q8", torch.float32),
        ("dense", torch.float32),
        ("dense", torch.bfloat16),
    ],
)
def test_logits_are_the_same_bit_for_bit_and_no_matrix_is_read(
    family: str, form: str, dtype: torch.dtype, tmp_path: Path, folder: Path
) -> None:
    wide = {"intermediate_size": 80} if form in ("int8", "dense") else {}  # not whole panels: gate and up stay apart
    model = FileCheckpoint(tmp_path / "tiny.gguf", family, **wide)
    expected = all_logits(cpu_decoder(model, dtype, weights=form), TOKENS)
    assert torch.equal(all_logits(load(model, folder, dtype, form), TOKENS), expected)
    model.read.clear()
    decoder = load(model, folder, dtype, form)
    assert model.matrices == set()
    assert "model.norm.weight" in model.read
    assert torch.equal(all_logits(decoder, TOKENS), expected)
    assert [each.name.startswith("tiny-") for each in folder.iterdir()] == [True]


def test_blocks_of_a_file_are_kept_in_all_their_formats(tmp_path: Path, folder: Path) -> None:
    def kind_of(name: str) -> Kind | None:
        kinds = {"q_proj": Kind.Q4_1, "v_proj": Kind.Q8_0, "gate_proj": Kind.Q5_1, "up_proj": Kind.F16}
        part = name.split(".")[-2]
        return kinds.get(part, Kind.Q4_0) if part.endswith("_proj") or part == "embed_tokens" else None

    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", "qwen2", tiny_model("qwen2"), kind_of=kind_of))
    expected = all_logits(load(checkpoint, folder, form="stored"), TOKENS)
    again = load(checkpoint, folder, form="stored")
    assert len(again.layers[0].qkv.packed) == 3
    assert torch.equal(all_logits(again, TOKENS), expected)


def test_every_form_and_state_of_a_model_has_a_file_of_its_own(model: FileCheckpoint, folder: Path) -> None:
    def path(dtype: torch.dtype = torch.float32, form: str = "int8", head: bool = True) -> Path:
        return PackedFolder(folder).model(model, dtype, form, head).path

    seen = [path(), path(torch.bfloat16), path(form="q4"), path(head=False)]
    file = model.files()[0]
    state = file.stat()
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    seen.append(path())
    file.write_bytes(b"others")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    seen.append(path())
    file = file.rename(file.with_name("other.gguf"))
    model.source = str(file)
    seen.append(path())
    assert len(set(seen)) == len(seen)
    assert path() == seen[-1]


def test_the_key_changes_with_the_version_and_the_layout(model: FileCheckpoint, folder: Path, monkeypatch) -> None:
    def path() -> Path:
        return PackedFolder(folder).model(model, torch.float32, "int8", True).path

    before = path()
    monkeypatch.setattr(weight_cache, "_C", SimpleNamespace(PANEL_FORMAT=_C.PANEL_FORMAT + 1))
    assert path() != before
    monkeypatch.undo()
    monkeypatch.setattr(weight_cache, "__version__", "0.0.0")
    assert path() != before


def test_a_new_file_replaces_those_of_earlier_states(model: FileCheckpoint, folder: Path, monkeypatch) -> None:
    load(model, folder)
    load(model, folder, form="q4")
    others = {path.name for path in folder.iterdir()}
    monkeypatch.setattr(weight_cache, "__version__", "0.0.0")
    load(model, folder)
    names = {path.name for path in folder.iterdir()}
    assert len(names) == len(others) == 2
    assert len(names & others) == 1, "the file of another form is gone"


def test_folders_and_files_of_models_are_named(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(asset_path("policy-small"))
    assert {path.name for path in checkpoint.files()} == {"config.json", "model.safetensors"}
    gguf = write_gguf(tmp_path / "m.gguf", "llama", tiny_model("llama"))
    assert open_checkpoint(gguf).files() == [gguf]


@pytest.mark.parametrize("damage", ["byte", "end", "all"])
def test_a_damaged_file_is_told_and_made_anew(damage: str, model: FileCheckpoint, folder: Path) -> None:
    expected = all_logits(load(model, folder), TOKENS)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    half = len(whole) // 2
    changed = {"byte": whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :], "end": whole[:half], "all": b""}
    path.write_bytes(changed[damage])
    what = {"byte": "the checksum of tensor [a-z]", "end": "cannot be read", "all": "cannot be read"}[damage]
    with pytest.warns(RuntimeWarning, match=rf"{path.name}:? {what}.* packed anew"):
        assert torch.equal(all_logits(load(model, folder), TOKENS), expected)
    assert path.stat().st_size == len(whole)
    model.read.clear()
    again = load(model, folder)
    assert model.matrices == set()
    assert torch.equal(all_logits(again, TOKENS), expected)


def test_where_no_file_can_be_written_the_model_works(model: FileCheckpoint, folder: Path, monkeypatch) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"some of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_file, "save_file", full)
    expected = all_logits(cpu_decoder(model, torch.float32, weights="int8"), TOKENS)
    with pytest.warns(RuntimeWarning, match=r"tiny-.*could not be written: .*No space left.*make room"):
        decoder = load(model, folder)
    assert torch.equal(all_logits(decoder, TOKENS), expected)
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path, model: FileCheckpoint, folder: Path, monkeypatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    for given in (file, file / "below"):
        with pytest.raises(ConfigError, match=r"weight_cache='.*file.*' is, or lies in, a file: name a folder"):
            PackedFolder(given)
    with pytest.raises(ConfigError, match="weight_cache=''"):
        bw.Engine(weight_cache="")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    load(model, folder)
    monkeypatch.setattr(weight_cache.tempfile, "TemporaryFile", denied)
    load(model, folder)  # is there already: nothing need be written
    model.read.clear()
    with pytest.raises(ConfigError, match=r"here' cannot be written: Permission denied. Name a folder"):
        load(model, folder, form="q4")
    assert model.read == set(), "the model was read first"
    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(ConfigError, match="cannot be written"):
        PackedFolder(tmp_path / "new")


def test_a_gpu_keeps_no_weights(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="the backends of the GPU need Triton")
    from branchwise.backend.gpu.backend import TritonBackend

    with pytest.raises(ConfigError, match=r"device 'triton' takes them from the checkpoint: .* device='cpu'"):
        TritonBackend(torch.device("cpu")).weight_cache(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("form", "dtype"), [("int8", "auto"), ("dense", "float32"), ("dense", "bfloat16")])
def test_two_engines_after_another_give_the_same_tree(form: str, dtype: str, folder: Path) -> None:
    def answer(cache: Path | None) -> str:
        with bw.Engine(weights=form, dtype=dtype, weight_cache=cache, max_tokens=60) as engine:
            result = engine.solve("12+34-5=?", "beam", n=4)
            return repr([(each.text, each.score) for each in result.candidates])

    expected = answer(None)
    assert [answer(folder) for _ in range(3)] == [expected] * 3
    assert len(list(folder.iterdir())) == 2
