"""The one place where commands make an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from branchwise.cli.options import SearchOptions
from branchwise.cli.output import make_console
from branchwise.errors import ConfigError

if TYPE_CHECKING:
    from branchwise.api import Engine


def open_engine(options: SearchOptions) -> Engine:
    """Load the models that the options name, with a line on stderr while that lasts."""
    with make_console(stderr=True).status("loading models"):
        from branchwise.api import Engine

        try:
            from branchwise import _C  # after torch, whose OpenMP runtime it shares

            _C.isa()
        except ValueError as error:  # of BRANCHWISE_CPU_ISA, before the first kernel meets it
            raise ConfigError(str(error)) from error
        return Engine(options.policy, options.prm, instruction=options.instruction, config=options.engine_config())
