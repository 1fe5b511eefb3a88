"""The shape of one decoder, read from a Hugging Face style config; whatever it cannot honour is an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from branchwise.errors import CheckpointError
from branchwise.models.families import ALIASES, FAMILIES, LLAMA_DEFAULTS, REFUSED, Family
from branchwise.models.fields import Fields
from branchwise.models.rope import NO_ROPE, Rope, RopeShape, read_rope

MOST_LAYERS, LARGEST_HEAD = 1000, 4096  # of a config that is believed
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
_FULL, _SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Shape of one decoder. `windows[layer]` 0 means global attention; layer i is rotated by `ropes[rope_of[i]]`."""

    family: Family
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int  # the context: of the checkpoint, or what its RoPE holds for
    eps: float
    tied: bool  # the embedding serves as lm_head where none is stored: see `head_name`
    qkv_bias: bool
    output_bias: bool
    activation: str
    embedding_scale: float
    scale: float  # of attention logits
    logit_divisor: float
    attention_softcap: float
    final_softcap: float
    ropes: tuple[Rope, ...]
    rope_of: tuple[int, ...]
    windows: tuple[int, ...]

    @property
    def rotary_width(self) -> int:
        """Dimensions of a head that RoPE turns."""
        return 2 * max(len(rope.frequencies) for rope in self.ropes)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of K and V of one token at two bytes a number."""
        return self.n_layers * 2 * self.n_kv_heads * self.head_dim * 2

    @property
    def matmul_parameters(self) -> int:
        """Parameters a token is multiplied with, lm_head included: FLOPs of a token are twice this."""
        attention = self.hidden_size * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size
        return self.n_layers * layer + self.hidden_size * self.vocab_size


def decoder_config(config: dict[str, Any], source: str) -> DecoderConfig:
    """Read a Hugging Face config.

    CheckpointError: an unknown or refused architecture, a field of the wrong type, one that asks for other arithmetic.
    """
    name, family = _family(config, source)
    fields = Fields(config, source, {**LLAMA_DEFAULTS, **family.defaults})
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    layers = fields.integer("num_hidden_layers", most=MOST_LAYERS)
    kv_heads = fields.optional_integer("num_key_value_heads") or heads
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", f"a divisor of num_attention_heads, {heads}")
    head_dim = fields.optional_integer("head_dim") or hidden // heads
    if head_dim % 2 or not 2 <= head_dim <= LARGEST_HEAD:
        raise fields.error("head_dim", f"an even number up to {LARGEST_HEAD}; hidden_size / num_attention_heads is "
                           f"{hidden / heads:g}")  # fmt: skip
    positions = fields.integer("max_position_embeddings")
    windows = _windows(fields, family, layers)
    ropes, rope_of = _ropes(fields, family, head_dim, windows, positions)
    residual = fields.number("residual_multiplier") if family.multipliers else 1.0
    scalar = fields.number("query_pre_attn_scalar") if family.softcaps else float(head_dim)
    softcaps = [
        (fields.optional_number(f"{what}_logit_softcapping") or 0.0) if family.softcaps else 0.0
        for what in ("attn", "final")
    ]
    read = DecoderConfig(
        family=family,
        hidden_size=hidden,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=fields.integer("intermediate_size"),
        vocab_size=fields.integer("vocab_size"),
        max_positions=min([positions, *(rope.context for rope in ropes if rope.context)]),
        # Residuals are kept divided by their multiplier, which norms do not notice but for their epsilon.
        eps=fields.number("rms_norm_eps") / residual**2,
        tied=fields.flag("tie_word_embeddings"),
        qkv_bias=_bias(fields, family.qkv_bias),
        output_bias=_bias(fields, family.output_bias),
        activation=_activation(fields, name, family),
        embedding_scale=_embedding_scale(fields, family, hidden) / residual,
        scale=fields.number("attention_multiplier") if family.multipliers else scalar**-0.5,
        logit_divisor=fields.number("logits_scaling") if family.multipliers else 1.0,
        attention_softcap=softcaps[0],
        final_softcap=softcaps[1],
        ropes=ropes,
        rope_of=rope_of,
        windows=windows,
    )
    fields.check_rest(name)
    return read


def _family(config: dict[str, Any], source: str) -> tuple[str, Family]:
    name = config.get("model_type")
    if not isinstance(name, str):
        raise CheckpointError(f"{source}: config field 'model_type' is {str(name)[:80]!r}; expected a name")
    family = FAMILIES.get(ALIASES.get(name, name))
    if family is not None:
        return name, family
    classes = config.get("architectures")
    called = f" ({classes[0]})" if isinstance(classes, list) and classes and isinstance(classes[0], str) else ""
    if reason := REFUSED.get(name):
        raise CheckpointError(f"{source}: architecture {name!r}{called} is not supported: {reason}")
    raise CheckpointError(
        f"{source}: architecture {name!r}{called} is not supported; branchwise runs {', '.join(sorted(FAMILIES))} "
        "(config.json, field model_type)"
    )


def _bias(fields: Fields, wanted: bool | str) -> bool:
    return fields.flag(wanted) if isinstance(wanted, str) else wanted


def _activation(fields: Fields, name: str, family: Family) -> str:
    given = fields.text(family.activation)
    if name == "gemma" and given == "gelu":  # what the first Gemma configs call it
        given = "gelu_pytorch_tanh"
    if given not in _ACTIVATIONS:
        raise fields.error(family.activation, f"one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[given]


def _embedding_scale(fields: Fields, family: Family, hidden: int) -> float:
    if family.root_embedding:
        return float(hidden**0.5)
    return fields.number("embedding_multiplier") if family.multipliers else 1.0


def _windows(fields: Fields, family: Family, layers: int) -> tuple[int, ...]:
    """Sliding window of every layer in tokens, 0 where attention is global."""
    if not family.window:
        return (0,) * layers
    window = fields.optional_integer("sliding_window") or 0
    if family.window != "always" and not fields.flag(family.window):
        window = 0
    kinds = fields.get("layer_types")
    if kinds is None:
        kinds = _kinds(fields, family, layers)
    if not isinstance(kinds, list) or len(kinds) != layers or not all(kind in (_FULL, _SLIDING) for kind in kinds):
        raise fields.error("layer_types", f"{layers} of {_FULL!r} or {_SLIDING!r}")
    return tuple(window if kind == _SLIDING else 0 for kind in kinds)


def _kinds(fields: Fields, family: Family, layers: int) -> list[str]:
    """`layer_types` where the config has none."""
    if family.period:
        old = "sliding_window_pattern" if fields.get("sliding_window_pattern") else "_sliding_window_pattern"
        period = fields.integer(old, family.period)
        return [_SLIDING if (layer + 1) % period else _FULL for layer in range(layers)]
    if family.some_without_rope:
        return [_FULL if rotated else _SLIDING for rotated in _rotated(fields, layers)]
    first = fields.integer("max_window_layers", 0, least=0) if family.window == "use_sliding_window" else 0
    return [_SLIDING if layer >= first else _FULL for layer in range(layers)]


def _ropes(
    fields: Fields, family: Family, head_dim: int, windows: tuple[int, ...], positions: int
) -> tuple[tuple[Rope, ...], tuple[int, ...]]:
    """The kinds of RoPE, and which of them every layer has."""
    old, new = fields.nested("rope_scaling"), fields.nested("rope_parameters")
    rules, local = old or new, None
    if rules is not None and not rules.values.keys().isdisjoint((_FULL, _SLIDING)):
        by_kind = rules
        rules, local = by_kind.nested(_FULL), by_kind.nested(_SLIDING)
        if not family.local_rope and any(windows) and rules is not None and rules != local:
            raise fields.error("rope_parameters", "the same for every layer")
    rope = _rope(fields, family, rules, "rope_theta", head_dim, positions)
    if family.local_rope:
        ropes = rope, _rope(fields, family, local, "rope_local_base_freq", head_dim, positions)
        return ropes, tuple(int(window > 0) for window in windows)
    if family.some_without_rope:
        return (rope, NO_ROPE), tuple(int(not rotated) for rotated in _rotated(fields, len(windows)))
    return (rope,), (0,) * len(windows)


def _rope(fields: Fields, family: Family, rules: Fields | None, base: str, head_dim: int, positions: int) -> Rope:
    """One kind of RoPE. rules: its own object, which wins; base: the field with its base where there is none."""
    theta, part = fields.number(base), fields.number("partial_rotary_factor", 1.0)
    if rules is not None:
        theta = rules.optional_number("rope_theta") or theta
        part = rules.optional_number("partial_rotary_factor") or part
    width = int(head_dim * part)
    if width % 2 or not 2 <= width <= head_dim:
        raise fields.error("partial_rotary_factor", f"a part of {head_dim} dimensions that gives an even number")
    if width != head_dim and "partial_rotary_factor" not in family.defaults:
        raise fields.error("partial_rotary_factor", "1: this architecture rotates whole heads")
    original = fields.optional_integer("original_max_position_embeddings")
    return read_rope(rules, RopeShape(width, theta, positions), original, family.rope_aliases)


def _rotated(fields: Fields, layers: int) -> list[bool]:
    """Which layers rotate their queries and keys."""
    given, interval = fields.get("no_rope_layers"), fields.integer("no_rope_layer_interval")  # 1: the layer does rotate
    if given is None:
        return [(layer + 1) % interval != 0 for layer in range(layers)]
    if not isinstance(given, list) or len(given) != layers or not all(x in (0, 1) for x in given):
        raise fields.error("no_rope_layers", f"{layers} of 0 or 1")
    return [bool(each) for each in given]
