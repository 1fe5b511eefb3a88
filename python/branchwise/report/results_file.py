"""Results of a long run, one JSON line each, that survive crashes, full disks, interruptions and careless hands.

The first line holds the settings of the run, and what they came to once its models were open. `append` returns when its
line is on the disk; a line that a crash tore off is repaired when the file is opened again.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from branchwise.errors import ResultsError
from branchwise.report.journal import Changed, Journal
from branchwise.report.lines import Lines, line, parse, read
from branchwise.report.record import Record
from branchwise.signals import Delay

HEADER = "branchwise_results"  # key of the header line: the version of the format
FORMAT = 3


class ResultsFile:
    """An open results file: `done` holds the records of earlier runs by id, `notes` what was repaired.

    Opening creates the file, or continues one of the same settings. ResultsError: another process writes it, it is no
    results file, a line in it is damaged, or its settings differ. Nothing is changed in a file that is refused. A file
    without results, or with failures alone, is bound to no settings.

    about: what else the first line says, and may differ
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.done = Lines()
        self.notes: list[str] = []
        self._header: dict[str, Any] = {HEADER: FORMAT, "settings": dict(settings), **(about or {})}
        self._begun = False  # the header is there, and is ours
        try:
            self._journal = Journal(path)
        except OSError as error:
            if isinstance(error, ResultsError):
                raise
            raise ResultsError(
                f"cannot open the results file {path}: {error.strerror}; choose another --out"
            ) from error
        try:
            self._resume()
        except BaseException:
            self._journal.close()
            raise

    @property
    def header(self) -> dict[str, Any]:
        """The first line: `settings`, and after `begin` the `resolved` ones."""
        return self._header

    def begin(self, resolved: Mapping[str, Any]) -> None:
        """Before the first result of a run: what its settings came to when the models were open.

        ResultsError: the results that are there come from others, or the file cannot be written.
        """
        if self.done:
            self._compare(self._header["resolved"], resolved)
        else:
            self._header["resolved"] = dict(resolved)
            self._write(line(self._header), replace=True)
        self._begun = True

    def append(self, record: Record) -> None:
        """Write one result, which has a new `id`, and wait until it is on the disk.

        ResultsError when it cannot be written: all results before it are safe. Where somebody else removed or changed
        the file, it and all before it are in a new one, which the error names.
        """
        assert self._begun, "append before begin"
        assert record["id"] not in self.done, f"{record['id']!r} is done already"
        with Delay():
            self._write(line(record), record)
            self.done.put(record)

    def drop(self, ids: Collection[str]) -> None:
        """Forget some results, so that they can come again. ResultsError: all are still there."""
        if ids:
            kept = Lines(record for id_, record in self.done.items() if id_ not in ids)
            self._write(self._whole(kept), replace=True)
            self.done = kept

    def check(self) -> None:
        """Raise ResultsError when somebody else removed or changed the file; its results are in a new one."""
        self._write(b"")

    def close(self) -> None:
        """Close the file and let others write it; again, it does nothing."""
        self._journal.close()

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- reading -----------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Read what is there, and repair the end if it was torn off."""
        content = self._journal.read()
        length = content.rfind(b"\n") + 1
        whole, torn = content[:length], content[length:]
        header = self._parse_header(whole[: whole.find(b"\n")]) if whole else None
        if header is None and torn and not torn.startswith(f'{{"{HEADER}"'.encode()[: len(torn)]):
            raise self._foreign()
        for number, text in enumerate(whole[:-1].split(b"\n")[1:], start=2):
            self._take(text, number)
        is_whole = header is not None and torn != b"" and parse(torn) is not None
        if is_whole:
            self._take(torn, len(self.done) + 2)
        if header is not None and self.done:
            self._adopt(header)
        if is_whole:
            self._write(b"\n")
        elif torn:
            self._journal.cut(length)
            self.notes.append(f"{self.path}: its last line was torn off ({len(torn)} bytes) and has been removed")

    def _adopt(self, header: dict[str, Any]) -> None:
        """Go on with what is there; where all of it failed, other settings may do better and start anew."""
        try:
            self._compare(header["settings"], self._header["settings"])
        except ResultsError:
            if any(record.get("error") is None for record in self.done.values()):
                raise
            self.done = Lines()
        else:
            self._header = header

    def _parse_header(self, text: bytes) -> dict[str, Any]:
        header = parse(text)
        if header is None or HEADER not in header or not isinstance(header.get("settings"), dict):
            raise self._foreign()
        if header[HEADER] != FORMAT or not isinstance(header.get("resolved"), dict):
            raise ResultsError(
                f"{self.path} has format {header[HEADER]}, this version writes {FORMAT}: choose another --out"
            )
        return header

    def _compare(self, before: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(dict(settings)))
        for name in [*now, *(name for name in before if name not in now)]:
            if before.get(name) != now.get(name):
                raise ResultsError(
                    f"{self.path} was written with {name}={_show(before.get(name))}, this run has"
                    f" {name}={_show(now.get(name))}: use the same settings to go on with it, or choose another --out"
                )

    def _take(self, text: bytes, number: int) -> None:
        record, why = read(text)
        if record is None:
            raise ResultsError(
                f"{self.path}, line {number}: not a result of this version ({why}); remove that line or choose another"
                " --out"
            )
        if record["id"] in self.done:
            raise ResultsError(f"{self.path}, line {number}: a second result of {record['id']!r}; remove one of them")
        self.done.put(record)

    def _foreign(self) -> ResultsError:
        return ResultsError(f"{self.path} exists and is no results file of branchwise: choose another --out")

    # --- writing -----------------------------------------------------------------------------------------------

    def _write(self, data: bytes, record: Record | None = None, *, replace: bool = False) -> None:
        """Append `data`, which holds `record`, or put it in the place of all there is."""
        try:
            if not data:
                self._journal.check()
            elif replace and self._journal.length:
                self._journal.replace(data)
            else:
                self._journal.append(data)
        except Changed as change:
            if record is not None:
                self.done.put(record)
            raise self._rescued(str(change)) from None
        except OSError as error:
            hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "repair that"
            raise ResultsError(
                f"cannot write to {self.path}: {error.strerror}. {len(self.done)} results are safe in it;"
                f" {hint} and run the same command again to go on"
            ) from error

    def _rescued(self, change: str) -> ResultsError:
        """Save what is known of a file that is lost; the error that says where."""
        what = f"{self.path} {change} while it was being written, so the run has stopped."
        if not self.done:
            return ResultsError(f"{what} It held no result yet: run the same command again")
        for folder in dict.fromkeys((self.path.parent, Path(), Path(tempfile.gettempdir()))):
            try:
                fd, name = tempfile.mkstemp(".jsonl", f"{self.path.stem}.rescued-", folder)
                with open(fd, "wb") as file:
                    file.write(self._whole(self.done))
                    file.flush()
                    os.fsync(fd)
            except OSError:
                continue
            return ResultsError(f"{what} All {len(self.done)} results are in {name}: go on by moving it to {self.path}")
        return ResultsError(f"{what} Its {len(self.done)} results could not be written anywhere else and are lost")

    def _whole(self, records: Mapping[str, Record]) -> bytes:
        return b"".join(map(line, (self._header, *records.values())))


def _show(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
