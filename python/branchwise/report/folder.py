"""A folder of results: a file for every cell, which is a strategy with its options and a seed, on all problems.

All files of a folder share what is common to a run: models, sampling, limits. Each is locked while it is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from branchwise.errors import ResultsError
from branchwise.report.lines import Lines, parse, read
from branchwise.report.record import Header
from branchwise.report.results_file import FORMAT, HEADER, ResultsFile
from branchwise.shapes import misfit

SUFFIX, RESCUED = ".jsonl", ".rescued-"
OWN = ("strategy", "options", "source", "seed")
"""Settings of one cell; all others are common to the folder."""
_LONGEST = 120  # characters of a file's name


class ResultsFolder:
    """The results of a run, to be gone on with. ResultsError: it is no folder, or holds results of other settings.

    common: settings of all cells    about: what else their first lines say
    """

    def __init__(self, path: Path, common: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        self.path = path
        self.files: list[ResultsFile] = []
        self._common: dict[str, Any] = json.loads(json.dumps(dict(common)))  # as it comes back from a file
        self._about = about
        try:
            self._is_new = not path.exists()
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise ResultsError(f"{path}: {error.strerror}: results go into a folder; choose another --out") from error
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def open(self, name: str, own: Mapping[str, Any], label: str) -> ResultsFile:
        """The file of a cell. ResultsError as for any results file. label: the strategy, in words"""
        about = {**self._about, "label": label}
        file = ResultsFile(self.path / f"{name}{SUFFIX}", {**self._common, **own}, about)
        self.files.append(file)
        return file

    def close(self) -> None:
        """Close all files; a folder that was made here and holds nothing goes."""
        for file in self.files:
            file.close()
        if self._is_new and self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()

    def __enter__(self) -> ResultsFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _check(self) -> None:
        """Results of other cells were written with the same common settings, or all of them failed."""
        for path in result_paths(self.path):
            header = _header(path)
            if header is None:
                continue
            theirs = {name: value for name, value in header["settings"].items() if name not in OWN}
            name = next((each for each in {**self._common, **theirs} if theirs.get(each) != self._common.get(each)), "")
            if name and any(record.get("error") is None for record in _records(path).values()):
                raise ResultsError(
                    f"{path} was written with {name}={_show(theirs.get(name))}, this run has"
                    f" {name}={_show(self._common.get(name))}: use the same settings to go on in this folder, or choose"
                    " another --out"
                )


def file_name(strategy: str, n: int | None, options: Mapping[str, Any], seed: int) -> str:
    """That of a cell, without its suffix: "beam-n16-lookahead=2-seed0"."""
    words = [strategy, *([] if n is None else [f"n{n}"]), *(f"{name}={value}" for name, value in options.items())]
    return re.sub(r"[^\w.=+-]", "_", "-".join(words))[:_LONGEST] + f"-seed{seed}"


def result_paths(folder: Path) -> list[Path]:
    """The results files of a folder, by name; those that were rescued are for their owner to put in place."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if RESCUED not in path.name and path.is_file())


def read_cells(folder: Path) -> Iterator[tuple[str, Header, Lines]]:
    """Name, first line and records of every cell of a folder, also while a run writes it.

    ResultsError: there is none, or a line is damaged.
    """
    if not folder.is_dir():
        raise ResultsError(f"{folder} is no folder: name one that branchwise eval has written")
    headers = {path: header for path in result_paths(folder) if (header := _header(path)) is not None}
    if not headers:
        raise ResultsError(f"{folder} holds no results: name a folder that branchwise eval has written")
    for path, header in headers.items():
        yield path.stem, header, _records(path)


def _header(path: Path) -> Header | None:
    """The first line of a results file; None: there is none yet, or it is another kind of file."""
    with _opened(path) as file:
        header = parse(file.readline())
    if header is None or HEADER not in header:
        return None
    if header[HEADER] != FORMAT:
        raise ResultsError(f"{path} has format {header[HEADER]}, this version has {FORMAT}: choose another folder")
    wrong = misfit(header, Header)
    if wrong:
        raise ResultsError(f"{path}: its first line is none of this version ({wrong}); remove that file")
    return cast(Header, header)


def _records(path: Path) -> Lines:
    """The results of a file, without a last line that is not whole."""
    records = Lines()
    with _opened(path) as file:
        for number, text in enumerate(file, start=1):
            if number == 1 or not text.endswith(b"\n"):
                continue
            record, why = read(text)
            if record is None:
                raise ResultsError(f"{path}, line {number}: not a result of this version ({why}); remove that line")
            records.put(record)
    return records


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror}") from error


def _show(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
