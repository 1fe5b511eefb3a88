"""Results of a long run, one JSON line each, that survive crashes, full disks and interruptions.

The first line holds the settings of the run. `append` returns when its line is on the disk; a line that a crash tore
off is repaired when the file is opened again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from branchwise.errors import ResultsError

HEADER = "branchwise_results"  # key of the header line: the version of the format
FORMAT = 1

Record = dict[str, Any]


class ResultsFile:
    """An open results file: `done` holds the records of earlier runs by id, `notes` what was repaired.

    Opening creates the file, or continues one of the same settings. ResultsError: another process writes it, it is no
    results file, a line in it is damaged, or its settings differ. Nothing is changed in a file that is refused.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.done: dict[str, Record] = {}
        self.notes: list[str] = []
        self._end = 0  # of the last complete line
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ResultsError(
                f"cannot open the results file {path}: {error.strerror}; choose another --out"
            ) from error
        try:
            self._lock()
            self._is_regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
            if self._is_regular:
                self._resume(settings)
            if self._end == 0:
                self._write({HEADER: FORMAT, "settings": dict(settings)})
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, record: Record) -> None:
        """Write one result, which has a new `id`, and wait until it is on the disk.

        ResultsError when it cannot be written: all results before it are safe.
        """
        assert record["id"] not in self.done, f"{record['id']!r} is done already"
        self._write(record)
        self.done[record["id"]] = record

    def close(self) -> None:
        """Close the file and let others write it; again, it does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResultsError(
                f"{self.path} is being written by another run: wait for it, or choose another --out"
            ) from None
        except OSError as error:
            raise ResultsError(f"cannot lock {self.path}: {error.strerror}; choose an --out on a local disk") from error

    def _resume(self, settings: Mapping[str, Any]) -> None:
        """Read what is there, and repair the end if it was torn off."""
        content = self.path.read_bytes()
        whole, torn = content[: content.rfind(b"\n") + 1], content[content.rfind(b"\n") + 1 :]
        if not whole:
            if torn and not torn.startswith(f'{{"{HEADER}"'.encode()[: len(torn)]):
                raise self._foreign()
        else:
            first, *rest = whole[:-1].split(b"\n")
            self._check_header(first, settings)
            for number, line in enumerate(rest, start=2):
                self._take(line, number)
        self._end = len(whole)
        if torn:
            self._repair(torn)

    def _check_header(self, line: bytes, settings: Mapping[str, Any]) -> None:
        header = _parse(line)
        if header is None or HEADER not in header or not isinstance(header.get("settings"), dict):
            raise self._foreign()
        if header[HEADER] != FORMAT:
            raise ResultsError(
                f"{self.path} has format {header[HEADER]}, this version writes {FORMAT}: choose another --out"
            )
        before, now = header["settings"], json.loads(json.dumps(dict(settings)))
        for name in [*now, *(name for name in before if name not in now)]:
            if before.get(name) != now.get(name):
                raise ResultsError(
                    f"{self.path} was written with {name}={_show(before.get(name))}, this run has"
                    f" {name}={_show(now.get(name))}: use the same settings to go on with it, or choose another --out"
                )

    def _take(self, line: bytes, number: int) -> None:
        record = _parse(line)
        if record is None or not isinstance(record.get("id"), str):
            raise ResultsError(f"{self.path}, line {number}: not a result; remove that line or choose another --out")
        if record["id"] in self.done:
            raise ResultsError(f"{self.path}, line {number}: a second result of {record['id']!r}; remove one of them")
        self.done[record["id"]] = record

    def _repair(self, torn: bytes) -> None:
        """End a last line that lacks only its newline; cut one that is incomplete."""
        if self._end and _parse(torn) is not None:
            self._take(torn, len(self.done) + 2)
            self._end += len(torn)
            self._put(b"\n")
            return
        os.ftruncate(self._fd, self._end)
        os.fsync(self._fd)
        self.notes.append(f"{self.path}: its last line was torn off ({len(torn)} bytes) and has been removed")

    def _write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False)
        self._put(line.encode("utf-8", "backslashreplace") + b"\n")

    def _put(self, data: bytes) -> None:
        """Write at the end and wait for the disk. On failure the file is cut back to its last complete line."""
        try:
            if self._is_regular:
                os.lseek(self._fd, self._end, os.SEEK_SET)
            written = 0
            while written < len(data):
                written += os.write(self._fd, data[written:])
            if self._is_regular:
                os.fsync(self._fd)
        except OSError as error:
            self._cut()
            hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "repair that"
            raise ResultsError(
                f"cannot write to {self.path}: {error.strerror}. {len(self.done)} results are safe in it;"
                f" {hint} and run the same command again to go on"
            ) from error
        self._end += len(data)

    def _cut(self) -> None:
        if self._is_regular:
            try:
                os.ftruncate(self._fd, self._end)
            except OSError:
                return  # the torn line is repaired when the file is next opened

    def _foreign(self) -> ResultsError:
        return ResultsError(f"{self.path} exists and is no results file of branchwise: choose another --out")


def _parse(line: bytes) -> Record | None:
    try:
        value = json.loads(line)
    except ValueError:  # of JSON and of UTF-8
        return None
    return value if isinstance(value, dict) else None


def _show(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
