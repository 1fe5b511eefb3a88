"""Opening what must be an ordinary file: a pipe would wait for ever, a device might never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from branchwise.errors import CheckpointError

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
_KINDS |= {stat.S_IFDIR: "a folder"}


def open_regular(path: Path) -> BinaryIO:
    """Open an ordinary file to read its bytes. CheckpointError: it is of another kind. OSError: it cannot be opened."""
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind != stat.S_IFREG:
        raise CheckpointError(f"{path} is {_KINDS.get(kind, 'no ordinary file')}, expected an ordinary file")
    return path.open("rb")
