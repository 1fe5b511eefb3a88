"""RoPE: the frequencies of a checkpoint, by whatever scaling rule it was trained with, and tables of their angles.

Rules, their names and defaults are those of transformers (`modeling_rope_utils`). Where frequencies depend on how long
a text is (`dynamic`, `longrope`), they are those of texts up to the length that the model was first trained for, and
the context ends there: keys in the cache were rotated with them, and could not follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from branchwise.backend.base import Backend
from branchwise.errors import CheckpointError
from branchwise.models.fields import Fields

_FIRST_ROWS = 1024  # positions of a table that are filled at once, at least


@dataclass(frozen=True, slots=True)
class Rope:
    """How the queries and keys of some layers are rotated.

    frequencies: radians a position of every rotated pair, fp32; fewer than half a head: the other pairs stay
    amplitude: of cosines and sines    context: positions that the frequencies hold for, None: all
    """

    frequencies: tuple[float, ...]
    amplitude: float = 1.0
    context: int | None = None


NO_ROPE = Rope(())


@dataclass(frozen=True, slots=True)
class RopeShape:
    """What the rules need to know beside their own fields: rotated dimensions, base, and the context of the config."""

    width: int
    theta: float
    max_positions: int

    def plain(self) -> Tensor:
        """Frequencies without any scaling: [width / 2] fp32."""
        return 1.0 / (self.theta ** (torch.arange(0, self.width, 2, dtype=torch.int64).float() / self.width))


Rule = Callable[[Fields, RopeShape, int], Rope]
"""(fields of the rule, shape, context that the model was first trained for)."""


def read_rope(fields: Fields | None, shape: RopeShape, original: int | None, aliases: Mapping[str, str]) -> Rope:
    """The rule that a config asks for. original: `original_max_position_embeddings` beside the rule, which wins.

    aliases: other names that a family's configs have for rules. CheckpointError: an unknown rule, a wrong field.
    """
    if fields is None:
        return _rope(shape.plain())
    kind = fields.text("rope_type") or fields.text("type") or "default"
    rule = RULES.get(aliases.get(kind, kind))
    if rule is None:
        raise fields.error("rope_type" if fields.get("rope_type") else "type", f"one of {', '.join(RULES)}")
    context = original or fields.optional_integer("original_max_position_embeddings") or shape.max_positions
    return rule(fields, shape, context)


def _rope(frequencies: Tensor, amplitude: float = 1.0, context: int | None = None) -> Rope:
    return Rope(tuple(frequencies.tolist()), amplitude, context)


def _default(fields: Fields, shape: RopeShape, original: int) -> Rope:
    return _rope(shape.plain())


def _linear(fields: Fields, shape: RopeShape, original: int) -> Rope:
    return _rope(shape.plain() / fields.number("factor"))


def _dynamic(fields: Fields, shape: RopeShape, original: int) -> Rope:
    """NTK-aware: the base grows with a text that is longer than the context, and only then."""
    fields.number("factor")
    return _rope(shape.plain(), context=shape.max_positions)


def _llama3(fields: Fields, shape: RopeShape, original: int) -> Rope:
    """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between blended."""
    factor = fields.number("factor")
    low, high = fields.number("low_freq_factor"), fields.number("high_freq_factor")
    if high <= low:
        raise fields.error("high_freq_factor", f"a number above low_freq_factor, {low:g}")
    frequencies = shape.plain()
    wavelengths = 2 * math.pi / frequencies
    smooth = (original / wavelengths - low) / (high - low)
    blended = (1 - smooth) * frequencies / factor + smooth * frequencies
    stretched = torch.where(wavelengths > original / low, frequencies / factor, frequencies)
    between = (wavelengths >= original / high) & (wavelengths <= original / low)
    return _rope(torch.where(between, blended, stretched))


def _yarn(fields: Fields, shape: RopeShape, original: int) -> Rope:
    """YaRN (Peng et al. 2023): as Llama 3, but by dimension, and attention is sharpened with the stretch."""
    factor = fields.optional_number("factor") or shape.max_positions / original
    amplitude = fields.optional_number("attention_factor")
    if amplitude is None:
        scale, all_dims = fields.optional_number("mscale"), fields.optional_number("mscale_all_dim")
        amplitude = _mscale(factor, scale) / _mscale(factor, all_dims) if scale and all_dims else _mscale(factor, 1.0)
    fast, slow = fields.number("beta_fast", 32.0), fields.number("beta_slow", 1.0)
    low, high = (_turns_at(turns, shape, original) for turns in (fast, slow))
    if fields.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, shape.width - 1)
    high += 0.001 if low == high else 0
    stretched = torch.clamp((torch.arange(shape.width // 2, dtype=torch.float32) - low) / (high - low), 0, 1)
    kept = 1 - stretched
    wide = shape.theta ** (torch.arange(0, shape.width, 2).float() / shape.width)
    return _rope(1.0 / (factor * wide) * (1 - kept) + 1.0 / wide * kept, amplitude)


def _mscale(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _turns_at(turns: float, shape: RopeShape, original: int) -> float:
    """The dimension whose angle makes so many turns over the original context."""
    if shape.theta == 1.0:
        raise CheckpointError(f"a RoPE base of {shape.theta:g} cannot be scaled by YaRN: expected one above 1")
    return shape.width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(shape.theta))


def _longrope(fields: Fields, shape: RopeShape, original: int) -> Rope:
    """LongRoPE (Ding et al. 2024): a stretch for every dimension; `long_factor` is for longer texts than we take."""
    stretch = torch.tensor(fields.numbers("short_factor", shape.width // 2), dtype=torch.float32)
    fields.numbers("long_factor", shape.width // 2)
    factor = fields.optional_number("factor") or shape.max_positions / original
    amplitude = fields.optional_number("attention_factor")
    if amplitude is None:
        amplitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
    wide = shape.theta ** (torch.arange(0, shape.width, 2, dtype=torch.int64).float() / shape.width)
    return _rope(1.0 / (stretch * wide), amplitude, original)


RULES: dict[str, Rule] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
}
"""Scaling rules by the name in `rope_type`."""


class RopeTables:
    """Cosines and sines of every kind of layer, filled as far as somebody has got: most contexts are never used up.

    The memory of a table never moves, for recorded passes hold on to it.
    """

    def __init__(self, ropes: tuple[Rope, ...], head_dim: int, max_positions: int, backend: Backend) -> None:
        self._ropes = ropes
        self._half = head_dim // 2
        self._max_positions = max_positions
        self._backend = backend
        self._rooms: list[list[tuple[Tensor, Tensor]]] = []  # the last one is in use, others by passes recorded earlier
        self._covered = 0

    def __getitem__(self, kind: int) -> tuple[Tensor, Tensor]:
        """(cosines, sines) of the layers of a kind: [positions, head_dim / 2] fp32 each."""
        return self._rooms[-1][kind]

    def tensors(self) -> list[Tensor]:
        """All tables."""
        return [table for pair in self._rooms[-1] for table in pair]

    def reserve(self, positions: int) -> None:
        """Make room for positions [0, n), or as many as the context has, without filling it."""
        positions = min(positions, self._max_positions)
        if not self._rooms or positions > len(self._rooms[-1][0][0]):
            table = partial(self._backend.table, positions, self._half)
            self._rooms.append([(table(), table()) for _ in self._ropes])
            covered, self._covered = self._covered, 0
            self.cover(covered)

    def cover(self, positions: int) -> None:
        """Fill what the positions [0, n) need, all of which are in the context: before any pass over them."""
        if positions <= self._covered:
            return
        self.reserve(positions)
        end = max(positions, 2 * self._covered, _FIRST_ROWS)
        for room in self._rooms:
            last = min(end, len(room[0][0]))
            if self._covered < last:
                for rope, tables in zip(self._ropes, room, strict=True):
                    self._fill(rope, tables, self._covered, last)
        self._covered = end

    def _fill(self, rope: Rope, tables: tuple[Tensor, Tensor], begin: int, end: int) -> None:
        places = torch.arange(begin, end, dtype=torch.int64).float()
        angles = torch.outer(places, torch.tensor(rope.frequencies, dtype=torch.float32))
        still = self._half - len(rope.frequencies)
        for table, values, rest in zip(tables, (angles.cos(), angles.sin()), (1.0, 0.0), strict=True):
            whole = torch.nn.functional.pad(values * rope.amplitude, (0, still), value=rest)
            table[begin:end] = self._backend.tensor(whole)
