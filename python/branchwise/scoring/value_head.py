"""A value head: P(a solution ends with the right answer), read from the policy's own hidden states at a step's end.

There is no second model and no KV. The states are those that the engine keeps of every step (`engine/tap.py`), beside
them stands how likely the policy found what it wrote; a head of a layer or two makes a number of all that, and two more
numbers make that a probability (Platt scaling).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from branchwise.backend.base import Backend
from branchwise.engine.tap import Tap
from branchwise.errors import CheckpointError, ConfigError, InputError
from branchwise.scoring.queued import QueuedScorer, QueuedTree
from branchwise.shapes import misfit
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Node

Pooling = Literal["none", "mean", "last", "mean+last"]
KEY, FORMAT = "branchwise_value_head", 1
NUMBERS = 4  # of `step_numbers`
SUFFIX = ".safetensors"  # of a file that is named as a judge: a PRM is a folder, a GGUF file or a hub id


@dataclass(frozen=True, slots=True)
class Calibration:
    """From the head's number z to a probability: sigmoid(scale * z + shift)."""

    scale: float
    shift: float

    def __call__(self, z: float) -> float:
        """In fp64; NaN for what is no number."""
        x = self.scale * z + self.shift
        if not math.isfinite(x):
            return math.nan
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


@dataclass(frozen=True, slots=True)
class ValueHead:
    """A head for one policy.

    policy   which checkpoint it was trained for, see `weights/identity.py`
    layers   whose states it reads, side by side: the final norm's first, then by layer; (): none
    pooling  mean over the tokens of the branch so far, the last one, or both side by side; `step_numbers` follow
    after    the last state is that behind a step's last token, else the one it was drawn from
    tensors  fp32, W [out, in] and b [out] of each layer with ReLU between, the last of one row
    trained  what it was trained on, and how well it does on problems that it was not trained on
    """

    policy: str
    layers: tuple[int, ...]
    pooling: Pooling
    after: bool
    tensors: list[Tensor]
    calibration: Calibration
    trained: dict[str, Any] = field(default_factory=dict)
    source: str = "the value head"

    name = "value_head"  # among several judges

    @property
    def tap(self) -> Tap:
        """The states that the policy's engine has to keep for it."""
        return Tap(self.layers, self.after)

    @property
    def parameters(self) -> int:
        """Numbers in it."""
        return sum(tensor.numel() for tensor in self.tensors)

    def features(self, nodes: Sequence[Node]) -> Tensor:
        """What it reads of steps: [nodes, in] fp32, where their states are."""
        paths = [node.path for node in nodes]
        numbers = torch.tensor(
            [step_numbers([step.logprob for step in path], [len(step.tokens) for step in path]) for path in paths]
        )
        if self.pooling == "none":
            return numbers
        states = torch.stack([node.states for node in nodes])
        half = states.shape[1] // 2
        parts = {"mean": slice(0, half), "last": slice(half, None), "mean+last": slice(None)}
        return torch.cat([states[:, parts[self.pooling]], numbers.to(states.device)], dim=1)

    def check(self, policy: str, source: str) -> None:
        """Raise ConfigError unless the policy is the one that it was trained for."""
        if policy != self.policy:
            raise ConfigError(
                f"{self.source} was trained for another policy ({self.policy}) than {source} ({policy}): a value head "
                "reads the states of its own policy alone; train one for this policy with branchwise train-head"
            )

    def check_states(self, layers: int, hidden: int) -> None:
        """Raise CheckpointError unless it reads states that a model of so many layers and this width has."""
        read = {"none": 0, "mean": 1, "last": 1, "mean+last": 2}[self.pooling] * hidden * len(self.layers)
        known = len(set(self.layers)) == len(self.layers) and all(1 <= layer <= layers for layer in self.layers)
        inputs = self.tensors[0].shape[1]
        if not known or inputs != read + NUMBERS:
            raise CheckpointError(
                f"the value head {self.source} is damaged: it reads {inputs} numbers of the layers {self.layers}, its"
                f" policy has {layers} layers of {hidden}; train it again"
            )

    def save(self, path: str | Path) -> None:
        """Write it as one safetensors file, all but the numbers in its metadata. CheckpointError: it cannot be."""
        about = {
            "format": FORMAT, "policy": self.policy, "layers": self.layers, "pooling": self.pooling,
            "after": self.after, "calibration": asdict(self.calibration), "trained": self.trained,
        }  # fmt: skip
        named = {f"{i // 2}.{('weight', 'bias')[i % 2]}": each.contiguous() for i, each in enumerate(self.tensors)}
        try:
            save_file(named, str(path), {KEY: json.dumps(about)})
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot write the value head {path}: {error}; choose another --out") from error

    @classmethod
    def load(cls, path: str | Path) -> ValueHead:
        """Read one. CheckpointError: there is none, or it is damaged."""
        try:
            with safe_open(str(path), "pt") as file:
                about = _about(path, file.metadata() or {})
                tensors = [file.get_tensor(name).float() for name in sorted(file.keys(), key=_order)]
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read the value head {path}: {error}") from error
        wrong = misfit(about, _About) or _mismatch(tensors)
        if wrong:
            raise CheckpointError(f"the value head {path} is damaged ({wrong}): train it again")
        return cls(
            about["policy"], tuple(about["layers"]), about["pooling"], about["after"], tensors,
            Calibration(**about["calibration"]), about["trained"], str(path),
        )  # fmt: skip


