"""`eval` over the scripted engine in a process that dies in the middle of a write: the one of a number, counted from 0.

python killed.py WRITE WORDS...
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from branchwise.cli import main, models
    from branchwise.report import journal
    from cli.fake_engine import FakeEngine

    write, count = journal._write, itertools.count()

    def dying(fd: int, data: bytes) -> None:
        if next(count) == int(sys.argv[1]):
            os.write(fd, data[: len(data) * 2 // 3])
            os.kill(os.getpid(), signal.SIGKILL)
        write(fd, data)

    journal._write = dying
    models.open_engine = FakeEngine().open
    models.resolved = lambda engine: {"kernels": "avx2"}
    sys.exit(main(sys.argv[2:]))
