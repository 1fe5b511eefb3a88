"""Fields of a config, each of the type and range that it must have; what is never read must not matter either."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from branchwise.errors import CheckpointError

MOST = (1 << 31) - 1  # of an integer: positions and counts are 32-bit numbers further down

# Names of what changes the arithmetic of some decoder. One that nobody read must have a value that changes nothing.
_MATTERS = re.compile(
    r".*(multiplier|softcap|temperature_tuning|pre_attn|qk_(layer)?norm|clip_qkv|rope|rotary|alibi|logn|expert|moe\b"
    r"|moe_|lora_rank|mup_|mamba|ssm|kv_shared|altup|laurel|per_layer|bidirectional|parallel_(attn|residual)|sinks?\b"
    r"|chunk_size\b|cross_attention).*|sliding_window|layer_types|scale_(emb|depth)|dim_model_base|logits?_scal\w*"
    r"|(embedding|residual|attention)_scal\w*|quantization_config|position_embedding_type"
)
_HARMLESS = re.compile(r"max_position_embeddings|chunk_size_feed_forward|.*(aux_loss|loss_coef|router_jitter).*")
_NEUTRAL: tuple[Any, ...] = (None, False, 0, 1, "", [], {}, "rope", "rotary")


class Fields:
    """Typed look-ups in an object of config.json. Every method raises CheckpointError, naming the field.

    A field that is absent, or null where null has no meaning, has the default of the family.
    """

    def __init__(
        self, values: Mapping[str, Any], source: str, defaults: Mapping[str, Any] | None = None, path: str = ""
    ) -> None:
        self.values = {**(defaults or {}), **values}
        self.source = source
        self.path = path
        self._defaults = defaults or {}
        self._read: set[str] = set()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self.values == other.values

    __hash__ = None  # type: ignore[assignment]

    def error(self, name: str, expected: str) -> CheckpointError:
        """The error for a field that is not as it must be."""
        given = repr(self.values.get(name))
        given = given if len(given) <= 80 else given[:77] + "..."
        return CheckpointError(f"{self.source}: config field {self.path + name!r} is {given}; expected {expected}")

    def get(self, name: str) -> Any:
        """The value as it is; None: absent or null."""
        self._read.add(name)
        return self.values.get(name)

    def integer(self, name: str, default: int | None = None, least: int = 1, most: int = MOST) -> int:
        """An integer in [least, most]."""
        value = self.get(name)
        value = self._defaults.get(name, default) if value is None else value
        if type(value) is not int or not least <= value <= most:
            kind = "a positive integer" if (least, most) == (1, MOST) else f"an integer from {least} to {most}"
            raise self.error(name, kind)
        return value

    def optional_integer(self, name: str, least: int = 1) -> int | None:
        """An integer; null is none, whatever the family's default."""
        return None if self.get(name) is None else self.integer(name, least=least)

    def number(self, name: str, default: float | None = None, least: float = 0.0) -> float:
        """A finite number above `least`."""
        value = self.get(name)
        value = self._defaults.get(name, default) if value is None else value
        if not _is_number(value) or not value > least:
            raise self.error(name, f"a number above {least:g}")
        return float(value)

    def optional_number(self, name: str) -> float | None:
        """A positive number; null is none, whatever the family's default."""
        return None if self.get(name) is None else self.number(name)

    def numbers(self, name: str, count: int) -> list[float]:
        """So many positive numbers."""
        value = self.get(name)
        if not isinstance(value, list) or len(value) != count or not all(_is_number(x) and x > 0 for x in value):
            raise self.error(name, f"{count} positive numbers")
        return [float(x) for x in value]

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.get(name)
        value = self._defaults.get(name, default) if value is None else value
        if type(value) is not bool:
            raise self.error(name, "true or false")
        return value

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        value = self.get(name)
        value = self._defaults.get(name, default) if value is None else value
        if not isinstance(value, str):
            raise self.error(name, "a string")
        return value

    def nested(self, name: str) -> Fields | None:
        """An object of its own; None: absent, null or empty."""
        value = self.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.error(name, "an object")
        return Fields(value, self.source, path=f"{self.path}{name}.") if value else None

    def check_rest(self, model_type: str) -> None:
        """Fields that nobody read do not change the arithmetic."""
        for name in sorted(set(self.values) - self._read):
            if not _MATTERS.fullmatch(name) or _HARMLESS.fullmatch(name) or self._is_neutral(name):
                continue
            if name == "quantization_config":
                raise self.error(name, "none: take the unquantised model, or a GGUF file")
            if re.search("expert|moe", name):
                raise self.error(name, "none: mixtures of experts are not supported")
            raise self.error(name, f"no such field in a {model_type} decoder: what it asks for is not supported")

    def _is_neutral(self, name: str) -> bool:
        value = self.values[name]
        if name == "layer_types" and isinstance(value, list):
            return all(kind == "full_attention" for kind in value)
        return value is not True and any(value == neutral for neutral in _NEUTRAL)


def _is_number(value: Any) -> bool:
    if type(value) not in (int, float):
        return False
    try:
        return math.isfinite(value) and abs(float(value)) < 1e30
    except OverflowError:  # an integer beyond every float
        return False