def _mismatch(tensors: Sequence[Tensor]) -> str | None:
    """What is wrong with the tensors of a head; None: nothing."""
    shapes = [tuple(each.shape) for each in tensors]
    weights, biases = shapes[::2], shapes[1::2]
    if any(len(shape) != 2 for shape in weights) or biases != [shape[:1] for shape in weights]:
        return f"its tensors have the shapes {shapes}"
    if not shapes or weights[-1][0] != 1 or [wide for _, wide in weights[1:]] != [rows for rows, _ in weights[:-1]]:
        return f"its tensors have the shapes {shapes}"
    return None if all(bool(each.isfinite().all()) for each in tensors) else "its tensors hold NaN or infinity"


def step_numbers(logprobs: Sequence[float], tokens: Sequence[int]) -> list[float]:
    """How likely the policy found a branch: its log-probability, the same a token, that of the last step, its length.

    logprobs, tokens: of the steps of the branch, to the one that is scored
    """
    total, count = math.fsum(logprobs), sum(tokens)
    return [total, total / max(1, count), logprobs[-1] / max(1, tokens[-1]), math.log(max(1, count))]


def _order(name: str) -> tuple[int, bool]:
    layer, _, kind = name.partition(".")
    return int(layer) if layer.isdecimal() else 0, kind == "bias"


class _About(TypedDict):
    """What the file says beside its tensors, see `ValueHead`."""

    policy: str
    layers: list[int]
    pooling: Pooling
    after: bool
    calibration: Annotated[dict[str, float], Calibration]
    trained: dict[str, Any]


def _about(path: str | Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        about = json.loads(metadata.get(KEY, ""))
    except ValueError:
        about = None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no value head of this version: expected a file that branchwise train-head has written; a PRM is"
            " a folder, a .gguf file or a hub id"
        )
    return about


@dataclass(slots=True, eq=False)
class HeadTree(QueuedTree):
    """One problem as the head sees it. read: steps"""

    read: int = 0


class HeadScorer(QueuedScorer[HeadTree]):
    """A `Judge` that reads a head. A score depends on its branch alone, not on what is scored beside it."""

    def __init__(self, head: ValueHead, backend: Backend, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self.head = head
        self._backend = backend
        self._number = backend.prm_head("logit", head.tensors)

    def flops(self, tree: HeadTree) -> float:
        """All that a tree cost: two for each number of the head and step."""
        return 2.0 * self.head.parameters * tree.read

    def open(self, root: Node, question: str, **sizes: Any) -> HeadTree:
        """Start a tree; nothing is held."""
        return HeadTree(root, question)

    def check_text(self, index: int, text: str) -> None:
        """InputError: there are no states of texts that the policy has not written."""
        raise InputError(
            f"{self.head.source} reads the states of steps while its policy writes them: it cannot score given texts; "
            "take a PRM for these"
        )

    def poll(self, *, least: int = 1, alone: bool = False) -> list[Node]:
        """Score all that waits; the steps whose scores became known."""
        queue = self._take()
        nodes = list(queue)
        if not nodes:
            return []
        with self._backend.stream("policy"):
            numbers = self._number(self._backend.tensor(self.head.features(nodes)))
        for node, number in zip(nodes, numbers.tolist(), strict=True):
            score = self.head.calibration(number)
            if math.isnan(score):
                node.unjudged = f"{self.head.name}: the policy's states hold NaN or infinity"
            else:
                node.score = score
            node.states = None  # read, and large
            queue[node].read += 1
        return nodes
