"""The environment variables branchwise reads: one table, parsed strictly, shown by `branchwise doctor`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from branchwise.config import check_threads
from branchwise.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable: its name, what values it takes and what it means."""

    name: str
    values: str
    default: str
    meaning: str


VARIABLES = (
    Variable("BRANCHWISE_CPU_ISA", "generic|avx2|avx512|avx512_bf16|amx", "best", "force one set of CPU kernels"),
    Variable("BRANCHWISE_THREADS", "integer >= 1", "physical cores", "threads of every parallel region"),
)


def threads() -> int | None:
    """Value of BRANCHWISE_THREADS, `None` when unset. Raises ConfigError when it is no count that could work."""
    text = os.environ.get("BRANCHWISE_THREADS", "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or int(text[:19]) < 1:
        raise ConfigError(f"BRANCHWISE_THREADS={text!r}: expected an integer of at least 1; unset it or set one")
    check_threads("BRANCHWISE_THREADS", int(text[:19]))
    return int(text)
