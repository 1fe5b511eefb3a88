"""The one place where commands make an engine, and learn which models it has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from branchwise.cli.options import SearchOptions
from branchwise.cli.output import make_console, say
from branchwise.cli.policy import sampling_notes
from branchwise.errors import ConfigError

if TYPE_CHECKING:
    from branchwise.api import Engine


def open_engine(options: SearchOptions) -> Engine:
    """Load the models that the options name, with a line on stderr while that lasts."""
    console = make_console(stderr=True)
    with console.status("loading models"):
        from branchwise.api import Engine

        try:
            from branchwise import _C  # after torch, whose OpenMP runtime it shares

            _C.isa()
        except ValueError as error:  # of BRANCHWISE_CPU_ISA, before the first kernel meets it
            raise ConfigError(str(error)) from error
        engine = Engine(
            options.policy, options.prm, judge=[each.judge for each in options.own_judges()] or None,
            judge_rule=options.judge_rule, instruction=options.instruction, config=options.engine_config(),
        )  # fmt: skip
    for note in (*engine.resolved.notes, *sampling_notes(engine.recommended, engine.config)):
        say(console, f"note: {note}", "dim")
    return engine


def identity(source: str) -> tuple[str, str]:
    """A model by its content, and where it was found: a path, or a hub id with its commit. CheckpointError as usual."""
    from branchwise.weights import open_checkpoint
    from branchwise.weights.identity import identity

    checkpoint = open_checkpoint(source)
    place = source if Path(source).expanduser().exists() else f"{source}@{checkpoint.files()[0].parent.name}"
    return identity(checkpoint), place


def resolved(engine: Engine) -> dict[str, str]:
    """What else results depend on: the device, the kernels that run there, type and form of weights.

    Those of the PRM, too, where they are others.
    """
    made = engine.resolved
    policy = {"device": _kind(made.device), "kernels": made.kernels, "dtype": made.dtype}
    prm = {"prm_device": _kind(made.prm_device), "prm_kernels": made.prm_kernels, "prm_dtype": made.prm_dtype}
    own = prm if list(prm.values()) != list(policy.values()) else {}
    return {**policy, **own, "weights": made.weights, "date": made.date}


def _kind(device: str) -> str:
    """Any GPU of the same kernels will do."""
    return device.partition(":")[0]
