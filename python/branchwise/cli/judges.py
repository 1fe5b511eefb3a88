"""Judges as the command line names them: functions, objects and classes of a user's file, and value heads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from branchwise.cli.from_file import load, names_file
from branchwise.errors import BranchwiseError, ConfigError

if TYPE_CHECKING:
    from branchwise.pair.judges import OwnJudge

EXAMPLE = "my.py:checker"


@dataclass(frozen=True, slots=True)
class FileJudge:
    """A judge of a file. source: digest of the file"""

    judge: OwnJudge
    source: str

    @property
    def identity(self) -> str:
        """What it is, wherever its file lies."""
        return f"{self.judge.name} {self.source}"


def load_judges(places: Sequence[str], rule: str | None, prm: str | None) -> list[FileJudge]:
    """The judges of places in files. ConfigError: one cannot judge, or the rule does not fit them and the PRM."""
    if not places and rule is None:
        return []
    from branchwise.pair.judges import check_rule

    made = [_load_judge(place) for place in places]
    try:
        check_rule([*([] if prm is None else [prm]), *made], rule)
    except ConfigError as error:
        words = re.sub("judge_rule=(?=,)", "--judge-rule", str(error)).replace("judge_rule=", "--judge-rule ")
        raise ConfigError(f"{words} (judges are --prm and every --judge)") from None
    return made


def _load_judge(place: str) -> FileJudge:
    """The judge of one place: made, where it is a class."""
    from branchwise.pair.judges import is_head, own_judge

    if is_head(place):
        return FileJudge(own_judge(place), blake2b(Path(place).read_bytes(), digest_size=6).hexdigest())
    if not names_file(place):
        raise ConfigError(
            f"--judge {place}: expected a judge of a file, as in {EXAMPLE}; a model is named with --prm,"
            " a value head ends in .safetensors"
        )
    found, source = load(place, "--judge", EXAMPLE)
    try:
        return FileJudge(own_judge(_made(found, place)), source)
    except ConfigError as error:
        raise ConfigError(f"--judge {place}: {error}") from None


def _made(found: Any, place: str) -> Any:
    if not isinstance(found, type):
        return found
    try:
        return found()
    except BranchwiseError:
        raise
    except Exception as error:
        name = found.__name__
        raise ConfigError(
            f"{name}() raised {type(error).__name__}: {error}; make one in the file, as in judge = {name}(...), and"
            f" name that, as in {place.rpartition(':')[0]}:judge"
        ) from error
