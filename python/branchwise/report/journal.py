"""A file of lines that one process alone appends to: locked, on the disk when `append` returns, watched for changes.

It only ever grows while it is open, so whatever else is found there (a missing path, another file, another length,
other bytes) was done by somebody else, and `Changed` says so before anything is written on top.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from branchwise.errors import ResultsError


class Changed(Exception):
    """Somebody else removed, replaced or wrote the file; the message says which, as the end of a sentence."""


class Journal:
    """An open file. OSError and ResultsError: it cannot be opened, or another process writes it.

    What is no regular file, such as a pipe or /dev/null, is written, never read, and not watched.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd, self._is_new = _open(path)
        self.is_regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._forget()

    def read(self) -> bytes:
        """All that is there, from which on it is watched."""
        self._forget()
        if not self.is_regular:
            return b""
        content = _content(self._fd)
        self._count(content)
        return content

    def append(self, data: bytes) -> None:
        """Write at the end and wait for the disk. OSError: it is as it was before. Changed: see there."""
        self.check()
        try:
            _write(self._fd, data)
            if self.is_regular:
                os.fsync(self._fd)
        except OSError:
            with suppress(OSError):  # else the torn line is repaired when the file is next opened
                os.ftruncate(self._fd, self.length)
            self._written_at = os.fstat(self._fd).st_mtime_ns
            raise
        self._count(data)

    def cut(self, length: int) -> None:
        """Keep the first bytes only."""
        if self.is_regular and length != self.length:
            os.ftruncate(self._fd, length)
            os.fsync(self._fd)
            self.read()

    def replace(self, data: bytes) -> None:
        """Put other content in its place, at once or not at all."""
        target = Path(os.path.realpath(self.path))
        temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(fd, stat.S_IMODE(os.fstat(self._fd).st_mode))
            _write(fd, data)
            os.fsync(fd)
            self.check()
            os.replace(temporary, target)
        except BaseException:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd = fd
        self._forget()
        self._count(data)

    def check(self) -> None:
        """Raise Changed unless the path still names this file, with what was written to it and nothing else."""
        if not self.is_regular:
            return
        now, there = os.fstat(self._fd), _stat(self.path)
        if there is None:
            raise Changed("was removed or renamed")
        if not os.path.samestat(now, there):
            raise Changed("was replaced by another file")
        if now.st_size != self.length:
            what = "was truncated" if now.st_size < self.length else "was written by another program"
            raise Changed(f"{what} ({now.st_size} bytes instead of {self.length})")
        if now.st_mtime_ns != self._written_at:
            if blake2b(_content(self._fd)).digest() != self._digest.digest():
                raise Changed("was changed by another program")
            self._written_at = now.st_mtime_ns

    def close(self) -> None:
        """Let others write it; a file that was made here and holds nothing goes. Again, it does nothing."""
        if self._fd < 0:
            return
        there = _stat(self.path)
        if self._is_new and self.length == 0 and there is not None and os.path.samestat(there, os.fstat(self._fd)):
            self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1

    def _forget(self) -> None:
        self.length, self._digest, self._written_at = 0, blake2b(), os.fstat(self._fd).st_mtime_ns

    def _count(self, data: bytes) -> None:
        self.length += len(data)
        self._digest.update(data)
        self._written_at = os.fstat(self._fd).st_mtime_ns


def _open(path: Path) -> tuple[int, bool]:
    """The file, locked if it can be continued, and whether it was made just now."""
    there = _stat(path)
    if there is not None and not stat.S_ISREG(there.st_mode):
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # a pipe that nobody reads is refused, not waited for
        os.set_blocking(fd, True)
        return fd, False
    while True:
        is_new, flags = False, os.O_RDWR | os.O_CREAT | os.O_APPEND
        try:
            fd, is_new = os.open(path, flags | os.O_EXCL, 0o644), True
        except FileExistsError:
            fd = os.open(path, flags, 0o644)
        try:
            _lock(fd, path)
            now = _stat(path)
            if now is not None and os.path.samestat(now, os.fstat(fd)):
                return fd, is_new
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # it was replaced before it was locked


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ResultsError(f"{path} is being written by another run: wait for it, or choose another --out") from None
    except OSError as error:
        raise ResultsError(f"cannot lock {path}: {error.strerror}; choose an --out on a local disk") from error


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _content(fd: int) -> bytes:
    parts, at = [], 0
    while part := os.pread(fd, 1 << 24, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
