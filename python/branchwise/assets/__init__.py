"""The bundled models: two small arithmetic policies, their process reward model, and held-out problems."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from branchwise.errors import ConfigError

NAMES = ("policy-small", "policy-large", "prm", "problems.jsonl", "calibration.json")


def asset_path(name: str) -> Path:
    """Where a bundled asset lies on disk: a model folder (`policy-small`, `policy-large`, `prm`), `problems.jsonl` or
    `calibration.json`, which says how right the small policy's answers are where the PRM judges them.

    The files are used in place, so the package must be installed unpacked, as wheels are. Raises ConfigError for
    another name.
    """
    if name not in NAMES:
        raise ConfigError(f"no bundled asset is called {name!r}; there are {', '.join(NAMES)}")
    return Path(str(files(__name__))) / name
