"""Value heads as files, and what they refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from branchwise.errors import CheckpointError, ConfigError, InputError
from branchwise.pair.judges import read_judges
from branchwise.scoring.function import PythonJudge
from branchwise.scoring.value_head import Calibration, ValueHead
from branchwise.types import Node


def head(width: int = 6, **changes: object) -> ValueHead:
    tensors = [torch.randn(4, width), torch.randn(4), torch.randn(1, 4), torch.randn(1)]
    given = {"policy": "llama, 7 weights, abc", "layers": (2, 3), "pooling": "mean+last", "after": True}
    made = {**given, "tensors": tensors, "calibration": Calibration(0.7, -0.1), "trained": {"auc": 0.8}} | changes
    return ValueHead(**made)  # type: ignore[arg-type]


def test_a_file_holds_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    made = head()
    made.save(path)
    read = ValueHead.load(path)
    assert all(torch.equal(one, other) for one, other in zip(read.tensors, made.tensors, strict=True))
    names = ("policy", "layers", "pooling", "after", "calibration", "trained", "parameters")
    assert all(getattr(read, name) == getattr(made, name) for name in names)
    assert read.source == str(path)


def test_what_is_no_head_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    with pytest.raises(CheckpointError, match="cannot read the value head"):
        ValueHead.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot read the value head"):
        ValueHead.load(path)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="is no value head of this version: expected a file that"):
        ValueHead.load(path)


@pytest.mark.parametrize(
    "damage",
    [
        {"layers": "x"}, {"layers": ["x"]}, {"pooling": "most"}, {"calibration": {}}, {"trained": None}, {"policy": 1},
        {"calibration": {"scale": "x", "shift": 0}},
    ],
)  # fmt: skip
def test_a_damaged_head_is_refused(tmp_path: Path, damage: dict[str, object]) -> None:
    path = tmp_path / "head.safetensors"
    about = {
        "policy": "p", "layers": [1], "pooling": "last", "after": False, "calibration": {"scale": 1, "shift": 0},
        "trained": {}, "format": 1,
    }  # fmt: skip
    metadata = {"branchwise_value_head": json.dumps(about | damage)}
    save_file({"0.weight": torch.zeros(1, 4), "0.bias": torch.zeros(1)}, path, metadata)
    with pytest.raises(CheckpointError, match=r"is damaged .*train it again"):
        ValueHead.load(path)


def test_tensors_must_fit_each_other(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    head(tensors=[torch.zeros(4, 6), torch.zeros(4), torch.zeros(2, 4), torch.zeros(2)]).save(path)
    with pytest.raises(CheckpointError, match="its tensors have the shapes"):
        ValueHead.load(path)


def test_another_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"another policy \(llama, 7 weights, abc\) than my/model \(other\)"):
        head().check("other", "my/model")
    head().check("llama, 7 weights, abc", "my/model")


def test_a_name_that_ends_in_safetensors_is_a_head(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    head().save(path)
    prm, (judge,) = read_judges(str(path), None)
    assert prm is None
    assert isinstance(judge, ValueHead)
    prm, (judge, other) = read_judges(["org/prm", path, zip], None)
    assert prm == "org/prm"
    assert isinstance(judge, ValueHead)
    assert isinstance(other, PythonJudge)
    with pytest.raises(ConfigError, match="2 value heads were named"):
        read_judges([path, path], None)


def test_what_it_reads_of_a_step() -> None:
    root = Node(0, None, 0, 0, 0)
    first = Node(1, root, 0, 1, 0, tokens=[1, 2, 3], logprob=-1.5)
    node = Node(2, first, 0, 2, 0, tokens=[4], logprob=-0.5, states=torch.arange(8.0))
    numbers = [-2.0, -0.5, -0.5, math.log(4)]
    wanted = {"none": [], "mean": [0.0, 1, 2, 3], "last": [4.0, 5, 6, 7], "mean+last": list(map(float, range(8)))}
    for pooling, states in wanted.items():
        assert head(pooling=pooling).features([node]).tolist() == [pytest.approx([*states, *numbers])]


@given(st.floats(-1e4, 1e4), st.floats(0.01, 5), st.floats(-3, 3))
def test_calibrated_scores_are_probabilities_in_the_same_order(z: float, scale: float, shift: float) -> None:
    calibrated = Calibration(scale, shift)
    assert 0 <= calibrated(z) <= calibrated(z + 1) <= 1
    assert math.isnan(calibrated(math.nan))
    assert math.isnan(calibrated(math.inf))


def test_given_texts_have_no_states() -> None:
    from branchwise.backend.cpu.backend import CpuBackend
    from branchwise.scoring.value_head import HeadScorer

    scorer = HeadScorer(head(), CpuBackend(), None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot score given texts; take a PRM"):
        scorer.check_text(0, "1+1=2")
    tree = scorer.open(Node(0, None, 0, 0, 0), "1+1=?")
    node = Node(1, tree.root, 0, 1, 0, text="2", tokens=[1], states=torch.full((2,), math.nan))
    assert scorer.submit(tree, node)
    assert not scorer.submit(tree, Node(2, tree.root, 1, 1, 0, text="\n\n"))
    assert scorer.poll() == [node]
    assert node.score is None
    assert node.unjudged == "value_head: the policy's states hold NaN or infinity"
    assert scorer.idle
