"""From a checkpoint to a decoder: names checked first, then one tensor at a time is read, packed and let go."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from branchwise.backend.base import Backend, Embedding, KeptLayers, Linear, WeightCache
from branchwise.backend.memory import return_freed
from branchwise.errors import CheckpointError
from branchwise.models.config import DecoderConfig, decoder_config
from branchwise.models.decoder import Decoder, Layer
from branchwise.models.layout import laid_out
from branchwise.models.rope import RopeTables
from branchwise.weights.blocks import Matrix
from branchwise.weights.checkpoint import Checkpoint
from branchwise.weights.matrix import EMBEDDING, HEAD, head_name, read_matrix
from branchwise.weights.read_ahead import ReadAhead

# In the order in which a layer is put together
_MATRICES = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
_IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "masked_bias", ".attn.bias")


def load_decoder(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    backend: Backend,
    extra: Iterable[str] = (),
    head: bool = True,
    weights: str = "dense",
    cache: WeightCache | None = None,
) -> Decoder:
    """Read a decoder in `dtype`, each tensor straight to its place on the backend.

    extra: names of tensors that belong to somebody else (a PRM's head); head: whether lm_head is wanted;
    weights: form of its matrices, as `EngineConfig.weights` names it; cache: where they are kept as they are packed.
    CheckpointError names every missing and every leftover tensor, and any whose shape does not fit the config.
    """
    config = decoder_config(checkpoint.config, checkpoint.source)
    backend.kv_width(config.head_dim)  # heads that its kernels cannot take are told before anything is read
    _warn_of_context(config, checkpoint)
    reader = _Reader(laid_out(checkpoint, config), dtype, expected_shapes(config), backend, weights)
    reader.check_names(set(extra))
    words = head_name(checkpoint, config.tied) if head else None
    kept = None if cache is None else cache.model(checkpoint, dtype, weights, head)
    decoder = None if kept is None else kept.read(lambda layers: _build(reader, config, words, _FromCache(layers)))
    if decoder is None:
        packed: dict[str, Any] = {}
        names = [f"model.layers.{index}.{name}.weight" for index in range(config.n_layers) for name in _MATRICES]
        with ReadAhead(reader.matrix, names) as matrix:
            decoder = _build(reader, config, words, _FromCheckpoint(reader, matrix, packed))
        if kept is not None:
            kept.write(packed)
    return decoder


def _warn_of_context(config: DecoderConfig, checkpoint: Checkpoint) -> None:
    given = checkpoint.config.get("max_position_embeddings")
    if isinstance(given, int) and config.max_positions < given:
        warnings.warn(
            f"{checkpoint.source}: the context is {config.max_positions} tokens, not {given}: beyond, the model turns "
            "all of a text by other frequencies (longrope), which a text that is growing cannot follow",
            UserWarning, 3,
        )  # fmt: skip


def _build(reader: _Reader, config: DecoderConfig, head: str | None, source: _Source) -> Decoder:
    backend, dtype = reader.backend, reader.dtype
    embedding = backend.embedding(reader.rows(EMBEDDING), config.vocab_size, config.hidden_size, dtype)
    layers = []
    for index in range(config.n_layers):
        layers.append(_load_layer(reader, source, config, index))
        return_freed()
    tied = embedding if head == EMBEDDING else None
    output = source.head(head, config.vocab_size, tied) if head else None
    final_norm = reader.load("model.norm.weight")
    if head and config.logit_divisor != 1.0:
        final_norm = (final_norm.float() / config.logit_divisor).to(dtype)
    rope = RopeTables(config.ropes, config.head_dim, config.max_positions, backend)
    return_freed()
    return Decoder(backend, config, dtype, embedding, layers, final_norm, output, rope)


def _load_layer(reader: _Reader, source: _Source, config: DecoderConfig, index: int) -> Layer:
    prefix = f"model.layers.{index}."
    before, after, before_mlp, after_mlp = config.family.norms
    qk_norm = config.family.qk_norm

    def norm(name: str, wanted: bool = True) -> Tensor | None:
        return reader.load(f"{prefix}{name}.weight") if wanted else None

    def linear(bias: bool, *names: str) -> Linear:
        biases = [reader.load(f"{prefix}{name}.bias") for name in names] if bias else None
        return source.linear([prefix + name for name in names], torch.cat(biases) if biases else None)

    return Layer(
        input_norm=reader.load(f"{prefix}{before}.weight"),
        qkv=linear(config.qkv_bias, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        q_norm=norm("self_attn.q_norm", qk_norm),
        k_norm=norm("self_attn.k_norm", qk_norm),
        output=linear(config.output_bias, "self_attn.o_proj"),
        attention_norm=norm(after, bool(after)),
        mlp_norm=reader.load(f"{prefix}{before_mlp}.weight"),
        gated=source.gated(f"{prefix}mlp.gate_proj", f"{prefix}mlp.up_proj", config.activation),
        down=linear(False, "mlp.down_proj"),
        post_mlp_norm=norm(after_mlp, bool(after_mlp)),
    )


def expected_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the decoder by its Hugging Face name, lm_head included."""
    hidden, head_dim, inner = config.hidden_size, config.head_dim, config.intermediate_size
    query, key = config.n_heads * head_dim, config.n_kv_heads * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (config.vocab_size, hidden),
    }
    layer: dict[str, tuple[int, ...]] = {
        **{f"{norm}.weight": (hidden,) for norm in config.family.norms if norm},
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (key, hidden),
        "self_attn.v_proj.weight": (key, hidden),
        "self_attn.o_proj.weight": (hidden, query),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    if config.qkv_bias:
        layer |= {f"self_attn.{name}_proj.bias": (size,) for name, size in (("q", query), ("k", key), ("v", key))}
    if config.output_bias:
        layer["self_attn.o_proj.bias"] = (hidden,)
    if config.family.qk_norm:
        layer |= {"self_attn.q_norm.weight": (head_dim,), "self_attn.k_norm.weight": (head_dim,)}
    for index in range(config.n_layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


class _Source(Protocol):
    """Where layers come from; names: of their matrices, without `.weight`."""

    def linear(self, names: list[str], bias: Tensor | None) -> Linear: ...

    def gated(self, gate: str, up: str, activation: str) -> Linear: ...

    def head(self, name: str, words: int, tied: Embedding | None) -> Any: ...


class _FromCheckpoint:
    """Layers from the checkpoint's matrices. They are also put into `packed`, by the name of their first matrix."""

    def __init__(self, reader: _Reader, matrix: Callable[[str], Matrix], packed: dict[str, Any]) -> None:
        self.reader = reader
        self.matrix = matrix
        self.packed = packed

    def linear(self, names: list[str], bias: Tensor | None) -> Linear:
        parts = [self.matrix(f"{name}.weight") for name in names]
        return self._done(names[0], self.reader.backend.linear(parts, bias))

    def gated(self, gate: str, up: str, activation: str) -> Linear:
        both = self.matrix(f"{gate}.weight"), self.matrix(f"{up}.weight")
        return self._done(gate, self.reader.backend.gated(*both, activation))

    def head(self, name: str, words: int, tied: Embedding | None) -> Any:
        self.packed["lm_head"] = output = self.reader.backend.head(self.reader.matrix_rows(name), words, tied)
        return output

    def _done(self, name: str, layer: Linear) -> Linear:
        self.packed[name] = layer
        return layer


class _FromCache:
    """Layers that the backend kept: no matrix is read."""

    def __init__(self, kept: KeptLayers) -> None:
        self.kept = kept

    def linear(self, names: list[str], bias: Tensor | None) -> Linear:
        return self.kept.linear(names[0], bias)

    def gated(self, gate: str, up: str, activation: str) -> Linear:
        return self.kept.gated(gate, activation)

    def head(self, name: str, words: int, tied: Embedding | None) -> Any:
        return self.kept.head("lm_head")


class _Reader:
    """Reads tensors by their canonical names and checks them against the shapes that the config implies."""

    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype, shapes: dict[str, tuple[int, ...]], backend: Backend,
        weights: str,
    ) -> None:  # fmt: skip
        self.checkpoint = checkpoint
        self.dtype = dtype
        self.shapes = shapes
        self.backend = backend
        self.weights = weights

    def check_names(self, extra: set[str]) -> None:
        """Compare names and shapes before anything is read."""
        source, names = self.checkpoint.source, self.checkpoint.names()
        missing = sorted(set(self.shapes) - names - {HEAD})  # of which `head_name` tells more
        leftover = sorted(n for n in names - set(self.shapes) - extra if not n.endswith(_IGNORED_SUFFIXES))
        if missing:
            close = difflib.get_close_matches(missing[0], leftover, n=1)
            hint = f"; the file has {close[0]!r} instead" if close else ""
            raise CheckpointError(f"{source}: {len(missing)} tensors are missing: {_some(missing)}{hint}")
        if leftover:
            raise CheckpointError(
                f"{source}: {len(leftover)} tensors have no place in a {self.checkpoint.config.get('model_type')} "
                f"decoder: {_some(leftover)}; is config.json the one of this checkpoint?"
            )
        for name, expected in self.shapes.items():
            if name in names and tuple(self.checkpoint.shape(name)) != expected:
                given = tuple(self.checkpoint.shape(name))
                raise CheckpointError(f"{source}: {name} has shape {given}; its config implies {expected}")

    def load(self, name: str) -> Tensor:
        return self.backend.tensor(self.checkpoint.load(name, self.dtype))

    def rows(self, name: str) -> Callable[[int, int], Tensor]:
        """Reads rows [begin, end) of a table."""
        return lambda begin, end: self.checkpoint.load_rows(name, begin, end, self.dtype)

    def matrix(self, name: str) -> Matrix:
        return read_matrix(self.checkpoint, name, self.weights, self.dtype)

    def matrix_rows(self, name: str) -> Callable[[int, int], Matrix]:
        """Reads rows [begin, end) of the lm_head."""
        return lambda begin, end: read_matrix(self.checkpoint, name, self.weights, self.dtype, (begin, end))


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
