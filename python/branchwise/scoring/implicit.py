"""Implicit PRMs: a step is worth what a trained model finds it likelier than the model that it was trained from.

Both read the same tokens. Values add up: that of a branch is the sum of those of its steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

from branchwise.config import is_number
from branchwise.errors import ConfigError
from branchwise.prm_format import Chat, Layout, Turns

Value = Literal["accumulated", "step"]
IN_CHAT = Chat("Step {number}: {step}\n\n")


@dataclass(frozen=True, slots=True)
class ImplicitJudge:
    """Judges steps by beta x (log p(model) - log p(reference)), as EurusPRM and ImplicitPRM do.

    model      folder, `.gguf` file or hub id of the trained model
    reference  the same of the model that it was trained from, with the same vocabulary
    beta       as in training: 0.001 by their cards
    value      "accumulated": of all steps up to this one; "step": of this one alone
    layout     how problem and steps are written: a `Text`, `Chat` or `Turns` of `branchwise.prm_format`; the blank line
               behind a step counts with it

    A score is the sigmoid of the value, which `raw_reward` of `branchwise.prm_format` gives back; 1/2: both models find
    the step as likely. `Node.scores_by` has the log-probabilities of the branch by either model. Source: Yuan et al.,
    Free Process Rewards without Process Labels, arXiv 2412.01981.
    """

    model: str | Path
    reference: str | Path
    beta: float = 0.001
    value: Value = "accumulated"
    layout: Layout = IN_CHAT

    def __post_init__(self) -> None:
        for name in ("model", "reference"):
            given: Any = getattr(self, name)
            if not isinstance(given, str | Path) or not str(given):
                raise ConfigError(f"{name}={given!r}: expected a folder, a .gguf file or a hub id")
        if not is_number(Real, self.beta) or not 0 < self.beta <= 1000:
            raise ConfigError(f"beta={self.beta!r}: expected more than 0 to 1000")
        if self.value not in get_args(Value):
            raise ConfigError(f"value={self.value!r}: expected one of {', '.join(get_args(Value))}")
        if not isinstance(self.layout, Layout):
            raise ConfigError(f"layout={self.layout!r}: expected a Text, Chat or Turns of branchwise.prm_format")
        if not isinstance(self.layout, Turns) and (self.layout.last is not None or self.layout.checks):
            raise ConfigError(
                f"layout={self.layout!r}: expected no `last` or `checks`, as steps are read as they are written"
            )

    @property
    def name(self) -> str:
        return "implicit"
